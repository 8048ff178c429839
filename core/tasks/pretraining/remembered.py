"""What each set scores after each stage of a training on one after the other: measured, stored, and told in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from ...contracts.run_info import JsonObject
from ...errors import DataError
from ...metrics.continual import ContinualScores, Estimate, SetRanks
from ...metrics.retrieval import Ranking
from ...runs.sections import Cell, TableSection, VerdictSection
from ...runtime.files import read_tensors, write_tensors
from ..retrieval.scoring import RetrievalScores
from ..tower_training.comparison import table_of

SUMMARIES = {
    "average": "Mean R@1 of all sets, at the end",
    "backward_transfer": "Backward transfer: the end less right after each set",
    "forgetting": "Forgetting: the best since each set less the end",
    "forward_transfer": "Forward transfer: right before each set less the start",
}
INTERVALS = {"r1": "interval", "accuracy": "accuracy_interval"}
"""Score of a set -> the key of its interval."""
BEFORE = "before"
MEASURE_AGAIN = "remove it and add --resume, and it is measured again"


@dataclass(frozen=True)
class StageScores:
    """What all sets score at one stage.

    Args:
        sets: of each set, its ranks; None where it was not measured.
        metrics: of each set, as `RetrievalMetrics.flat`, with "accuracy_interval" where images have classes; empty
            where it was not measured.
        generic: of the generic probe, {"top1", "top5", "interval"}; empty of towers without words.
    """

    sets: Sequence[SetRanks | None]
    metrics: Sequence[Mapping[str, Any]]
    generic: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Sequence[RetrievalScores | None], generic: Mapping[str, Any]) -> StageScores:
        """Of what `evaluate_retrieval` gave for each set."""
        ranks = [
            None if of is None else SetRanks({side: each.best.cpu() for side, each in of.rankings.items()}, of.units)
            for of in scores
        ]
        return cls(ranks, [{} if of is None else _flat(of) for of in scores], generic)

    def check_same_pairs(self, other: StageScores, path: Path) -> None:
        """Raise the DataError of a stage at `path` that was measured on other test pairs than another one."""
        for one, two in zip(self.sets, other.sets):
            if one and two and not all(units.equal(two.units[side]) for side, units in one.units.items()):
                raise DataError(
                    f"{path}: is of other test pairs than an earlier stage, so the data have changed since; train "
                    "again in another --out"
                )

    def save(self, path: Path) -> None:
        """Whole, or not at all."""
        tensors = {
            f"{number}/{kind}/{side}": rows.contiguous()
            for number, of in enumerate(self.sets)
            if of is not None
            for kind, sides in (("ranks", of.ranks), ("units", of.units))
            for side, rows in sides.items()
        }
        facts = {"metrics": self.metrics, "generic": self.generic, "sets": len(self.sets)}
        write_tensors(path, tensors, facts)

    @classmethod
    def load(cls, path: Path) -> StageScores:
        """As `save` wrote it.

        Raises:
            DataError: the file is damaged.
        """
        facts, tensors = read_tensors(path, MEASURE_AGAIN)
        try:
            sets: list[dict[str, dict[str, Tensor]]] = [{"ranks": {}, "units": {}} for _ in range(facts["sets"])]
            for key, rows in tensors.items():
                number, kind, side = key.split("/")
                sets[int(number)][kind][side] = rows
            metrics, generic = facts["metrics"], facts["generic"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"{path}: damaged ({error}); {MEASURE_AGAIN}") from error
        return cls([SetRanks(**of) if of["ranks"] else None for of in sets], metrics, generic)


@dataclass(frozen=True, eq=False)
class SetsRemembered(JsonObject):
    """Scores of sets that were trained on one after the other.

    Attributes:
        sets: their names.
        stages: {"after", "sets": per set its scores and "interval" of "r1", the mean of both directions; "generic"}.
        average, backward_transfer, forgetting, forward_transfer: {"value", "interval"}, of R@1, or None.
        transfer: per set its backward transfer, or None.
    """

    sets: Sequence[str] = ()
    stages: Sequence[Mapping[str, Any]] = ()
    average: Mapping[str, Any] | None = None
    backward_transfer: Mapping[str, Any] | None = None
    forgetting: Mapping[str, Any] | None = None
    forward_transfer: Mapping[str, Any] | None = None
    transfer: Sequence[Mapping[str, Any] | None] = ()

    @classmethod
    def of_stages(cls, sets: Sequence[str], after: Sequence[str], stages: Sequence[StageScores], seed: int):
        """Of all stages.

        Args:
            sets: names.
            after: what each stage comes after: "before", the sets, and further ones.
            seed: of the draws of test images.
        """
        table = ContinualScores([stage.sets for stage in stages], seed=seed)
        rows = [
            {"after": name, "sets": [_scores(table, stages, i, n) for n in range(len(sets))], "generic": stage.generic}
            for i, (name, stage) in enumerate(zip(after, stages))
        ]
        summaries = {name: _json(getattr(table, name)) for name in SUMMARIES}
        transfer = [_json(table.transfer(number)) for number in range(len(sets))]
        return cls.from_json({"sets": list(sets), "stages": rows, **summaries, "transfer": transfer})

    def table(self) -> Table:
        """For a terminal."""
        rows = {
            f"{'' if stage['after'] == BEFORE else 'after '}{stage['after']}": {
                **{name: _both(of) for name, of in zip(self.sets, stage["sets"])},
                "generic": _words(stage["generic"].get("top1"), stage["generic"].get("interval")),
            }
            for stage in self.stages
        }
        last = list(rows)[-1]
        rows["backward transfer"] = {name: _change(of) for name, of in zip(self.sets, self.transfer)}
        caption = "R@1, mean of both directions; 95 % intervals in brackets; generic: zero-shot top 1"
        caption += "; classes: images whose class the captions name" if self._classes else ""
        return table_of("Each set after each stage", caption, rows, [last])

    @property
    def sentences(self) -> list[str]:
        """A line for each summary."""
        summaries = {name: of for name in SUMMARIES if (of := self[name])}
        return [f"{SUMMARIES[name]}: {_summary(name, of)}." for name, of in summaries.items()]

    def sections(self) -> list[Any]:
        """Of the report."""
        keys = ["r1", *(["accuracy"] if self._classes else []), "r5", "r10"]
        return [self._verdict(), *map(self._table, keys), self._summaries()]

    @property
    def _classes(self) -> bool:
        """Whether images of a set have classes."""
        return any("accuracy" in of for stage in self.stages for of in stage["sets"])

    def _verdict(self) -> VerdictSection | None:
        of = self.backward_transfer
        if of is None:
            return None
        low, high = of["interval"] or (-1.0, 1.0)
        tone, title = ("bad", "Earlier sets were forgotten, by more than chance") if high < 0 else ("open", "")
        tone, title = ("good", "Earlier sets gained from later ones") if low > 0 else (tone, title)
        return VerdictSection(tone, title or "No loss on earlier sets beyond chance", "\n".join(self.sentences))

    def _table(self, key: str) -> TableSection:
        header = ["After", *self.sets, *(["Generic, top 1"] if key == "r1" else [])]
        rows = []
        for stage in self.stages:
            cells = [_cell(of.get(key), of.get(INTERVALS.get(key, ""))) for of in stage["sets"]]
            generic = [_cell(stage["generic"].get("top1"), stage["generic"].get("interval"))] if key == "r1" else []
            rows.append([stage["after"], *cells, *generic])
        if key == "accuracy":
            note = "Share of the test images of each set whose class its captions name."
            return TableSection("Classes of each set after each stage", header, rows, note)
        note = "The mean of both directions on the test pairs of each set."
        return TableSection(f"{key.upper().replace('R', 'R@')} of each set after each stage", header, rows, note)

    def _summaries(self) -> TableSection:
        rows = [[title, _summary(name, of)] for name, title in SUMMARIES.items() if (of := self[name])]
        note = "Intervals are of differences between stages on the same test images, drawn with replacement."
        return TableSection("What was kept", ("Of R@1", "Value, 95 % interval"), rows, note)


def _flat(scores: RetrievalScores) -> dict[str, Any]:
    interval = scores.metrics.intervals.get("accuracy")
    return scores.metrics.flat | ({} if interval is None else {INTERVALS["accuracy"]: list(interval)})


def _both(of: Mapping[str, Any]) -> str:
    """R@1, and how often classes are named."""
    named = of.get("accuracy")
    classes = "" if named is None else f"\nclasses {_words(named, of.get(INTERVALS['accuracy']))}"
    return _words(of.get("r1"), of.get("interval")) + classes


def _scores(table: ContinualScores, stages: Sequence[StageScores], stage: int, number: int) -> dict[str, Any]:
    of = stages[stage].sets[number]
    if of is None:
        return {}
    means, estimate = {f"r{k}": of.score(k) for k in Ranking.RECALL_AT}, table.score(stage, number)
    assert estimate is not None  # of what was measured there is a score
    return {**means, "interval": estimate.interval, **stages[stage].metrics[number]}


def _json(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)


def _words(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _cell(value: float | None, interval: Sequence[float] | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value:.1%}", "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}")


def _summary(name: str, of: Mapping[str, Any]) -> str:
    return _words(of["value"], of["interval"]) if name == "average" else _change(of)


def _change(of: Mapping[str, Any] | None) -> str:
    """In points, with its interval."""
    if of is None:
        return "–"
    interval = of["interval"]
    return f"{100 * of['value']:+.1f} points" + (
        f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else ""
    )
