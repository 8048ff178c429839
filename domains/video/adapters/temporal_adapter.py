"""Our default for clips: averaged frames plus a function of their course over time, where that helps.

Take it first on clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import FeatureSet, FitReport, has, option
from ....core.metrics import row_weights
from ....core.registry import build_adapter
from ._frames import average_of_unit, legendre, masked_mean, times
from ._text_head import TextHeadAdapter, TunedText

FOLDS = 4
SURE = 2.0
"""Standard errors by which the residual has to be right more often."""
AUTO, ORDER, MEAN = "auto", "order", "mean"


class CourseNetwork(nn.Module):
    """The averaged frames plus U gelu(W [c_1 .. c_K, a] + b).

    With h_t the unit frames less their mean, P_k the Legendre polynomial of degree k and time -1 to 1 in each clip,
    c_k is the mean of P_k(t) A h_t: c_1 says what grows or fades, c_2 what is in the middle. a is the mean of
    (A h_t) (B h_t+1) - (B h_t) (A h_t+1), entry by entry, the area that the frames' path goes round: it says which way
    something turns. It and the c_k of odd degree change their sign when a clip is reversed. U starts at 0.

    Args:
        width: D. hidden: rows of A, B and W. degree: K.
    """

    def __init__(self, width: int, hidden: int, degree: int):
        super().__init__()
        self.degree = degree
        self.enter = nn.Linear(width, 2 * hidden, bias=False)
        self.mix = nn.Linear((degree + 1) * hidden, hidden)
        self.leave = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.leave.weight)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        unit = F.normalize(frames, dim=-1)
        average = masked_mean(unit, mask)
        course = self.course((unit - average[:, None]).masked_fill(~mask[..., None], 0), mask)
        return F.normalize(average, dim=-1) + self.leave(F.gelu(self.mix(course)))

    def course(self, path: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) frames less their mean -> (B, (K + 1) * hidden)."""
        one, other = (path.shape[-1] ** 0.5 * self.enter(path)).chunk(2, dim=-1)  # (B, T, hidden) of the size of 1
        polynomials = legendre(times(mask), self.degree)  # (B, T, K)
        moments = torch.einsum("btk,bth->bkh", polynomials, one) / mask.sum(dim=1)[:, None, None]
        turns = one[:, :-1] * other[:, 1:] - other[:, :-1] * one[:, 1:]
        steps = mask[:, 1:].sum(dim=1, keepdim=True).clamp(min=1)
        area = turns.masked_fill(~mask[:, 1:, None], 0).sum(dim=1) / steps
        return torch.cat([moments.flatten(1), area], dim=-1)


@dataclass(eq=False, kw_only=True)
class TemporalAdapter(TextHeadAdapter):
    """An adapter for clips of our own: frame averaging (`mean-pool`) plus a residual that sees the order of frames.

    The frames' projections on Legendre polynomials of the time within the clip, and the area that their path goes
    round, go through a small network, and what comes out is added to the averaged frames before they are compared with
    the class texts. A clip may have any number of frames: time counts as a share of its length. The added part starts
    at 0, so that before the first step scores are those of averaged frames and texts, exactly.

    `use=auto` keeps the residual only where it helps: it and `mean-pool` are compared on val and, if the support has
    more clips, on clips of it that are left out in turn (4 folds, whole groups together). `mean-pool` stays unless the
    residual is right more often, by more than two standard errors of the difference. Where classes have one clip and
    there is no val, nothing can be left out, and `mean-pool` stays. `order` always keeps the residual, `mean` never.

    What is learned of a class is a residual of its text, as in TaskRes (Yu et al., 2023, arXiv 2211.10277).

    Raises:
        ConfigError: an option out of range.
        CapabilityError: samples without parts.

    Example:
        >>> adapter = build_adapter("temporal-adapter", use="order", epochs=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = "ours"
    state: ClassVar[tuple[str, ...]] = (*TextHeadAdapter.state, "residual", "ordered")

    tuned = has(TunedText)
    weight_decay: float = 0.01
    use: str = option(
        AUTO,
        "keep the part that sees the order of frames: where it helps, always, or never",
        choices=(AUTO, ORDER, MEAN),
    )
    hidden: int = option(64, "width of the part that sees the order", low=1, high=65_536)
    degree: int = option(3, "highest degree of the polynomials of time", low=1, high=64)

    def _network(self, width: int) -> nn.Module:
        return CourseNetwork(width, self.hidden, self.degree)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        how = {"backbone": backbone, "resources": resources, "unlabeled": unlabeled, "seed": seed}
        ordered, note, words = self.use != MEAN, None, "options"
        if self.use == AUTO:
            ordered, note, words = self._judge(support, classifier, val, how)
        self.ordered = ordered
        report = super()._fit(support, classifier, val=val, **how)
        report.chosen["use"], report.chosen_on = ORDER if ordered else MEAN, words
        report.notes += [note] if note else []
        return report

    def _cosines(self, network: nn.Module, frames: Tensor, mask: Tensor, text: Tensor) -> Tensor:
        if self.ordered:
            return super()._cosines(network, frames, mask, text)
        return average_of_unit(frames, mask) @ text.T

    def _trained(self) -> list[Tensor]:
        trained = super()._trained()
        return trained if self.ordered else trained[len(list(self._net.parameters())) :]

    def _judge(self, support: FeatureSet, classifier, val: FeatureSet | None, how) -> tuple[bool, str | None, str]:
        """Whether the residual is right more often than the averaged frames, a note, and on what that was seen.

        By more than `SURE` standard errors of the difference, clip by clip.
        """
        if val is not None and not val.chooses:
            return False, None, "defaults: no validation"
        pairs, words = [], []
        if val is not None and len(val):
            pairs, words = [(support, val)], [f"val ({len(val)} clips)"]
        if val is None or len(val) < len(support):
            left_out = support.folds(FOLDS, how["seed"])
            pairs += [(support.select(_others(rows, len(support))), support.select(rows)) for rows in left_out]
            words += [f"the support, {len(left_out)} folds of clips left out in turn"] if left_out else []
        if not pairs:
            return False, None, "defaults: most classes have only one clip or group, so that none can be held out"
        right = {use: [] for use in (ORDER, MEAN)}
        for learned, seen in pairs:
            for use, rows in right.items():
                other = build_adapter(self.name, **{**self.options, "use": use})
                other.fit(learned, classifier, **how)
                rows.append(right_of(other.logits(seen), seen.labels))
        labels = torch.cat([seen.labels for _, seen in pairs])
        order, mean = (torch.cat(rows) for rows in right.values())
        weights = row_weights(labels) if self.weighting.balanced and not support.multilabel else None
        weights = torch.ones_like(order) if weights is None else weights.to(order)
        weights = weights / weights.sum()
        gain = (weights * (order - mean)).sum()
        error = (weights.square() * (order - mean - gain).square()).sum().sqrt()
        told = [f"{float((weights * rows).sum()):.1%}" for rows in (order, mean)]
        taken, on = bool(gain > SURE * error), " and ".join(words)
        note = (
            f"the order of frames is {'used' if taken else 'not used'}: right with it {told[0]}, with averaged frames "
            f"{told[1]}, on {on}"
        )
        return taken, note, on


def right_of(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) whether each clip's class was right; with several labels, the share of its known labels that were."""
    if labels.ndim == 1:
        return (logits.argmax(dim=1) == labels).double()
    known = ~labels.isnan()
    return (((logits > 0) == (labels > 0.5)) & known).sum(dim=1).double() / known.sum(dim=1).clamp(min=1)


def _others(rows: Tensor, count: int) -> Tensor:
    """The row numbers below `count` that are not among `rows`."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[rows] = False
    return kept.nonzero().flatten()
