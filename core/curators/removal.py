"""What must not be there: opt-outs and takedowns by id, and images whose sums are on a list of known ones."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..data import ArrayFile
from ..errors import ConfigError, DataError, shortened
from ..runtime.reading import text_lines
from ._copies import plain_sum

KINDS = {32: "md5", 64: "sha256"}
"""Hexadecimal digits of a sum -> what it is."""
HEXADECIMAL = re.compile(r"[0-9a-f]+")


@dataclass(eq=False, kw_only=True)
class Removal(Curator):
    """Drops the pairs of a list of ids, and those whose image has one of the sums of another list. Known illegal images
    are no matter of a classifier: hotlines give out such lists.

    A sum is of the bytes of the file: another size or quality of the same image has another one.

    Example:
        >>> build_curator("removal", ids="opt-outs.txt").decide_all(pairs).keep.sum()
        998
    """

    stage: ClassVar[str] = "decontaminate"

    ids: str | None = option(None, "file of ids that are removed, one per line, or DataComp's .npy of uids")
    hashes: str | None = option(None, "file of sha256 or md5 sums of images that are removed, one per line")

    def __post_init__(self):
        super().__post_init__()
        if not (self.ids or self.hashes):
            raise ConfigError("curator 'removal': neither ids nor hashes; give a file of one of them")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(sorted(self._sums))

    def check(self, columns: Collection[str]) -> None:
        _ = self._ids, self._sums

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        seen = 0
        for rows in pairs.blocks():
            seen += int(self._listed(pairs, rows).sum())
            progress(min(rows.stop, len(pairs)), len(pairs))
        lost = len(self._ids) - seen
        note = f"{lost:,} of {len(self._ids):,} ids of {Path(str(self.ids)).name} are of none of these pairs."
        return Survey(notes=(note,) if lost else ())

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rows, fails = slice(None), {}
        if self.ids:
            fails["removed by id"] = self._listed(pairs, rows)
        if self.hashes:
            fails["known image"] = np.zeros(len(pairs), bool)
        for kind, sums in self._sums.items():
            fails["known image"] |= np.fromiter(
                (plain_sum(s) in sums for s in pairs.strings(kind, rows)), bool, len(pairs)
            )
        return Decision.of(fails)

    def _listed(self, pairs: PairTable, rows: slice) -> np.ndarray:
        names = pairs.names(rows)
        return np.fromiter((name in self._ids for name in names), bool, len(names))

    @cached_property
    def _ids(self) -> frozenset[str]:
        return read_ids(Path(self.ids)) if self.ids else frozenset()

    @cached_property
    def _sums(self) -> dict[str, frozenset[str]]:
        return read_sums(Path(self.hashes)) if self.hashes else {}


def read_ids(path: Path) -> frozenset[str]:
    """Ids of a file: one per line, or an .npy of dtype "u8,u8" as of DataComp.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    if path.suffix.lower() == ".npy":
        array = ArrayFile(path).single()
        try:
            ids = frozenset(f"{upper:016x}{lower:016x}" for upper, lower in array.tolist())
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: not an array of DataComp's uids, of dtype u8,u8 ({error}); replace it") from error
    else:
        lines = (line.rstrip("\r\n") for line in text_lines(path, "write one id per line"))
        ids = frozenset(line for line in lines if line.strip())
    if not ids:
        raise DataError(f"{path}: empty; write one id per line")
    return ids


def read_sums(path: Path) -> dict[str, frozenset[str]]:
    """ "sha256" and "md5" -> the sums of a file, one per line in hexadecimal digits; what follows one does not count.

    Raises:
        DataError: it cannot be read, is empty, or a line is no such sum.
    """
    sums: dict[str, set[str]] = {}
    for number, line in enumerate(text_lines(path, "write one sum per line"), start=1):
        first = re.split(r"[\s,;]", line.strip(), maxsplit=1)[0]
        if not first or first.startswith("#"):
            continue
        first = plain_sum(first)
        if len(first) not in KINDS or not HEXADECIMAL.fullmatch(first):
            raise DataError(
                f"{path} line {number}: '{shortened(first, 40)}' is neither a sha256 (64 hexadecimal digits) nor an "
                "md5 (32); write one sum per line"
            )
        sums.setdefault(KINDS[len(first)], set()).add(first)
    if not sums:
        raise DataError(f"{path}: empty; write one sum per line")
    return {kind: frozenset(some) for kind, some in sums.items()}
