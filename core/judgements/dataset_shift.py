"""What differs between other data and those of the fit: frequencies of classes, calibration, unlike images.

How frequent each class is, how well probabilities agree with frequencies, and how many images are unlike those of the
fit are the parts of a dataset shift ("A unifying view on dataset shift in classification", Moreno-Torres et al.,
Pattern Recognition 45, 2012, doi 10.1016/j.patcog.2011.06.019): of the labels, of the relation between images and
labels, and of the images. Calibration is told as for any validation of a prediction model at another place
("Calibration: the Achilles heel of predictive analytics", Van Calster et al., BMC Medicine 17, 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..confidence.selective import FALSE_ALARMS
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place
from ..contracts.prepared import on_adapted
from ..contracts.run_info import FittedRun, Record
from ..metrics.intervals import exact_interval, share_interval
from ..metrics.operating_point import recalibration
from ..runs.sections import Cell, Measure, TableSection
from .finding_curves import NUMBER, FindingScores, present_of, probabilities_of

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor
    from typing_extensions import Self

SHARE = Measure("")
CONFIDENCE = ""
"""What stands for the confidence of answers, where more than two classes exclude each other."""
MOST_SHOWN = 8
HEADER = ("", "Here", "At the fit")
NOTE = (
    "Values of the fit are those of its test images, of which it learned nothing. A calibration slope of 1 and an "
    "intercept of 0 are right: below 1 probabilities are too extreme, and above 0 the finding is more frequent than "
    f"they say. Of ordinary images {FALSE_ALARMS:.0%} are called unlike those of the fit."
)


@dataclass(frozen=True)
class Prevalence:
    """How frequent a class is.

    Attributes:
        images, present: images whose label is known, and those of the class.
        share, interval: here.
        share_at_fit, interval_at_fit: of the test images of the fit; None where these are not known.
        difference, difference_interval: here less at the fit (Newcombe 1998, method 10).
    """

    images: int
    present: int
    share: float
    interval: Sequence[float]
    share_at_fit: float | None = None
    interval_at_fit: Sequence[float] | None = None
    difference: float | None = None
    difference_interval: Sequence[float] | None = None

    @classmethod
    def of(cls, present: Tensor, groups: Sequence[str] | None, at_fit: tuple[int, int] | None) -> Self:
        """Args:
        present: (N,) bool.
        groups: N patients, or None.
        at_fit: test images of the fit of the class, and all.
        """
        share, interval = float(present.double().mean()), share_interval(present, groups)
        here = (len(present), int(present.sum()), share, interval)
        if at_fit is None or not at_fit[1]:
            return cls(*here)
        before, between = at_fit[0] / at_fit[1], exact_interval(*at_fit)
        low = share - before - hypot(share - interval[0], between[1] - before)
        high = share - before + hypot(interval[1] - share, before - between[0])
        return cls(*here, before, list(between), share - before, [low, high])

    @property
    def moved(self) -> bool:
        """Whether the difference is more than chance."""
        return self.difference_interval is not None and not _holds(self.difference_interval, 0.0)

    def words(self, name: str) -> str:
        """A sentence of one that moved."""
        how = "more" if (self.difference or 0) > 0 else "less"
        here, before = _with_interval(SHARE, self.share, self.interval), SHARE.text(self.share_at_fit)
        return f"“{name}” is {how} frequent here: {here}, and {before} of the test images of the fit"


@dataclass(frozen=True)
class _Agreement:
    """How well probabilities agree with frequencies; see `Recalibration`.

    Attributes:
        slope, intercept: here, each with its [low, high]; None where they have no finite value.
        slope_at_fit, intercept_at_fit: on the test images of the fit, where they are known.
    """

    slope: float | None
    slope_interval: Sequence[float] | None
    intercept: float | None
    intercept_interval: Sequence[float] | None
    slope_at_fit: float | None = None
    slope_interval_at_fit: Sequence[float] | None = None
    intercept_at_fit: float | None = None
    intercept_interval_at_fit: Sequence[float] | None = None

    def words(self, name: str) -> Iterator[str]:
        """A sentence of each that is not as it should be."""
        of = f"of “{name}”" if name else "of answers"
        if self.slope_interval is not None and not _holds(self.slope_interval, 1.0):
            how = "too extreme" if (self.slope or 0) < 1 else "not extreme enough"
            slope = _with_interval(NUMBER, self.slope, self.slope_interval)
            yield f"probabilities {of} are {how} here: calibration slope {slope}"
        if self.intercept_interval is not None and not _holds(self.intercept_interval, 0.0):
            how = "too low" if (self.intercept or 0) > 0 else "too high"
            intercept = _with_interval(NUMBER, self.intercept, self.intercept_interval)
            yield f"probabilities {of} are {how} here: calibration intercept {intercept}"


@dataclass(frozen=True, eq=False)
class DatasetShift(Record):
    """What differs between the data of an evaluation and those of the fit.

    Attributes:
        fitted_on: name of the data of the fit.
        prevalence: class or label -> how frequent it is.
        calibration: finding -> how well its probabilities agree; of more than two classes that exclude each other "" ->
            the same of the confidence of answers.
        unlike, unlike_interval: share of images unlike those of the fit; None where the run cannot tell.
    """

    key: ClassVar[str] = "dataset_shift"
    fitted_on: str
    prevalence: Mapping[str, Prevalence]
    calibration: Mapping[str, _Agreement]
    unlike: float | None = None
    unlike_interval: Sequence[float] | None = None

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = metrics[cls.key]
        prevalence = {name: Prevalence(**of) for name, of in values["prevalence"].items()}
        calibration = {name: _Agreement(**of) for name, of in values["calibration"].items()}
        return cls(values["fitted_on"], prevalence, calibration, values["unlike"], values["unlike_interval"])

    @property
    def shown(self) -> list[str]:
        """The classes that moved most, or are most frequent where none is known to have."""
        order = sorted(self.prevalence, key=lambda name: -abs(self.prevalence[name].difference or 0))
        return [name for name in self.prevalence if name in order[:MOST_SHOWN]]

    def rows(self) -> Iterator[tuple[str, Cell, Cell]]:
        """Name, here, at the fit."""
        for name in self.shown:
            of = self.prevalence[name]
            yield (
                f"Share of “{name}”",
                _cell(SHARE, of.share, of.interval),
                _cell(SHARE, of.share_at_fit, of.interval_at_fit),
            )
        for name, agreed in self.calibration.items():
            if name not in (CONFIDENCE, *self.shown):
                continue
            what = f" of “{name}”" if name else " of answers"
            slope = _cell(NUMBER, agreed.slope, agreed.slope_interval)
            yield f"Calibration slope{what}", slope, _cell(NUMBER, agreed.slope_at_fit, agreed.slope_interval_at_fit)
            intercept = _cell(NUMBER, agreed.intercept, agreed.intercept_interval)
            at_fit = _cell(NUMBER, agreed.intercept_at_fit, agreed.intercept_interval_at_fit)
            yield f"Calibration intercept{what}", intercept, at_fit
        if self.unlike is not None:
            yield (
                "Images unlike those of the fit",
                _cell(SHARE, self.unlike, self.unlike_interval),
                Cell(f"{FALSE_ALARMS:.0%}"),
            )

    def section(self) -> TableSection:
        return TableSection("What moved since the fit", HEADER, list(self.rows()), NOTE, shares=False)

    def table(self) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(title="What moved since the fit", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for name in HEADER:
            table.add_column(name.lower(), justify="right" if name else "left")
        for name, *cells in self.rows():
            table.add_row(name, *(" ".join(filter(None, (cell.text, cell.small))) for cell in cells))
        return table

    @property
    def notes(self) -> list[str]:
        moved = [self.prevalence[name].words(name) for name in self.shown if self.prevalence[name].moved]
        moved += [
            words
            for name, of in self.calibration.items()
            if name in (CONFIDENCE, *self.shown)
            for words in of.words(name)
        ]
        if self.unlike_interval is not None and self.unlike_interval[0] > FALSE_ALARMS:
            share = _with_interval(SHARE, self.unlike, self.unlike_interval)
            moved.append(f"{share} of the images are unlike those of the fit, where {FALSE_ALARMS:.0%} is usual")
        return moved or [
            "nothing is shown to have moved since the fit: neither prevalence, nor calibration, nor the images"
        ]


def _holds(interval: Sequence[float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def _cell(measure: Measure, value: float | None, interval: Sequence[float] | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(measure.text(value).replace("-", "−"), measure.between(interval).replace("-", "−"))


def _with_interval(measure: Measure, value: float | None, interval: Sequence[float] | None) -> str:
    cell = _cell(measure, value, interval)
    return f"{cell.text} ({cell.small})"


@dataclass(eq=False, kw_only=True)
class Shift(Judgement):
    """What moved between the data of the fit and other data that `eval RUN --data PATH` names."""

    record: ClassVar = DatasetShift
    at: ClassVar = frozenset({EVAL})
    needs: ClassVar = frozenset({"labelled", "own_classes"})
    place: ClassVar = Place.REASONS
    refits: ClassVar = True  # it fits nothing, but the probabilities are those of the calibration

    def compute(self, fit: JudgedClassifier) -> DatasetShift | None:
        """None on the run's own data."""
        if fit.use is None or not (fit.use.data or fit.use.features):
            return None
        unlike = _unlike(fit)
        interval = None if unlike is None else share_interval(unlike, fit.scores.groups)
        share = None if unlike is None else float(unlike.double().mean())
        run = fit.use.run
        return DatasetShift(run.info.data.name, _prevalences(fit, run), _agreements(fit, run), share, interval)


def _prevalences(fit: JudgedClassifier, run: FittedRun) -> dict[str, Prevalence]:
    """Of each class or label; of two classes that of the finding."""
    findings, counts = fit.metrics.get(FindingScores.key) or {}, {}
    finding = findings.get("finding")
    for c, name in enumerate(fit.class_names):
        truth = present_of(fit.labels, c)
        known = ~truth.isnan()
        if known.any() and finding in (None, name):
            present = truth[known] == 1
            counts[name] = Prevalence.of(present, _of_rows(fit.scores.groups, known), _counts_at_fit(run, name))
    return counts


def _counts_at_fit(run: FittedRun, name: str) -> tuple[int, int] | None:
    """Test images of the fit of a class, and all; None where that is not known."""
    stored = (run.metrics.get(FindingScores.key) or {}).get("scores", {}).get(name)
    if stored is not None:
        return stored["present"], stored["images"]
    counts = run.info.data.counts.get("test") or {}
    if run.info.data.kind == "multilabel" or name not in counts:
        return None
    return counts[name], sum(counts.values())


def _agreements(fit: JudgedClassifier, run: FittedRun) -> dict[str, _Agreement]:
    """Of each finding as it was scored; else of the confidence of answers."""
    here = fit.metrics.get(FindingScores.key)
    before = (run.metrics.get(FindingScores.key) or {}).get("scores", {})
    names = ("slope", "slope_interval", "intercept", "intercept_interval")
    if here is not None:
        return {
            name: _Agreement(*(of[each] for each in names), *((before.get(name) or {}).get(each) for each in names))
            for name, of in here["scores"].items()
        }
    confidence, answers = probabilities_of(fit).max(dim=1)
    agreed = recalibration(confidence, answers == fit.labels, fit.scores.groups)
    return {CONFIDENCE: _Agreement(*(getattr(agreed, each) for each in names))}


def _unlike(fit: JudgedClassifier) -> Tensor | None:
    """(N,) bool, which images are unlike those of the fit; None where the run cannot tell."""
    unlike = None if fit.calibration is None else fit.calibration.unlike
    if unlike is None or not unlike.known:
        return None
    moved = on_adapted(fit.prepared, fit.adapter)
    seen = fit.test if moved is fit.prepared else moved.of_ids(fit.test.ids or ())
    if unlike.support.shape[1] != seen.features.shape[1]:
        return None
    return torch.as_tensor(unlike.flags(seen.features))


def _of_rows(groups: Sequence[str] | None, rows: Tensor) -> list[str] | None:
    return None if groups is None else [groups[row] for row in rows.nonzero().flatten().tolist()]
