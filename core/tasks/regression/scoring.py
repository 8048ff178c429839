"""Scores of a head on a test set beside two baselines, the training mean and ridge on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from ...contracts.run_info import BeforeAfter
from ...metrics.numbers import NumberSums
from ...runs.run_sections import Verdict
from ...runs.sections import Measure, VerdictSection
from .heads import NumberHead, NumberRows
from .predictions import interval_text, number_text

TRAIN_MEAN, RIDGE = BASELINES = ("train-mean", "ridge")
ADAPTED, DECIDING = "adapted", "rmse"
MEASURES = {
    "mae": Measure("MAE", "mean absolute error, in the unit of the numbers", "number", falls=True),
    "rmse": Measure("RMSE", "root of the mean squared error, in the same unit", "number", falls=True),
    "r2": Measure("R2", "share of the variance of the test numbers that is explained; 0 is their own mean", "number"),
    "r2_of_train_mean": Measure("R2 against the training mean", "the same, where 0 is the training mean", "number"),
    "bias": Measure("Bias", "mean of predicted minus true", "number"),
}
TITLES = {
    "good": "Better than the better baseline",
    "bad": "Worse than the better baseline",
    "open": "No better than the better baseline, as far as these test images tell",
}


@dataclass(frozen=True)
class NumberAnswers:
    """What a head and the baselines say of a test set.

    Attributes:
        rows: of the test set.
        predicted: (N,).
        half_widths: (N,) of its intervals; None without any.
        sums: side -> errors by place: `ADAPTED` and the baselines.
        baselines: by name.
    """

    rows: NumberRows
    predicted: Tensor
    half_widths: Tensor | None
    sums: Mapping[str, NumberSums]
    baselines: Mapping[str, NumberHead]

    @classmethod
    def of(
        cls, head: NumberHead, rows: NumberRows, baselines: Mapping[str, NumberHead], frozen: NumberRows | None = None
    ) -> NumberAnswers:
        """Of one head.

        Args:
            rows: as the head sees them.
            baselines: by name.
            frozen: the same rows as the baselines see them, where the towers were trained.
        """
        seen = rows if frozen is None else frozen
        predicted = {ADAPTED: head.answers(rows.features)}
        predicted |= {name: each.answers(seen.features) for name, each in baselines.items()}
        centre = float(next(iter(baselines.values())).mean)
        sums = {name: NumberSums.of(each, rows.numbers, centre, rows.groups) for name, each in predicted.items()}
        return cls(rows, predicted[ADAPTED], head.half_widths(rows.features), sums, baselines)

    def metrics(self, head: NumberHead) -> dict[str, Any]:
        """As metrics.json has them."""
        scores = {name: each.metrics() for name, each in self.sums.items()}
        better = min(BASELINES, key=lambda name: scores[name][DECIDING] or 0.0)
        groups = {} if self.sums[ADAPTED].units == len(self.rows) else {"test_groups": self.sums[ADAPTED].units}
        intervals = None
        if head.intervals is not None:
            scales = head.scales(self.rows.features)
            intervals = head.intervals.scores(self.predicted, self.rows.numbers, self.rows.groups, scales)
        return {
            "zero_shot": None,
            ADAPTED: scores[ADAPTED],
            "baselines": {name: scores[name] for name in BASELINES},
            "intervals": {name: each.intervals() for name, each in self.sums.items()},
            "better_baseline": better,
            "gain": vars(self.sums[ADAPTED].gain(self.sums[better], DECIDING)),
            "number_intervals": intervals,
            "column": head.column,
            "test_images": len(self.rows),
            **groups,
        }


@dataclass(frozen=True, eq=False)
class NumberComparison(BeforeAfter, Verdict):
    """What metrics.json says of a regression.

    Attributes:
        baselines: name -> metrics.
        better_baseline: the one with the lower RMSE.
        gain: of RMSE over it, with its paired interval.
        number_intervals: their measured coverage; empty without intervals.
        column: what the numbers are of.
    """

    baselines: Mapping[str, Any] = field(default_factory=dict)
    better_baseline: str = ""
    gain: Mapping[str, Any] = field(default_factory=dict)
    number_intervals: Mapping[str, Any] = field(default_factory=dict)
    column: str = ""

    @property
    def tone(self) -> str:
        """Of the difference to the better baseline."""
        interval = self.gain.get("interval")
        if not interval or interval[0] <= 0 <= interval[1]:
            return "open"
        return "good" if interval[0] > 0 else "bad"

    @property
    def sentence(self) -> str:
        if not self.gain:
            return ""
        lower, interval, units = self.gain["value"], self.gain["interval"], self._units
        than = "the training mean" if self.better_baseline == TRAIN_MEAN else "ridge on frozen features"
        if lower == 0 and interval in (None, [0, 0]):
            return f"RMSE is that of {than}."
        how = f"lower by {number_text(lower)}" if lower >= 0 else f"higher by {number_text(-lower)}"
        if not interval:
            return f"RMSE is {how} than that of {than}; one test image or group has no interval, so it can be chance."
        chance = {"good": "more than chance", "bad": "more than chance", "open": "it can be chance"}[self.tone]
        between = interval_text(interval if lower >= 0 else [-bound for bound in reversed(interval)])
        return f"RMSE is {how} than that of {than}: {chance} (paired 95 % interval over {units}: {between})."

    def section(self) -> VerdictSection | None:
        text = "\n".join(filter(None, (self.sentence, self.coverage_words)))
        return VerdictSection(self.tone, TITLES[self.tone], text) if self.gain else None

    @property
    def coverage_words(self) -> str:
        """How often the intervals hold the true number, in a sentence."""
        held = self.number_intervals
        if not held or held.get("mean_width") is None:
            return ""
        low, high = held["interval"]
        return (
            f"The {held['asked']:.0%} intervals hold the true number of {held['coverage']:.1%} of the test images "
            f"(95 % interval {low:.1%} to {high:.1%}); they are {number_text(held['mean_width'])} wide on average."
        )

    @property
    def _units(self) -> str:
        units = self.gain["units"]
        return f"{units} groups" if self.test_groups else f"{units} images"

    def table(self) -> Table:
        """For a terminal: the method beside the baselines."""
        made = Table(
            title=f"{self.column}, {self.test_images} test images",
            title_justify="left",
            caption=self.coverage_words,
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        made.add_column("")
        for name in self.sides():
            made.add_column(name, justify="right")
        for key, measure in MEASURES.items():
            cells = ["\n".join(filter(None, texts)) for texts in self.texts(key, digits=3)]
            made.add_row(measure.name if key == "bias" else f"{measure.name} {measure.arrow}", *cells)
        return made

    def texts(self, key: str, digits: int = 4) -> list[tuple[str, str]]:
        """Of each side the value of a measure and its interval, "" for none: R2 in thousandths, errors in their unit.

        Args:
            digits: of the limits of an error's interval.
        """
        texts = []
        for side, of in self.sides().values():
            value, interval = of.get(key), self.interval(side, key)
            if key.startswith("r2"):
                limits = " to ".join(_thousandths(limit) for limit in interval or ())
                texts.append(("–" if value is None else _thousandths(value), limits))
            else:
                texts.append((number_text(value), interval_text(interval, digits=digits)))
        return texts

    def sides(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Heading -> side and its metrics, the baselines first."""
        named = {"training mean": TRAIN_MEAN, "ridge": RIDGE}
        baselines = {title: (name, self.baselines.get(name) or {}) for title, name in named.items()}
        return {**baselines, "this run": (ADAPTED, self.adapted)}


def _thousandths(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no -0.000
