"""Nearest class mean: the class whose mean feature is nearest, without the text; nothing is trained.

Take it where there is no text and nothing may be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.confidence import Scaling
from ...core.contracts import Adapter, Batch, FeatureSet, FitReport, option
from ...core.metrics import row_weights, units_of
from .linear_probe import NEVER, never_predicted

DEFAULT_SCALE = 100.0  # CLIP's
SCALED_ON = 2**20
"""Scores at most that the scale of the logits is fitted on."""
MOST_FOLDS = 20
"""Of whole groups, where the support has groups."""
TINY = 1e-12


@dataclass(eq=False, kw_only=True)
class NearestMean(Adapter):
    """Prototypical Networks for Few-shot Learning (Snell, Swersky and Zemel, 2017, arXiv 1703.05175), on a frozen tower
    as in SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning (Wang et al., 2019,
    arXiv 1911.04623).

    A class is the mean of the unit features of its images, and logits are a scale times the cosine of image and mean.
    `distance="euclidean"` is SimpleShot's: the scale times -|x - mean|^2 / 2, with the mean not normalised again; the
    two differ where classes are unequally spread. `center` subtracts the mean over all classes from every feature
    before it is normalised (SimpleShot's CL2N, there the mean of the base classes).

    All classes count alike, however many images they have. The scale decides how sure it is, never which class is
    nearest: it is the most likely one for the images of the support, each compared with the mean of the other images of
    its class. Where images belong to groups (patients, videos), they are held out in folds of whole groups and compared
    with the means of the rest. Where all classes have one image, or most of them one group, it is 100, CLIP's.

    Several labels per image: a label's logit says how much nearer the image is to the mean of the images that have it
    than to the mean of those that do not, with slope and offset from the support in the same way.

    Text, logit scale and validation images are not used. A class without images is never predicted.

    Raises:
        ConfigError: an option is out of range.

    Example:
        >>> adapter = build_adapter("nearest-mean", center=True)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked against means and distances, computed directly. `center` subtracts the mean of the "
        "support (SimpleShot: of the base classes)"
    )
    multilabel: ClassVar[bool] = True
    text_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("middle", "weight", "bias")

    distance: str = option("cosine", "distance between an image and a mean", choices=("cosine", "euclidean"))
    center: bool = option(False, "subtract the mean of all classes from every feature")
    scale: float | None = option(
        None, "what similarities are multiplied by; none: the most likely for the support", above=0
    )

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        members = _members(support, len(classifier))  # one (N, C), or two with several labels
        self.middle = _middle(support.unit, members[0], support.multilabel)  # (D,)
        unit = self._rows(support.unit).double()
        means = [_Means.of(unit, member, self.distance) for member in members]
        weight, bias = means[0].weight, means[0].bias
        if support.multilabel:
            weight, bias = weight - means[1].weight, bias - means[1].bias
        scale, offset, words = self._scaling(support, unit, members, means)
        seen = torch.stack([member.any(dim=0) for member in members]).all(dim=0)  # (C,)
        constant = _log_odds(*members) if support.multilabel else NEVER
        self.weight = torch.where(seen[:, None], scale[:, None] * weight, 0.0).float()
        self.bias = torch.where(seen, scale * bias + offset, constant).float()
        chosen = {} if support.multilabel else {"scale": float(scale[0])}
        return FitReport(self.name, chosen, words, notes=never_predicted(support, self.class_names_, len(classifier)))

    def _scaling(self, support: FeatureSet, unit, members, means) -> tuple[Tensor, Tensor, str]:
        """(C,) scales and (C,) offsets, and on what they were chosen."""
        ones = torch.ones_like(means[0].bias)
        if self.scale is not None:
            return self.scale * ones, 0 * ones, "given as options"
        labels, grouped = support.labels, units_of(support.groups, len(support))[1] < len(support)
        if support.multilabel:
            labels = F.pad(labels, (0, len(ones) - labels.shape[1]), value=torch.nan)
        held = self._folds_held_out if grouped else self._each_left_out
        rows, sides = held(support, unit, members, means)
        if not len(rows):
            return DEFAULT_SCALE * ones, 0 * ones, f"defaults: one {'group' if grouped else 'image'} per class"
        scores, labels = sides[0] - sides[1] if support.multilabel else sides[0], labels[rows]
        fitted = Scaling.fit(DEFAULT_SCALE * scores, labels, row_weights(labels))
        scale = DEFAULT_SCALE / fitted.temperature.to(ones)
        words = "in folds of whole groups" if grouped else "each image left out in turn"
        return scale * ones, fitted.offset.to(ones) * ones, f"the support, {words}"

    def _each_left_out(self, support: FeatureSet, unit, members, means) -> tuple[Tensor, list[Tensor]]:
        """Rows that are not the only one of their class, and per side their (n, C) similarities to means of others."""
        rows = torch.arange(len(support), device=unit.device)
        if not support.multilabel:
            rows = rows[members[0].sum(dim=0)[support.labels] > 1]
        rows = rows[:: max(1, -(-len(rows) * len(means[0].counts) // SCALED_ON))]
        return rows, [each.without_itself(unit[rows], member[rows]) for each, member in zip(means, members)]

    def _folds_held_out(self, support: FeatureSet, unit, members, means) -> tuple[Tensor, list[Tensor]]:
        """The same of rows that are held out in folds of whole groups."""
        rows, sides, step = [], [[] for _ in members], -(-len(support) * len(means[0].counts) // SCALED_ON)
        for fold in support.folds(MOST_FOLDS, 0):
            kept = torch.ones(len(support), dtype=torch.bool, device=unit.device)
            kept[fold] = False
            rows.append(fold[::step].to(unit.device))
            for side, member in zip(sides, members):
                rest = _Means.of(unit[kept], member[kept], self.distance)
                side.append(unit[rows[-1]] @ rest.weight.T + rest.bias)  # (n, C)
        return (torch.cat(rows) if rows else torch.zeros(0)), [torch.cat(side) for side in sides if side]

    def _rows(self, unit: Tensor) -> Tensor:
        """(B, D) unit features, centred where that is asked for."""
        return F.normalize(unit - self.middle, dim=-1) if self.center else unit

    def _logits(self, batch: Batch) -> Tensor:
        return self._rows(batch.unit) @ self.weight.T + self.bias


@dataclass(frozen=True)
class _Means:
    """Sums (C, D) of the unit rows of each class, their numbers (C,), and what is near."""

    sums: Tensor
    counts: Tensor
    distance: str

    @classmethod
    def of(cls, unit: Tensor, member: Tensor, distance: str) -> _Means:
        """Args: unit (N, D), member (N, C) of 0 and 1."""
        member = member.to(unit)
        return cls(member.T @ unit, member.sum(dim=0), distance)

    @property
    def weight(self) -> Tensor:
        """(C, D): similarities of unit rows x are x weight^T + bias."""
        if self.distance == "cosine":
            return F.normalize(self.sums, dim=-1)
        return self.sums / self.counts.clamp(min=1)[:, None]

    @property
    def bias(self) -> Tensor:
        """(C,)."""
        weight = self.weight
        return torch.zeros_like(weight[:, 0]) if self.distance == "cosine" else -(weight.square().sum(dim=1) + 1) / 2

    def without_itself(self, unit: Tensor, member: Tensor) -> Tensor:
        """(n, C) similarities of some rows to the means of the others, each left out of the classes that it is in."""
        mine = member.to(unit)
        dot = unit @ self.sums.T
        square = (self.sums.square().sum(dim=1) - 2 * mine * dot + mine).clamp(min=TINY)  # |sum of the others|^2
        dot, counts = dot - mine, (self.counts - mine).clamp(min=1)
        if self.distance == "cosine":
            return dot / square.sqrt()
        return dot / counts - (square / counts.square() + 1) / 2


def _members(support: FeatureSet, num_classes: int) -> tuple[Tensor, ...]:
    """Who is in which class, (N, C) bool; with several labels also who is known not to be."""
    if not support.multilabel:
        return (F.one_hot(support.labels, num_classes).bool(),)
    return tuple(F.pad(support.labels == kind, (0, num_classes - support.labels.shape[1])) for kind in (1, 0))


def _middle(unit: Tensor, member: Tensor, several: bool) -> Tensor:
    """(D,) mean of the class means, or of all images where they have several labels."""
    if several:
        return unit.mean(dim=0)
    counts = member.sum(dim=0)
    return (member.to(unit).T @ unit)[counts > 0].div(counts[counts > 0, None]).mean(dim=0)


def _log_odds(positive: Tensor, negative: Tensor) -> Tensor:
    """(C,) of a label that all images have, or none."""
    return ((positive.sum(dim=0) + 0.5) / (negative.sum(dim=0) + 0.5)).double().log()
