"""A curator at work on a table: its survey once, then its decisions, shard by shard, whoever runs them.

OUT/<hash of settings>/part-*.parquet     id, keep, weight, reason, score_<name>: of each pair that was still there;
                                          caption, of a curator that changes texts: null where one stays
OUT/<hash of settings>/_state/survey/     what was learned of all pairs, and what the user was told
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..errors import DataError
from ..registry import build_curator
from ..shards import Manifest, Stage
from ..shards.sources import ShardRow, Source
from ..shards.task import settings_hash
from .stored import readable_table
from .table import open_table, whole_folder

if TYPE_CHECKING:
    import pyarrow

NOTES = "notes.json"
SCORE, CAPTION = "score_", "caption"


@dataclass(frozen=True)
class TableRows(Source):
    """Rows of a table by number: `DecisionStage` reads the columns itself."""

    KIND = "table"

    def read(self, start: int, stop: int | None, columns: tuple[str, ...] = ()) -> Iterator[ShardRow]:
        return self._rows(start, stop, columns)

    def _rows(self, start: int, stop: int | None, columns: tuple[str, ...]) -> Iterator[ShardRow]:
        return (ShardRow(str(number)) for number in range(start, self.count_rows() if stop is None else stop))


@dataclass(frozen=True)
class DecisionStage(Stage):
    """Decisions of one curator.

    Args:
        curator: its name.
        options: of it.
        table: folder of the table.
        positions: file of the positions that are still there, .npy; "" for all.
        scores: names of the scores that it gives.
        captions: whether it changes texts.
        facts: of what the decisions depend on besides: hashes of table, positions and files of options.
        survey: folder of the survey; "" until it is made.
    """

    curator: str
    options: Mapping[str, Any]
    table: str
    positions: str
    facts: tuple[str, ...]
    survey: str = ""
    scores: tuple[str, ...] = ()
    captions: bool = False

    @property
    def name(self) -> str:
        return f"curate {self.curator}"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"curator": self.curator, "options": resolved(self.build()), "facts": list(self.facts)}

    @property
    def hash(self) -> str:
        """Of what is decided, whatever the size of the shards."""
        return settings_hash(self.settings)

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        columns = [("id", pa.string()), ("keep", pa.bool_()), ("weight", pa.float32()), ("reason", pa.string())]
        columns += [(f"{SCORE}{name}", pa.float32()) for name in self.scores]
        return pa.schema([*columns, *([(CAPTION, pa.string())] if self.captions else [])])

    def build(self) -> Curator:
        return build_curator(self.curator, **self.options)

    def pairs(self) -> PairTable:
        """Those that are still there."""
        table = open_table(Path(self.table))
        return table.among(np.load(self.positions, "r")) if self.positions else table

    def start(self, threads: int | None) -> AtWork:
        return AtWork(self.build(), self.pairs(), read_survey(Path(self.survey)))

    def run(self, state: AtWork, rows: Iterator[ShardRow], batch_size: int) -> Iterator[pyarrow.Table]:
        import pyarrow as pa

        for some in iter(lambda: list(islice(rows, batch_size)), []):
            block = slice(int(some[0].id), int(some[-1].id) + 1)
            made = state.decide(block)
            words = np.array(["", *made.rules], object)[made.reason]
            weight = made.keep.astype(np.float32) if made.weight is None else np.where(made.keep, made.weight, 0)
            columns = [
                pa.array(state.pairs.names(block), pa.string()),
                pa.array(made.keep),
                pa.array(weight.astype(np.float32)),
                pa.array(words.tolist(), pa.string()),
                *(pa.array(np.asarray(made.scores[name], np.float32)) for name in self.scores),
            ]
            if self.captions:
                columns.append(pa.array(made.captions or [None] * len(some), pa.string()))
            yield pa.Table.from_arrays(columns, schema=self.schema)

    def manifest(self) -> Manifest:
        """The rows to be decided, as inputs of a job."""
        return Manifest((TableRows(self.table, "pairs", self.hash, len(self.pairs())),))


def resolved(curator: Curator) -> dict[str, Any]:
    """All options of a curator as they are, those that nobody gave too, as JSON."""
    options = {each.name: getattr(curator, each.name) for each in fields(curator) if not each.name.startswith("_")}
    return json.loads(json.dumps(options, default=str))


@dataclass
class AtWork:
    """What a worker holds: a curator, the pairs, and what was learned of them."""

    curator: Curator
    pairs: PairTable
    survey: Survey

    def decide(self, block: slice) -> Decision:
        rows = {name: np.asarray(values[block]) for name, values in self.survey.rows.items()}
        return self.curator.decide(self.pairs.among(block), Survey(self.survey.whole, rows, self.survey.notes))


def survey_pairs(stage: DecisionStage, folder: Path, progress: Progress = lambda done, total: None) -> Survey:
    """What is to be learned of all pairs, made unless it lies in a folder.

    Raises:
        DataError: a column that the curator reads is missing, or there are no pairs.
    """
    if (folder / NOTES).is_file():
        return read_survey(folder)
    curator, pairs = stage.build(), stage.pairs()
    pairs.need(*curator.reads)
    if not len(pairs):
        raise DataError("no pairs are left")
    survey = curator.survey(pairs, progress)
    with whole_folder(folder, NOTES) as work:
        for kind in ("whole", "rows"):
            for name, values in getattr(survey, kind).items():
                np.save(work / f"{kind}.{name}.npy", np.asarray(values), allow_pickle=False)
        (work / NOTES).write_text(json.dumps(survey.notes))
    return survey


def read_survey(folder: Path) -> Survey:
    """A survey that lies on the disk; what has an entry per pair is mapped, not read.

    Raises:
        DataError: it is not whole.
    """
    held: dict[str, dict[str, np.ndarray]] = {"whole": {}, "rows": {}}
    try:
        for file in sorted(folder.glob("*.npy")):
            kind, name = file.stem.split(".", 1)
            held[kind][name] = np.load(file, "r" if kind == "rows" else None, allow_pickle=False)
        notes = tuple(json.loads((folder / NOTES).read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a whole survey ({error}); remove the folder") from None
    return Survey(held["whole"], held["rows"], notes)


@dataclass
class _Tally:
    """What decisions amount to.

    Args:
        pairs, kept: how many.
        dropped: rule -> how many pairs.
        weight: sum of the weights.
        rewritten: pairs that are kept with another text.
    """

    pairs: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    weight: float = 0.0
    rewritten: int = 0


def tally(folder: Path) -> _Tally:
    """Of a folder of decisions."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    made = _Tally()
    for file in sorted(folder.glob("part-*.parquet")):
        with readable_table(file), pq.ParquetFile(file) as opened:
            names = {"reason", "weight", CAPTION} & set(opened.schema_arrow.names)
            table = opened.read(sorted(names))
        made.pairs += len(table)
        made.weight += float(table.column("weight").to_numpy().sum(dtype=np.float64))
        for each in table.column("reason").value_counts().to_pylist():
            made.dropped[each["values"]] = made.dropped.get(each["values"], 0) + each["counts"]
        if CAPTION in names:
            made.rewritten += pc.and_(pc.equal(table["reason"], ""), table[CAPTION].is_valid()).to_numpy().sum()
    made.kept, made.rewritten = made.dropped.pop("", 0), int(made.rewritten)
    return made
