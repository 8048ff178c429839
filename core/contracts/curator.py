"""A curator: which pairs of image and text are worth training on, and with which weight."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError, DataError
from .options import options_of, settle
from .shown import in_short

if TYPE_CHECKING:
    import pyarrow

IMAGE_FEATURES, CAPTION_FEATURES, TEXT = "image_features", "caption_features", "text"
STAGES = ("filter", "dedup", "prune", "subset", "balance", "decontaminate")
"""Commands of `vladapt curate` that run curators."""
KEPT = 0
"""Of `Decision.reason`: nothing speaks against the pair."""
ROWS_AT_ONCE = 4096
"""Whose features, in float32, an allocator hands out again: of 65,536 rows five times the CPU goes into fresh pages."""
CURES = {
    IMAGE_FEATURES: "give --features, the folder of `vladapt embed SOURCES --as parquet --captions --out DIR`",
    CAPTION_FEATURES: "give --features, the folder of `vladapt embed SOURCES --as parquet --captions --out DIR`",
    TEXT: "the pairs need texts: .txt members of tars, or a column text or caption",
}
"""How a column that is missing can be had."""


@dataclass(frozen=True, eq=False)
class PairTable:
    """Pairs of one set in ascending order of their ids, so that nothing depends on the order of files, and of two equal
    scores the smaller id is first. Columns lie on disk and are read where they are asked for.

    Args:
        ids: (N,) strings, ascending, each once.
        columns: name -> (N,) numbers or flags, (N, D) features, or N strings of Arrow.
        encoder: of the features; "" where there are none.
        positions: (M,) int64, ascending: those of the N rows that this table shows; None for all.
        spec: what the encoder is called as a backbone; "" where that is not known.
    """

    __repr__ = in_short

    ids: pyarrow.Array
    columns: Mapping[str, Any]
    encoder: str = ""
    positions: np.ndarray | None = None
    spec: str = ""

    @classmethod
    def of(cls, ids: Sequence[str], encoder: str = "", **columns: Any) -> PairTable:
        """A table in memory.

        Args:
            ids: in any order.
            columns: name -> N strings, numbers, or rows of features, in the order of `ids`.

        Raises:
            DataError: an id occurs twice, or a column is not as long as they are.
        """
        import pyarrow as pa

        order = sorted(range(len(ids)), key=ids.__getitem__)
        if any(ids[one] == ids[other] for one, other in pairwise(order)):
            raise DataError("ids: one occurs twice; make them unique")
        held: dict[str, Any] = {}
        for name, values in columns.items():
            if len(values) != len(ids):
                raise DataError(f"column '{name}': {len(values)} entries for {len(ids)} ids")
            words = len(values) and (values[0] is None or isinstance(values[0], str))
            held[name] = pa.array([values[i] for i in order], pa.string()) if words else np.asarray(values)[order]
        return cls(pa.array([ids[i] for i in order], pa.string()), held, encoder)

    def __len__(self) -> int:
        return len(self.ids) if self.positions is None else len(self.positions)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def need(self, *names: str) -> None:
        """Raise the DataError that says which column is missing, and how it can be had."""
        for name in names:
            if name not in self.columns:
                cure = CURES.get(name, f"give a table with a column '{name}'")
                raise DataError(f"the pairs have no column '{name}'; {cure}")

    def among(self, rows: np.ndarray | slice) -> PairTable:
        """Some of its rows.

        Args:
            rows: (M,) positions in this table, ascending, or flags (N,), or a slice.
        """
        mine = np.arange(len(self.ids)) if self.positions is None else self.positions
        return replace(self, positions=mine[rows])

    def blocks(self, size: int = ROWS_AT_ONCE) -> Iterator[slice]:
        """Ranges of positions that cover it, in order."""
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def names(self, rows: np.ndarray | slice = slice(None)) -> list[str]:
        """Ids of some rows."""
        return self._of(self.ids, rows).to_pylist()

    def strings(self, name: str, rows: np.ndarray | slice = slice(None)) -> list[str]:
        """Entries of a column of strings; "" where there is none.

        Raises:
            DataError: no such column, or one of numbers.
        """
        self.need(name)
        if isinstance(self.columns[name], np.ndarray):
            raise DataError(f"column '{name}': these are numbers; give strings")
        return [each or "" for each in self._of(self.columns[name], rows).to_pylist()]

    def numbers(self, name: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Entries of a column of numbers or flags.

        Raises:
            DataError: no such column, or one of strings.
        """
        self.need(name)
        if not isinstance(self.columns[name], np.ndarray):
            raise DataError(f"column '{name}': these are strings; give numbers")
        return np.asarray(self._of(self.columns[name], rows))

    def unit(self, name: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(M, D) float32 rows of length 1, of features; what is all zero stays so.

        Raises:
            DataError: no such column.
        """
        features = self.numbers(name, rows).astype(np.float32)
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        return np.divide(features, norms, out=features, where=norms > 0)

    def uniform(self, seed: int, rows: np.ndarray | slice = slice(None), *, purpose: str) -> np.ndarray:
        """(M,) float64 in [0, 1), each drawn by the hash of its id, the seed and the purpose, whatever else is in the
        set.

        Args:
            purpose: what is drawn, such as the name of the curator. Draws for two purposes are independent, so that a
                stage does not draw again what the one before it drew.
        """
        key = seed.to_bytes(8, "little", signed=True)
        salt = hashlib.blake2b(purpose.encode(), digest_size=hashlib.blake2b.PERSON_SIZE).digest()
        hashed = (hashlib.blake2b(i.encode(), digest_size=8, key=key, person=salt) for i in self.names(rows))
        digests = b"".join(each.digest() for each in hashed)
        return (np.frombuffer(digests, "<u8") >> np.uint64(11)).astype(np.float64) / 2**53

    def _of(self, column: Any, rows: np.ndarray | slice) -> Any:
        if self.positions is None and isinstance(rows, slice):
            return column[rows]
        places = np.arange(len(self.ids))[rows] if self.positions is None else self.positions[rows]
        return column[places] if isinstance(column, np.ndarray) else column.take(places)


@dataclass(frozen=True, eq=False)
class Survey:
    """What must be learned of all pairs before one is judged. It is computed once, and kept beside the decisions.

    Args:
        whole: name -> array of the set, such as a threshold, counts, or centroids.
        rows: name -> (N, ...) array with an entry per pair.
        notes: what the user is to be told, a sentence each.
    """

    whole: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Decision:
    """What is decided of N pairs.

    Args:
        reason: (N,) integers: `KEPT`, or 1 + the number of the first rule that drops the pair.
        rules: in short words, such as "fewer than 3 words".
        weight: (N,) float32, how often a pair that is kept should be seen; None for once.
        scores: name -> (N,) float32.
        captions: N texts that stand for those of the pairs, None where a text stays; None for a curator that changes
            none.
    """

    reason: np.ndarray
    rules: tuple[str, ...]
    weight: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    captions: Sequence[str | None] | None = None

    @classmethod
    def of(
        cls,
        fails: Mapping[str, np.ndarray],
        weight: np.ndarray | None = None,
        scores: Mapping[str, np.ndarray] | None = None,
        captions: Sequence[str | None] | None = None,
    ) -> Decision:
        """From rules in their order.

        Args:
            fails: rule -> (N,) flags of the pairs that it drops; at least one rule.
        """
        flags = np.stack([np.asarray(each, bool) for each in fails.values()])
        reason = np.where(flags.any(axis=0), flags.argmax(axis=0) + 1, KEPT)
        return cls(reason, tuple(fails), weight, scores or {}, captions)

    @property
    def keep(self) -> np.ndarray:
        """(N,) flags."""
        return self.reason == KEPT


Progress = Callable[[int, int], None]
"""(rows done, rows in all)."""


@dataclass(eq=False, kw_only=True)
class Curator(ABC):
    """Base of all curators: one file in `core/curators/` or in `curators/` of a domain, one subclass, its options as
    `option` fields, the paper in its docstring.

    What needs no more than the pair itself is decided in `decide`, which is called with blocks of rows, in any process.
    What depends on all pairs is told by `survey`, which is called once. Neither may depend on the order of the inputs,
    nor on the size of the blocks; what is random comes from `PairTable.uniform`.

    Class attributes:
        name: set by the registry, from the file.
        stage: of `STAGES`.
    """

    name: ClassVar[str] = ""
    stage: ClassVar[str] = ""

    def __post_init__(self):
        settle(self, f"curator '{self.name}'")

    def refuse_unused(self, why: str, *names: str) -> None:
        """Raise ConfigError where one of these options is not at its default, but has no effect.

        Args:
            why: in short words, what makes it so.
        """
        for each in options_of(type(self)):
            if each.name in names and getattr(self, each.name) != each.default:
                raise ConfigError(f"curator '{self.name}': {each.name} has no effect: {why}; omit {each.name}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that it needs, with its options as they are."""
        return ()

    @property
    def may_read(self) -> tuple[str, ...]:
        """Columns that it looks at where the pairs have them."""
        return ()

    def check(self, columns: Collection[str]) -> None:
        """Raise what is missing here, a package or a file, before pairs are read.

        Args:
            columns: those that the pairs will have.
        """

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        """What must be learned of all pairs.

        Args:
            pairs: all that are still there; memory must stay flat as they grow: read them by `blocks`.
        """
        return Survey()

    @abstractmethod
    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        """What becomes of some pairs.

        Args:
            pairs: a block.
            survey: `whole` as it was made, `rows` those of this block.
        """

    def decide_all(self, pairs: PairTable) -> Decision:
        """Survey and decision of a whole table, in memory.

        Raises:
            DataError: a column that it reads is missing, or there are no pairs.
        """
        pairs.need(*self.reads)
        if not len(pairs):
            raise DataError("there are no pairs")
        return self.decide(pairs, self.survey(pairs))
