"""What a stage of curation says of itself, beside its decisions; and which stages came before it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runtime.files import write_whole
from ..runtime.reading import read_json
from ..runtime.remote import is_url

RECORD = "_state/curation.json"


def write_record(decisions: Path, record: dict[str, Any]) -> None:
    """Write what ran, resolved."""
    (decisions / RECORD).parent.mkdir(parents=True, exist_ok=True)
    write_whole(decisions / RECORD, json.dumps(record, indent=2) + "\n")


def record_of(decisions: Path) -> dict[str, Any]:
    """What ran; its table and its sources are where they were, or beside the decisions where all were moved.

    Raises:
        DataError: no decisions there, or the stage has not ended.
    """
    path = decisions / RECORD
    if not path.is_file():
        raise DataError(f"{decisions}: not the decisions of a stage that has ended; run `vladapt curate` to its end")
    record = read_json(path)
    if not isinstance(record, dict):
        raise DataError(f"{path}: not a record of curation; run the stage again")
    if "table" in record:
        record["table"] = _now(str(record["table"]), decisions.parent / "tables")
    base, beside = Path(record.get("folder") or "."), decisions.absolute().parents[:2]
    record["sources"] = [_source(str(each), base, *beside) for each in record.get("sources") or ()]
    return record


def _source(name: str, base: Path, *folders: Path) -> str:
    """A source by the name that it was given where that still leads there: ids of loose images begin with it. Else
    where it was, or in one of some folders.

    Args:
        base: folder in which it was named.
    """
    if is_url(name):
        return name
    there = base / name
    if Path(name).exists() and (not there.exists() or Path(name).samefile(there)):
        return name
    return _now(str(there), *folders)


def _now(name: str, *folders: Path) -> str:
    """Where a file or folder is: where it was, or in one of some folders."""
    places = [] if is_url(name) else [Path(name), *(folder / Path(name).name for folder in folders)]
    return next((str(each) for each in places if each.exists()), name)


@dataclass(frozen=True)
class StageDone:
    """One stage of a curation, as pages and cards tell of it.

    Args:
        folder: of its decisions.
        record: what ran.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.record["curator"])

    @property
    def pairs(self) -> int:
        """That were still there."""
        return int(self.record["pairs"])

    @property
    def kept(self) -> int:
        return int(self.record["kept"])

    @property
    def without_features(self) -> int:
        """Pairs that were left out before it."""
        return int(self.record.get("without_features") or 0)

    @property
    def rewritten(self) -> int:
        """Pairs that are kept with another text."""
        return int(self.record.get("rewritten") or 0)

    @property
    def notes(self) -> list[str]:
        return [str(note) for note in self.record.get("notes") or ()]

    @property
    def rules(self) -> list[tuple[str, int]]:
        """(rule, how many pairs it dropped), the one that dropped most first."""
        return sorted(self.record["dropped"].items(), key=lambda each: -each[1])


def stages_of(decisions: Path) -> list[StageDone]:
    """All stages of `chain_of`."""
    return [StageDone(folder, record_of(folder)) for folder in chain_of(decisions)]


def chain_of(decisions: Path) -> list[Path]:
    """The folders of decisions on which one stands, the first first, and itself last; each once.

    Raises:
        DataError: one of them is gone, or they stand on each other in a circle.
    """
    chain: list[Path] = []

    def follow(folder: Path, below: tuple[Path, ...]) -> None:
        if folder in below:
            raise DataError(f"{folder}: comes after itself; run the stages again")
        if folder in chain:
            return
        for name in record_of(folder).get("after") or ():
            follow(_before(folder, str(name)), (*below, folder))
        chain.append(folder)

    follow(decisions, ())
    return chain


def _before(folder: Path, name: str) -> Path:
    """An earlier folder: where it was, or beside the later one where both were moved."""
    place = Path(_now(name, folder.parent))
    if not place.is_dir():
        raise DataError(f"{folder}: comes after {name}, which is gone; put it beside {folder.name}")
    return place


def last_of(folder: Path) -> Path:
    """The decisions that no others in their folder stand on; a folder of decisions is its own.

    Raises:
        DataError: no decisions in it, or several on which nothing stands.
    """
    if (folder / RECORD).is_file():
        return folder
    ended = sorted(file.parent.parent for file in folder.glob(f"*/{RECORD}"))
    before = {Path(str(name)).name for each in ended for name in record_of(each).get("after") or ()}
    last = [each for each in ended if each.name not in before]
    if len(last) != 1:
        which = f"give one of {', '.join(map(str, last[:3]))}" if last else "give a folder of `vladapt curate`"
        raise DataError(f"{folder}: {len(last) or 'no'} last stages of curation in it; {which}")
    return last[0]
