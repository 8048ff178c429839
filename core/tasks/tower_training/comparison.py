"""Scores of towers before and after a training: whether the change is more than chance, and a table for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from ...metrics.intervals import SIGNIFICANT
from ...metrics.significance import exchange_test, p_words
from ...runs.run_sections import TowerComparison
from ...runs.sections import Measure, VerdictSection


@dataclass(frozen=True, eq=False)
class ExchangeComparison(TowerComparison):
    """Base of comparisons that are judged by permutation tests, which exchange whole units.

    Class attributes:
        measures: metric -> how it is named and written, in the order of a table's rows.
        unit: what is exchanged, such as "people".
        deciding: the metric that the title is about.
        titles: tone -> title, of "good", "open" and "bad".
    """

    measures: ClassVar[Mapping[str, Measure]]
    unit: ClassVar[str]
    deciding: ClassVar[str]
    titles: ClassVar[Mapping[str, str]]

    @staticmethod
    def tests(
        before: Mapping[str, Tensor], after: Mapping[str, Tensor], names: Sequence[str], units: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """`exchange` of some metrics.

        Args:
            before, after: metric -> (Q,) what each query adds to it.
            units: Q keys; queries of one key are exchanged together.
        """
        gains = {name: after[name] - before[name] for name in names}
        return {
            name: {"difference": float(gain.mean()), "p_value": exchange_test(gain, units)}
            for name, gain in gains.items()
        }

    @property
    def sentence(self) -> str:
        """A line for each metric; "" without scores before."""
        sentences = []
        for key, test in self.exchange.items():
            judged = "could be chance" if test["p_value"] >= SIGNIFICANT else "more than chance"
            change = f"{100 * test['difference']:+.1f} points".replace("-", "−")
            how = f"permutation test of whole {self.unit}, {p_words(test['p_value'])}"
            sentences.append(f"{self.measures[key].name} changed by {change}: {judged} ({how}).")
        return "\n".join(sentences)

    @property
    def tone(self) -> str:
        """Of the change in the metric that decides: "good", "bad", or "open" where it could be chance."""
        test = self.exchange[self.deciding]
        if test["p_value"] >= SIGNIFICANT:
            return "open"
        return "good" if test["difference"] > 0 else "bad"

    def section(self) -> VerdictSection | None:
        return VerdictSection(self.tone, self.titles[self.tone], self.sentence) if self.exchange else None

    def score_table(self, columns: Mapping[str, str], title: str, caption: str, last: Collection[str] = ()) -> Table:
        """Scores with their intervals for a terminal.

        Args:
            columns: side -> title.
            last: metrics below which a line is drawn.
        """
        names = {key: f"{measure.name} {measure.arrow}" for key, measure in self.measures.items()}
        rows = {
            names[key]: {
                name: measure.text(self[side].get(key)) + interval_words(self.interval(side, key), measure)
                for side, name in columns.items()
            }
            for key, measure in self.measures.items()
        }
        return table_of(title, caption, rows, [names[key] for key in last])


def table_of(
    title: str, caption: str, rows: Mapping[str, Mapping[str, str]], last: Collection[str] = (), of: str = ""
) -> Table:
    """Rows as name -> title of a column -> cell, with `of` above the names; a line is drawn below the `last` ones."""
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column(of)
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells.values(), end_section=name in last)
    return table


def interval_words(bounds: Sequence[float] | None, measure: Measure | None = None) -> str:
    """In brackets, shares in whole percent; "" for none."""
    if bounds is not None and measure is not None and measure.kind != "share":
        return f" ({measure.between(bounds)})"
    return f" ({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}%)" if bounds else ""
