"""`--operating-point`: from which probability on a finding is called present, and what follows on the test images.

The threshold is chosen on the calibration rows, of which nothing was learned, never on test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.judgement import JudgedClassifier, Judgement, Place
from ..contracts.options import option
from ..contracts.prepared import PreparedData
from ..contracts.run_info import FittedRun, Record
from ..errors import ConfigError, DataError
from ..metrics.intervals import units_of
from ..metrics.operating_point import (
    PredictiveValues,
    ThresholdRates,
    decision_curve,
    least_units,
    predictive_values_at,
    rates_at,
    threshold_for,
    units_needed,
)
from ..runs.sections import Measure, TableSection, plural
from .calibration import expensive
from .finding_curves import FindingScores, check_finding_option, finding_in, present_of, probabilities_of, several_in

if TYPE_CHECKING:
    from typing_extensions import Self

SIDES = ("sensitivity", "specificity")
WIDTH = 0.1
"""Of the interval of a rate for which it is said how many images it takes: 5 points to either side."""
MOST_NAMED = 4
"""Labels that have sentences of their own."""
SHARE = Measure("")
HEADER = ("", "Value", "95 % interval", "Test images")
NOTE = (
    "From the threshold on, a calibrated probability, an image is called positive. It was chosen on images of which "
    "nothing was learned, none of them a test image. Predictive values are the shares of positive and negative answers "
    "that are right, where the finding is as frequent as in the test images or as a prevalence says. Net benefit is "
    "explained beside the curves."
)


def wished(text: str) -> tuple[str, float]:
    """ "sensitivity=0.95" -> ("sensitivity", 0.95).

    Raises:
        ConfigError: something else.
    """
    side, _, share = str(text).replace(" ", "").partition("=")
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if side not in SIDES or not 0 < value < 1:
        raise ConfigError(
            "give sensitivity=SHARE or specificity=SHARE, above 0 and below 1, for instance sensitivity=0.95"
        )
    return side, value


def _checked(text: str) -> str:
    return "{}={:g}".format(*wished(text))


@dataclass(frozen=True)
class Point:
    """The operating point of one finding.

    Attributes:
        threshold: the calibrated probability from which on it is called present.
        chosen_on: units that it was chosen from: groups (patients), or images, with the finding for a sensitivity,
            without it for a specificity.
        reached: between which shares the wished one lies on new images, as far as so many units tell.
        rates: on the test images; None where they have no labels.
        with_it, without_it: units of the test images.
        needed: rate -> units of its side that would tell it to within 5 points, where these do not.
        at_prevalence: predictive values where the finding is as frequent as was said, or None.
        net_benefit, of_everyone: of acting by the model, and on everyone, at this threshold.
    """

    threshold: float
    chosen_on: int
    reached: Sequence[float]
    rates: ThresholdRates | None = None
    with_it: int = 0
    without_it: int = 0
    needed: Mapping[str, int] | None = None
    at_prevalence: PredictiveValues | None = None
    net_benefit: float | None = None
    of_everyone: float | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """From metrics.json."""
        rates, at = values["rates"], values["at_prevalence"]
        nested = {"rates": rates and ThresholdRates(**rates), "at_prevalence": at and PredictiveValues(**at)}
        return cls(**{**values, **nested})

    def rows(self) -> list[tuple[str, str, str, str]]:
        """What it comes to on the test images: name, value, interval, counts."""
        if self.rates is None:
            return []
        true, false, missed, clear = self.rates.counts
        rates: dict[str, tuple[str, int, int]] = {
            "Sensitivity": ("sensitivity", true, true + missed),
            "Specificity": ("specificity", clear, clear + false),
            "Positive predictive value": ("ppv", true, true + false),
            "Negative predictive value": ("npv", clear, clear + missed),
        }
        rows, at = [], self.at_prevalence
        for title, (key, right, of) in rates.items():
            value, between = SHARE.text(getattr(self.rates, key)), SHARE.between(self.rates.intervals.get(key))
            rows.append((title, value, between, f"{right:,} of {of:,}"))
            if at is not None and key in ("ppv", "npv"):
                value, between = SHARE.text(getattr(at, key)), SHARE.between(getattr(at, f"{key}_interval"))
                rows.append((f"– at a prevalence of {at.prevalence:.3g}", value, between, ""))
        if self.net_benefit is not None and self.of_everyone is not None:
            benefit, everyone = (f"{value:.3f}".replace("-", "−") for value in (self.net_benefit, self.of_everyone))
            rows.append(("Net benefit", benefit, "", f"of acting on all {everyone}"))
        return rows


@dataclass(frozen=True, eq=False)
class OperatingPoints(Record):
    """Where findings are called present.

    Attributes:
        wanted: as --operating-point says it.
        assured: in 95 % of draws of the calibration rows, in place of on average.
        prevalence: for which predictive values are given too, or None.
        units: what is counted: "group" or "image".
        points: finding -> its point.
        refused: finding -> why it has none.
        reason: of two classes, why this one is the finding.
    """

    key: ClassVar[str] = "operating_point"
    wanted: str
    assured: bool
    prevalence: float | None
    units: str
    points: Mapping[str, Point]
    refused: Mapping[str, str]
    reason: str = ""

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = dict(metrics[cls.key])
        names = {each.name for each in fields(cls)}
        values["points"] = {name: Point.read(point) for name, point in values["points"].items()}
        return cls(**{key: value for key, value in values.items() if key in names})

    @property
    def title(self) -> str:
        side, share = wished(self.wanted)
        return f"Operating point: {side} of {share:.1%}{' with 95% assurance' if self.assured else ''}"

    def section(self) -> TableSection | None:
        rows: list[Any] = []
        for name, point in self.points.items():
            rows += [self._named(name, point), *point.rows()]
        return TableSection(self.title, HEADER, rows, NOTE, sub=True) if rows else None

    def table(self) -> Table | None:
        if not any(point.rates for point in self.points.values()):
            return None
        table = Table(title=self.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for name in HEADER:
            table.add_column(name.lower(), justify="right" if name else "left")
        for name, point in list(self.points.items())[:MOST_NAMED]:
            table.add_row(self._named(name, point))
            for title, value, between, counts in point.rows():
                table.add_row(f"  {title.lower()}", value, between.replace("% to ", "–"), counts)
        return table

    def _named(self, name: str, point: Point) -> str:
        return f"{name}, from a probability of {point.threshold:.3f} on"

    @property
    def notes(self) -> list[str]:
        side, share = wished(self.wanted)
        notes = []
        for name, point in list(self.points.items())[:MOST_NAMED]:
            (low, high), rows = point.reached, plural(point.chosen_on, f"calibration {self.units}")
            finding = f"“{name}” (the finding, {self.reason})" if self.reason else f"“{name}”"
            notes.append(
                f"operating point: an image is called {finding} from a probability of {point.threshold:.3f} on, chosen "
                f"on {rows} {_with(side)} it for a {side} of {share:.1%}; as far as these tell, it lies between "
                f"{low:.1%} and {high:.1%} on new ones"
            )
            if needed := (point.needed or {}).get(side):
                there = point.with_it if side == "sensitivity" else point.without_it
                notes.append(
                    f"to know the {side} for “{name}” to within 5 points takes {needed:,} test {self.units}s "
                    f"{_with(side)} it; there are {there:,}"
                )
        if self.refused:
            first = next(iter(self.refused))
            others = len(self.refused) - 1
            more = f", nor for {plural(others, 'other label')}" if others else ""
            notes.append(f"no operating point for “{first}”{more}: {self.refused[first]}")
        return notes


@dataclass(eq=False, kw_only=True)
class OperatingPoint(Judgement):
    """A threshold with a wished sensitivity or specificity, and what it does on test images."""

    record: ClassVar = OperatingPoints
    needs: ClassVar = frozenset({"of_findings"})
    asked_by: ClassVar = ("operating_point",)
    place: ClassVar = Place.SCORES
    refits: ClassVar = True
    lasts: ClassVar = True
    operating_point: str | None = option(
        None,
        "of two classes or several labels: call a finding present from the probability on that gives new images this "
        "sensitivity, or this specificity, chosen on calibration images; with sensitivity, specificity and predictive "
        "values on the test images",
        parse=_checked,
        metavar="sensitivity=0.95|specificity=0.9",
    )
    assured: bool = option(
        False,
        "choose the operating point so that 95 of 100 draws of the calibration images have that sensitivity or "
        "specificity, not their mean alone; takes more of them",
    )
    prevalence: float | None = option(
        None,
        "also give the predictive values of the operating point where this share of all has the finding",
        above=0,
        below=1,
        metavar="SHARE",
    )

    def check(self, adapter: Adapter, class_names: Sequence[str]) -> None:
        self._check(adapter.class_names_, adapter.multilabel_)  # on other classes a run is not judged by its findings

    def _check(self, class_names: Sequence[str], several: bool) -> None:
        if self.operating_point is not None:
            check_finding_option(self.operating_point, class_names, several, "--operating-point")
        elif self.prevalence is not None or self.assured:
            flag = "--assured" if self.prevalence is None else f"--prevalence {self.prevalence:g}"
            raise ConfigError(f"{flag}: is of an operating point; give --operating-point too, or omit it")

    def check_fit(self, adapter: Adapter, prepared: PreparedData, shots: int | None, given: Mapping[str, Any]) -> None:
        """Refuse what so few labelled images cannot give, wherever the calibration rows will be taken from."""
        names, several = prepared.class_names, several_in(prepared)
        self._check(names, several)
        if self.operating_point is None:
            return
        side, share = wished(self.operating_point)
        finding = given.get("finding") or (None if several else finding_in(prepared)[0])
        columns = [c for c, name in enumerate(names) if finding in (None, name)]
        units = max(_most_units(adapter, prepared, shots, column, side) for column in columns)
        if units < (least := least_units(share, self.assured)):
            whose = "a label" if several else f"“{finding}”"
            raise ConfigError(
                f"--operating-point {self.operating_point}: takes {least} labelled images (or groups of them) "
                f"{_with(side)} {whose} to choose a threshold from, and this fit has at most {units}; give more "
                f"(--shots), or a lower {side}"
            )

    def compute(self, fit: JudgedClassifier) -> OperatingPoints | None:
        """None where no image has a label.

        Raises:
            DataError: an evaluation was asked for one that cannot be chosen.
        """
        finding, wanted = fit.metrics.get(FindingScores.key), self.operating_point
        if finding is None or wanted is None:
            return None
        columns = {name: c for c, name in enumerate(fit.class_names) if finding["finding"] in (None, name)}
        points, refused = {}, {}
        for name, column in columns.items():
            try:
                points[name] = self._point(fit, column, *wished(wanted))
            except DataError as error:
                refused[name] = str(error)
        if not points and fit.use is not None and "operating_point" in fit.use.judging:
            raise DataError(f"--operating-point {wanted}: {next(iter(refused.values()))}")
        units = "image" if fit.calibration is None or fit.calibration.groups is None else "group"
        return OperatingPoints(wanted, self.assured, self.prevalence, units, points, refused, finding["reason"])

    def _point(self, fit: JudgedClassifier, column: int, side: str, share: float) -> Point:
        """Of one finding.

        Raises:
            DataError: there are too few calibration rows.
        """
        calibration = fit.calibration
        if calibration is None:
            raise DataError("there are no calibration rows")
        truth = present_of(calibration.labels, column)
        answered = ~truth.isnan()
        groups = (
            None if calibration.groups is None else [f"group {key}" for key in calibration.groups[answered].tolist()]
        )
        probs = calibration.row_probabilities[answered, column]
        cut = threshold_for(probs, truth[answered] == 1, **{side: share}, groups=groups, assured=self.assured)
        point = Point(cut.threshold, cut.units, cut.reached)
        return self._on_test(fit, column, point) if fit.labelled else point

    def _on_test(self, fit: JudgedClassifier, column: int, point: Point) -> Point:
        truth = present_of(fit.labels, column)
        answered, at = ~truth.isnan(), point.threshold
        present, probs = truth[answered] == 1, probabilities_of(fit)[answered, column]
        every = fit.scores.groups
        groups = None if every is None else [every[row] for row in answered.nonzero().flatten().tolist()]
        rates = rates_at(at, probs, present, groups)
        with_it, without_it = (_units(side, groups) for side in (present, ~present))
        both, needed, values = bool(with_it and without_it), {}, None
        for rate in SIDES if both else ():
            low, high = rates.intervals[rate]
            if high - low > WIDTH:
                needed[rate] = units_needed((low + high) / 2, WIDTH)
        if both and self.prevalence is not None:
            values = predictive_values_at(at, probs, present, self.prevalence, groups)
        benefit = decision_curve(probs, present, torch.tensor([at], dtype=torch.float64)) if at < 1 else None
        of_both = () if benefit is None else (float(benefit.model[0]), float(benefit.everyone[0]))
        counted = (rates, with_it, without_it, needed, values, *of_both)
        return Point(point.threshold, point.chosen_on, point.reached, *counted)


def thresholds_of(run: FittedRun) -> dict[str, float]:
    """Class or label of a run -> calibrated probability from which on it is called present; none without an operating
    point. With two classes that of the finding alone."""
    if not OperatingPoints.is_in(run.metrics):
        return {}
    return {name: point["threshold"] for name, point in run.metrics[OperatingPoints.key]["points"].items()}


def _most_units(adapter: Adapter, prepared: PreparedData, shots: int | None, column: int, side: str) -> int:
    """Units of a side that there are at most among the calibration rows: of the support or, for methods that are not
    fitted on parts of it, of val."""
    support, val = (_units_in(prepared, split, column, side) for split in ("train", "val"))
    if shots is not None and (side == "sensitivity" or not several_in(prepared)):
        support = min(support, shots)
    return max(support, val) if shots == 1 else val if expensive(adapter, prepared) else support


def _units_in(prepared: PreparedData, split: str, column: int, side: str) -> int:
    """Units of a side that a split has."""
    items = [item for item in prepared.data.split(split) if item.class_label() is not None]
    if not items:
        return 0
    labels = torch.tensor([item.class_label() for item in items])
    return _units(present_of(labels, column) == (side == "sensitivity"), [item.group for item in items])


def _units(chosen: Tensor, groups: Sequence[str | None] | None) -> int:
    """Groups of the rows (N,) that are chosen, or their number."""
    rows = chosen.nonzero().flatten().tolist()
    return units_of(None if groups is None else [groups[row] or "" for row in rows], len(rows))[1]


def _with(side: str) -> str:
    return "with" if side == "sensitivity" else "without"
