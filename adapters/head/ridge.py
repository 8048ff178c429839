"""Ridge: least squares of the class indicators with a penalty on the weights, in closed form, without the text.

Take it where texts say little, with 16 shots and more; it is in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.confidence import Scaling
from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, Ties, has, option
from ...core.data import selection_split
from ...core.metrics import best_setting, row_weights
from .linear_probe import NEVER, never_predicted
from .nearest_mean import SCALED_ON

GRID = tuple(10 ** (power / 2) for power in range(-6, 7))
DEFAULT_PENALTY, DEFAULT_SCALE = 0.1, 20.0
MOST_OPERATIONS = 2 * 10**10
"""Of leaving out images at all penalties; beyond, generalised cross-validation chooses."""
WAYS = ("val", "leave-one-out", "gcv")
PASSES = 100
"""What else is done with a score that was left out, in multiplications."""


@dataclass(eq=False, kw_only=True)
class Ridge(Adapter):
    """Meta-learning with differentiable closed-form solvers (Bertinetto, Henriques, Torr and Vedaldi, 2018,
    arXiv 1805.08136), whose solver is ridge regression, here on the features of a frozen tower.

    With x the unit features and y the one-hot labels, W and b minimise sum_n v_n |y_n - x_n W - b|^2 + penalty |W|^2.
    The weights v have the mean 1; where classes have unequal numbers of images each class has the same sum of them
    (`class_weight`). b has no penalty.

    The penalty is the best of 0.001, 0.0032, ... 1000 on val. Without val each image is left out in turn, which the
    residuals and the diagonal of the hat matrix give without a further fit; images of one group (patient, identity) are
    left out together, by their block of that matrix. Where that takes too long (many classes), or with
    `choose_by="gcv"`, the generalised cross-validation of Golub, Heath and Wahba (1979, doi
    10.1080/00401706.1979.10489751) takes the trace in place of the diagonal. With one image per class it is 0.1. Among
    penalties that score alike the middle one is taken (`ties`).

    Scores of least squares are not probabilities: logits are the scores divided by the temperature that makes the
    labels of left-out images most likely. With several labels each has a slope and an offset, found in the same way;
    each label is regressed on the images where it is known, with one penalty for all, chosen by macro AUROC.

    Text and logit scale are not used. A class without images is never predicted.

    Raises:
        ConfigError: an option is out of range.

    Example:
        >>> adapter = build_adapter("ridge", penalty=0.1)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked against scikit-learn's ridge, and against explicit leave-one-out fits. The intercept has "
        "no penalty, and the scale of the logits is fitted (paper: both meta-learned)"
    )
    multilabel: ClassVar[bool] = True
    text_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("weight", "bias")

    weighting = has(ClassWeighting)
    choice = has(Ties)
    penalty: float | None = option(None, "weight of the squared weights; none to choose it", above=0)
    choose_by: str = option(
        "val", "choose the penalty on val where there is any, else by leave-one-out; or always as named", choices=WAYS
    )

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        fits = _Fits(support, len(classifier), self.weighting.balanced)
        penalty, words, score = self._choose(fits, support, val, seed)
        weight, bias = fits.weights(penalty)
        scaling = _scaling(fits, support, penalty)
        slope = (1 / scaling.temperature).to(bias)
        self.weight = (slope[:, None] * weight).float()
        self.bias = (slope * bias + scaling.offset.to(bias)).float()
        if not support.multilabel:
            self.bias[torch.bincount(support.labels, minlength=len(classifier)) == 0] = NEVER
        notes = never_predicted(support, self.class_names_, len(classifier))
        return FitReport(self.name, {"penalty": penalty}, words, score, notes=notes)

    def _choose(self, fits: _Fits, support: FeatureSet, val, seed: int) -> tuple[float, str, float | None]:
        """The penalty, on what it was chosen, and its score there."""
        if self.penalty is not None:
            return self.penalty, "given as options", None
        selection = selection_split(support, val, seed)
        if val is not None and not val.chooses:
            return DEFAULT_PENALTY, selection.words, None
        if self.choose_by == "val" and selection.val is not None and not selection.held_out:
            unit, labels = selection.val.unit.double(), selection.val.labels

            def score_on_val(penalty: float) -> float:
                weight, bias = fits.weights(penalty)
                return self.weighting.val_score(unit @ weight.T + bias, labels)

            return self._best(score_on_val, selection.words)
        rows = fits.compared
        if not rows.any():
            return DEFAULT_PENALTY, "defaults: one image per class", None
        if self.choose_by == "gcv" or fits.operations * len(GRID) > MOST_OPERATIONS:
            return *self._best(lambda penalty: -fits.gcv(penalty), "generalised cross-validation")[:2], None

        def score_left_out(penalty: float) -> float:
            return self.weighting.val_score(fits.left_out(penalty)[rows], support.labels[rows])

        return self._best(score_left_out, f"the support, each {fits.unit_of_leaving} left out in turn")

    def _best(self, score, words: str) -> tuple[float, str, float]:
        scores = [score(penalty) for penalty in GRID]
        best = best_setting(np.array(scores), self.choice.ties)[0]
        return GRID[best], words, scores[best]

    def _logits(self, batch: Batch) -> Tensor:
        return batch.unit @ self.weight.T + self.bias


def _scaling(fits: _Fits, support: FeatureSet, penalty: float) -> Scaling:
    """What makes logits of least-squares scores, from images left out; the default scale where there are none."""
    plain = torch.tensor([1 / DEFAULT_SCALE], dtype=torch.float64)
    middle = 0.5 if support.multilabel else 0.0
    rows = fits.compared.nonzero().flatten()
    if not len(rows):
        return Scaling(plain, -middle / plain)
    rows = rows[:: -(-len(rows) * fits.num_classes // SCALED_ON)]
    labels = fits.labels[rows]
    fitted = Scaling.fit(DEFAULT_SCALE * (fits.left_out(penalty)[rows] - middle), labels, row_weights(labels))
    return Scaling(fitted.temperature / DEFAULT_SCALE, fitted.offset - middle * DEFAULT_SCALE / fitted.temperature)


class _Fits:
    """Regressions of all classes: one that they share, or one for all labels that are known of the same images.

    Args:
        support: N labelled images.
        num_classes: C.
        balanced: whether rows are weighted so that each class counts alike.
    """

    def __init__(self, support: FeatureSet, num_classes: int, balanced: bool):
        unit, self.num_classes = support.unit.double(), num_classes
        if support.multilabel:
            missing = num_classes - support.labels.shape[1]
            self.labels = F.pad(support.labels.double(), (0, missing), value=torch.nan)  # (N, C)
            targets, known = self.labels, ~self.labels.isnan()
        else:
            self.labels, targets = support.labels, F.one_hot(support.labels, num_classes).double()
            known = torch.ones_like(targets, dtype=torch.bool)
        weights = row_weights(support.labels) if balanced else None
        weights = torch.ones_like(unit[:, 0]) if weights is None else weights
        units = _rows_left_out_together(support.groups, len(support))
        self.unit_of_leaving = "image" if len(units) == len(support) else "group"
        self.compared = _compared(support, units)
        patterns, pattern_of = known.unique(dim=1, return_inverse=True)  # (N, P), (C,)
        self.parts = []
        for number, rows in enumerate(patterns.T):
            columns = (pattern_of == number).nonzero().flatten()
            if rows.any():
                fit = _Fit(unit[rows], targets[rows][:, columns], weights[rows], _within(units, rows))
                self.parts.append((rows.nonzero(), columns, fit))

    @property
    def operations(self) -> int:
        """Of leaving out all images once."""
        return sum(len(fit.left) * (fit.left.shape[1] + PASSES) * len(columns) for _, columns, fit in self.parts)

    def weights(self, penalty: float) -> tuple[Tensor, Tensor]:
        """(C, D) and (C,) of least squares; 0 for a label of which nothing is known."""
        width = self.parts[0][2].right.shape[0]
        weight = self.parts[0][2].right.new_zeros(self.num_classes, width)
        bias = weight.new_zeros(self.num_classes)
        for _, columns, fit in self.parts:
            weight[columns], bias[columns] = fit.weights(penalty)
        return weight, bias

    def left_out(self, penalty: float) -> Tensor:
        """(N, C) scores of each image by the fit without it and its group; NaN-free where a label is unknown."""
        scores = self.parts[0][2].right.new_zeros(len(self.compared), self.num_classes)
        for rows, columns, fit in self.parts:
            scores[rows, columns] = fit.left_out(penalty)
        return scores

    def gcv(self, penalty: float) -> float:
        return float(sum(fit.gcv(penalty) for _, _, fit in self.parts))


class _Fit:
    """Ridge regressions of several targets on the same rows, at every penalty by one decomposition.

    Args:
        unit: (n, D).
        targets: (n, c).
        weights: (n,) of the rows.
        units: rows that are left out together.
    """

    def __init__(self, unit: Tensor, targets: Tensor, weights: Tensor, units: Sequence[Sequence[int]]):
        lengths = sorted({len(rows) for rows in units})
        self.blocks = [torch.tensor([rows for rows in units if len(rows) == m], device=unit.device) for m in lengths]
        self.targets, self.root = targets, weights.sqrt()[:, None]  # (n, 1)
        shares = weights / weights.sum()
        self.mean, self.target_mean = shares @ unit, shares @ targets  # (D,), (c,)
        rows, self.residual = self.root * (unit - self.mean), self.root * (targets - self.target_mean)
        if len(rows) <= rows.shape[1]:
            squares, self.left = torch.linalg.eigh(rows @ rows.T)
        else:
            squares, right = torch.linalg.eigh(rows.T @ rows)
            self.left = rows @ right / squares.clamp(min=1e-300).sqrt()
        kept = squares > 1e-12 * squares[-1].clamp(min=1e-12)
        self.squares, self.left = squares[kept], self.left[:, kept]  # (k,), (n, k)
        self.right = rows.T @ self.left  # (D, k)
        self.projected = self.left.T @ self.residual  # (k, c)

    def weights(self, penalty: float) -> tuple[Tensor, Tensor]:
        """(c, D) and (c,)."""
        weight = (self.right / (self.squares + penalty) @ self.projected).T
        return weight, self.target_mean - weight @ self.mean

    def left_out(self, penalty: float) -> Tensor:
        """(n, c) scores of each row by the fit without the rows that are left out with it.

        A residual r of the fit to all rows becomes (I - H)^-1 r within the block of rows that are left out.
        """
        shrunk = self.squares / (self.squares + penalty)  # (k,)
        residual = self.residual - self.left @ (shrunk[:, None] * self.projected)  # (n, c)
        mean = self.root / self.root.norm()  # (n, 1): the part of the intercept
        for rows in self.blocks:  # (g, m)
            if rows.shape[1] == len(self.targets):  # no row is left to fit: the mean
                residual[rows] = self.residual[rows]
                continue
            if rows.shape[1] == 1:
                alone = rows[:, 0]
                hat = (self.left[alone].square() * shrunk).sum(dim=1, keepdim=True) + mean[alone].square()
                residual[alone] /= 1 - hat
                continue
            left, ones = self.left[rows], mean[rows]  # (g, m, k), (g, m, 1)
            hat = (left * shrunk) @ left.mT + ones @ ones.mT  # (g, m, m)
            kept = torch.eye(rows.shape[1], dtype=hat.dtype, device=hat.device) - hat
            residual[rows] = torch.linalg.solve(kept, residual[rows])
        return self.targets - residual / self.root

    def gcv(self, penalty: float) -> Tensor:
        """() generalised cross-validation: the mean squared residual over the squared mean of 1 - H's diagonal."""
        shrunk = self.squares / (self.squares + penalty)
        explained = ((2 - shrunk) * shrunk) @ self.projected.square().sum(dim=1)
        count = len(self.targets)
        return count * (self.residual.square().sum() - explained) / (count - 1 - shrunk.sum()).square()


def _rows_left_out_together(groups: tuple[str, ...] | None, size: int) -> list[list[int]]:
    """Rows of each group; an image without a group is alone."""
    rows_of: dict[object, list[int]] = {}
    for row in range(size):
        rows_of.setdefault(groups[row] if groups is not None and groups[row] else row, []).append(row)
    return list(rows_of.values())


def _within(units: Sequence[Sequence[int]], rows: Tensor) -> list[list[int]]:
    """The same groups, as far as they are among `rows` (N,), counted within these."""
    place = (rows.long().cumsum(dim=0) - 1).tolist()
    known = rows.tolist()
    within = [[place[row] for row in unit if known[row]] for unit in units]
    return [unit for unit in within if unit]


def _compared(support: FeatureSet, units: Sequence[Sequence[int]]) -> Tensor:
    """(N,) whether something is left to learn an image's class from when it is left out."""
    device = support.features.device
    if support.multilabel or len(units) < 2:
        return torch.full((len(support),), len(units) > 1, device=device)
    labels, units_of = support.labels.tolist(), {}
    for number, unit in enumerate(units):
        for row in unit:
            units_of.setdefault(labels[row], set()).add(number)
    return torch.tensor([len(units_of[label]) > 1 for label in labels], device=device)
