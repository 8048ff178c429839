"""Verdicts: whether a fit made something better, beyond chance, in words for a terminal and for the top of a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from ..contracts.run_info import BeforeAfter
from ..metrics.significance import SIGNIFICANT, p_words
from .sections import HeadlineSection, Measure, Number, Track, VerdictSection


class Verdict(ABC):
    """Base of the verdicts of all tasks."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """For a terminal and a log, one line or several; "" where nothing can be said."""

    @abstractmethod
    def section(self) -> VerdictSection | None:
        """For the report; None where nothing can be said."""


@dataclass(frozen=True, eq=False)
class TowerComparison(BeforeAfter, Verdict):
    """Base of what tasks that train towers read from metrics.json: scores before and after, which judge the change."""

    def headline(
        self, measures: Mapping[str, Measure], columns: Mapping[str, str], unit: str, of: str
    ) -> HeadlineSection:
        """The top of a report: some scores, the first one largest, each with its interval.

        Args:
            measures: metric -> how it is written.
            columns: side -> how it is called.
            unit: what intervals draw, such as "people".
            of: the test set, in words.
        """
        first, numbers, tracks, roles = next(iter(measures)), [], {}, {"guessing": "floor", "adapted": "adapted"}
        for key, measure in measures.items():
            was = f"before {measure.text(self.zero_shot[key])}" if self.zero_shot else ""
            numbers.append(Number(measure.name, measure.text(self.adapted[key]), was, main=key == first))
            tracks[measure.name] = [
                Track(name.capitalize(), self[side][key], self.interval(side, key), roles.get(side, ""))
                for side, name in columns.items()
            ]
        return HeadlineSection(numbers, tracks, measures[first], f"with 95% intervals (bootstrap over {unit})", of)


@dataclass(frozen=True)
class ExchangeVerdict(Verdict):
    """Of scores before and after a training, by permutation tests that exchange whole units.

    Args:
        tests: metric -> {"difference", "p_value"}; empty without scores before.
        measures: metric -> how it is written.
        unit: what is exchanged, such as "people".
        deciding: the metric that the title is about.
        titles: tone -> title, of "good", "open" and "bad".
    """

    tests: Mapping[str, Mapping[str, float]]
    measures: Mapping[str, Measure]
    unit: str
    deciding: str
    titles: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """A line for each metric."""
        sentences = []
        for key, test in self.tests.items():
            judged = "could be chance" if test["p_value"] >= SIGNIFICANT else "more than chance"
            change = f"{100 * test['difference']:+.1f} points".replace("-", "−")
            how = f"permutation test of whole {self.unit}, {p_words(test['p_value'])}"
            sentences.append(f"{self.measures[key].name} changed by {change}: {judged} ({how}).")
        return "\n".join(sentences)

    @property
    def tone(self) -> str:
        """Of the change in the metric that decides: "good", "bad", or "open" where it could be chance."""
        test = self.tests[self.deciding]
        if test["p_value"] >= SIGNIFICANT:
            return "open"
        return "good" if test["difference"] > 0 else "bad"

    def section(self) -> VerdictSection | None:
        return VerdictSection(self.tone, self.titles[self.tone], self.sentence) if self.tests else None
