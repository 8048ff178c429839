"""`--holistic`: what noise, blur, weather and compression cost a run, by the corruptions of ImageNet-C.

"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", Hendrycks and Dietterich, 2019, arXiv
1903.12261: the mean error over kinds and severities. Their mCE divides each kind's error by AlexNet's on ImageNet-1k,
and is given for that set alone; intervals, the paired rise above clean images, and from which severity on a kind costs
more than `MARGIN` are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..contracts.corruption import SEVERITIES, Corruption
from ..contracts.judgement import JudgedClassifier
from ..contracts.run_info import AxisScore, Record
from ..metrics.intervals import SIGNIFICANT, balanced_interval, p_of_loss, paired_shares, units_of
from ..metrics.significance import holm
from ..robustness.corruption import Corrupted
from ..robustness.imagenet_c import LEAST_SIDE, PUBLISHED, corruptions, mean_corruption_error
from ..runs.sections import Cell, Measure, TableSection, plural
from ._condition import in_points, why_unchanged
from ._holistic import HolisticJudgement, worst_rows

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor
    from typing_extensions import Self

    from ..contracts.items import DomainData

MARGIN = 0.05
"""Drop in accuracy below which a corruption does not count."""
IMAGENET_CLASSES = 1000
IMAGENET = "imagenet"
SHARE = Measure("")
HEADER = ("Corruption", "Zero-shot", "This run", "Rise in error", f"Costs over {100 * MARGIN:.0f} points from")
WIDTH_OF_LAST = 10
"""Characters of the last column in a terminal, so that 80 hold a kind in one line."""
SHOWN = (*HEADER[:3], Cell("Accuracy, 0 to 100%", tone="pair"), *HEADER[3:])
"""In the report."""


@dataclass(frozen=True)
class KindScores:
    """What one kind of corruption does.

    Attributes:
        accuracy: of the run at each severity.
        zero_shot: of zero-shot, or None.
        interval: of the run's mean over severities.
        rise: of the mean error above that of clean images.
        rise_interval: of it, over images or groups of them; None of a single one.
        p_values: at each severity, of a drop of at most `MARGIN`, one-sided, adjusted for all of them (Holm).
        costs_from: the lowest severity at which more is lost; None for none.
    """

    accuracy: Sequence[float]
    zero_shot: Sequence[float] | None
    interval: Sequence[float]
    rise: float
    rise_interval: Sequence[float] | None
    p_values: Sequence[float]
    costs_from: int | None

    @property
    def mean(self) -> float:
        return sum(self.accuracy) / len(self.accuracy)

    @property
    def mean_zero_shot(self) -> float | None:
        return None if self.zero_shot is None else sum(self.zero_shot) / len(self.zero_shot)


@dataclass(frozen=True, eq=False)
class CorruptionScores(Record):
    """Accuracy on corrupted test images.

    Attributes:
        images: test images that were corrupted.
        lacking: why there are no scores; "" where there are.
        clean, clean_zero_shot: accuracy on these images as they are, at the size that they are corrupted at.
        kinds: kind -> scores.
        error, error_interval: mean over kinds and severities.
        zero_shot_error: of zero-shot, or None.
        rise, rise_interval: of the error above that of clean images, of the same images.
        mce: divided by AlexNet's, of ImageNet-1k alone; else None.
        worst: (test row, how often it was wrong) of the images that were wrong most often, of `times` each.
    """

    key: ClassVar[str] = "corruptions"
    axes: ClassVar = {"corruptions": "give --holistic"}
    images: int
    lacking: str = ""
    clean: float = 0.0
    clean_zero_shot: float | None = None
    kinds: Mapping[str, KindScores] | None = None
    error: float = 0.0
    error_interval: Sequence[float] = ()
    zero_shot_error: float | None = None
    rise: float = 0.0
    rise_interval: Sequence[float] | None = None
    mce: float | None = None
    worst: Sequence[Sequence[int]] = ()
    times: int = 0

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = dict(metrics[cls.key])
        kinds = values.pop("kinds")
        return cls(kinds=kinds and {name: KindScores(**of) for name, of in kinds.items()}, **values)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Of a table, the costliest kind first."""
        for name, of in sorted((self.kinds or {}).items(), key=lambda each: -each[1].rise):
            yield (
                name,
                Cell(SHARE.text(of.mean_zero_shot)),
                Cell(SHARE.text(of.mean), SHARE.between(of.interval)),
                in_points(of.rise, of.rise_interval),
                "–" if of.costs_from is None else f"severity {of.costs_from}",
            )

    def section(self) -> TableSection:
        title = "Corrupted images"
        if self.kinds is None:
            return TableSection(title, (), [], self.lacking)
        total = [
            f"Mean over kinds: error {SHARE.text(self.error)} ({SHARE.between(self.error_interval)}), "
            f"{SHARE.text(1 - self.clean)} on the same images as they are."
        ]
        if self.mce is not None:
            total.append(f"Divided by AlexNet’s, as published (mCE): {self.mce:.1%}.")
        note = (
            f"{plural(self.images, 'test image')}, each corrupted in {len(self.kinds)} ways at 5 severities, the mean "
            f"of which is shown. {' '.join(total)} Rises and tests are paired with the images as they are; the "
            f"severity from which a kind costs more than {100 * MARGIN:.0f} points is adjusted for all tests (Holm)."
        )
        shown = []
        for row in self.rows():
            of = (self.kinds or {})[row[0]]
            shift = None if of.mean_zero_shot is None else Cell("", tone="pair", shift=(of.mean_zero_shot, of.mean))
            shown.append((*row[:3], shift, *row[3:]))
        return TableSection(title, SHOWN, shown, note)

    def pictured(self) -> tuple[str, list[tuple[int, str]]] | None:
        rows = [(row, f"wrong {count} of {self.times} times") for row, count in self.worst]
        return ("Wrong most often when corrupted", rows) if rows else None

    def axis_scores(self) -> Mapping[str, AxisScore | str]:
        if self.kinds is None:
            return {"corruptions": self.lacking}
        zero_shot = None if self.zero_shot_error is None else 1 - self.zero_shot_error
        interval = [1 - limit for limit in reversed(self.error_interval)]
        return {"corruptions": AxisScore("Corrupted images", 1 - self.error, interval, zero_shot)}

    def table(self) -> Table | None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        if self.kinds is None:
            return None
        table = Table(title="Corrupted images", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for number, name in enumerate(HEADER):
            last = name == HEADER[-1]
            table.add_column(
                name.lower(), justify="right" if number else "left", max_width=WIDTH_OF_LAST if last else None
            )
        for name, before, after, rise, first in self.rows():
            table.add_row(name, before.text, after.text, f"{rise.text} ({rise.small})", first)
        return table

    def note(self) -> str:
        if self.kinds is None:
            return self.lacking
        costly = [name for name, of in self.kinds.items() if of.costs_from is not None]
        worst, _ = max(self.kinds.items(), key=lambda each: each[1].rise)
        costs = "costs" if len(costly) == 1 else "cost"
        which = (
            f"{len(costly)} of {len(self.kinds)} kinds {costs} more than {100 * MARGIN:.0f} points" if costly else ""
        )
        none = f"no kind is shown to cost more than {100 * MARGIN:.0f} points"
        rise = in_points(self.rise, self.rise_interval)
        return (
            f"on corrupted images the error is {SHARE.text(self.error)}, on the same images as they are "
            f"{SHARE.text(1 - self.clean)} ({rise.text} points, 95 % interval {rise.small}); {which or none}, {worst} "
            "the most"
        )


@dataclass(eq=False, kw_only=True)
class Corruptions(HolisticJudgement):
    """Scores on test images that are corrupted in each of fifteen ways at five severities."""

    record: ClassVar = CorruptionScores

    def check_read(self, data: DomainData) -> None:
        """Refuse to begin without the package that corrupts."""
        if data.kind == "labels":
            corruptions()

    def compute(self, fit: JudgedClassifier) -> CorruptionScores:
        if why := why_unchanged(fit, LEAST_SIDE):
            return CorruptionScores(0, f"corrupted images: not tested, since {why}")
        domain, rows = fit.prepared.domain, self.rows_of(fit)
        kinds = (*corruptions(), *(() if domain is None else domain.corruptions))
        assert fit.labels is not None and fit.test.ids is not None
        labels, of_images = fit.labels[rows], fit.scores.groups
        groups = None if of_images is None else list(map(of_images.__getitem__, rows))
        right, before = _right_of(fit, kinds, [fit.test.ids[n] for n in rows], labels)
        return _scores(rows, kinds, right, before, groups, _of_imagenet(fit))


def _right_of(
    fit: JudgedClassifier, kinds: Sequence[Corruption], ids: Sequence[str], labels: Tensor
) -> tuple[Tensor, Tensor | None]:
    """(1 + 5 K, n) which images the run has right, as they are and then of each kind at each severity; and zero-shot,
    or None."""
    conditions: list[tuple[Corruption | None, int]] = [(None, 0)]
    conditions += [(kind, severity) for kind in kinds for severity in SEVERITIES]
    assert fit.before is not None
    size, after, before = fit.before.image_size, [], []
    with fit.reporter.task("Corrupting test images") as progress:
        for done, (kind, severity) in enumerate(conditions, start=1):
            change = partial(Corrupted, size=size, corruption=kind, severity=severity, seed=fit.seed)
            zero_shot, adapted = fit.answers_seen_through(ids, change)
            after.append(adapted.argmax(dim=1) == labels)
            if zero_shot is not None:
                before.append(zero_shot.argmax(dim=1) == labels)
            progress(done * len(ids), len(conditions) * len(ids))
    return torch.stack(after), torch.stack(before) if before else None


def _scores(
    rows: Sequence[int],
    kinds: Sequence[Corruption],
    right: Tensor,
    before: Tensor | None,
    groups: Sequence[str] | None,
    of_imagenet: bool,
) -> CorruptionScores:
    clean, shape = right[0], (len(kinds), len(SEVERITIES), right.shape[1])
    of = right[1:].reshape(shape)  # (K, 5, n)
    zero_shot = None if before is None else before[1:].reshape(shape).double().mean(dim=2).tolist()
    p_values = holm([p_of_loss(clean, each, MARGIN, groups) for kind in of for each in kind])
    scores, levels = {}, len(SEVERITIES)
    for at, (kind, each) in enumerate(zip(kinds, of)):
        of_kind = p_values[levels * at : levels * (at + 1)]
        scores[kind.name] = _kind_scores(clean, each, None if zero_shot is None else zero_shot[at], groups, of_kind)
    wrong = (~of).flatten(0, 1).T  # (n, 5 K)
    share, errors = wrong.double().mean(dim=1), {name: 1 - each.mean for name, each in scores.items()}
    published = of_imagenet and len(kinds) >= len(PUBLISHED)
    return CorruptionScores(
        images=len(rows),
        clean=float(clean.double().mean()),
        clean_zero_shot=None if before is None else float(before[0].double().mean()),
        kinds=scores,
        error=float(share.mean()),
        error_interval=[1 - limit for limit in reversed(_accuracy_interval(of.flatten(0, 1), groups))],
        zero_shot_error=None if before is None else float(1 - before[1:].double().mean()),
        rise=float((share - (~clean).double()).mean()),
        rise_interval=_rise_interval(clean, of.flatten(0, 1), groups),
        mce=mean_corruption_error(errors) if published else None,
        worst=worst_rows(rows, wrong),
        times=wrong.shape[1],
    )


def _kind_scores(
    clean: Tensor,
    right: Tensor,
    zero_shot: Sequence[float] | None,
    groups: Sequence[str] | None,
    p_values: Sequence[float],
) -> KindScores:
    """Of one kind, (5, n)."""
    share = right.double().mean(dim=0)
    lost = clean.double() - share
    shown = [severity for severity, p in zip(SEVERITIES, p_values) if p < SIGNIFICANT]
    return KindScores(
        accuracy=right.double().mean(dim=1).tolist(),
        zero_shot=zero_shot,
        interval=_accuracy_interval(right, groups),
        rise=float(lost.mean()),
        rise_interval=_rise_interval(clean, right, groups),
        p_values=list(p_values),
        costs_from=min(shown, default=None),
    )


def _accuracy_interval(right: Tensor, groups: Sequence[str] | None) -> list[float]:
    """Of the mean accuracy over S conditions (S, n), each by its exact limits; those of an image go together."""
    return balanced_interval(right.flatten(), *_conditions_and_units(right, groups))


def _rise_interval(clean: Tensor, right: Tensor, groups: Sequence[str] | None) -> list[float] | None:
    """Of the mean loss over S conditions (S, n), each by Tango's interval; those of an image go together."""
    of, units = _conditions_and_units(right, groups)
    bounds = paired_shares(clean.repeat(len(right)), right.flatten(), units, of).bounds
    return None if bounds is None else [-bounds[1], -bounds[0]]


def _conditions_and_units(right: Tensor, groups: Sequence[str] | None) -> tuple[Tensor, Tensor]:
    """Of each entry of (S, n), row by row, its condition, and the image or group that it is of."""
    conditions, images = right.shape
    return torch.arange(conditions).repeat_interleave(images), units_of(groups, images)[0].repeat(conditions)


def _of_imagenet(fit: JudgedClassifier) -> bool:
    """ImageNet-1k itself: its further sets of 1000 classes have no mCE."""
    return len(fit.class_names) == IMAGENET_CLASSES and fit.prepared.data.published == IMAGENET
