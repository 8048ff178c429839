"""What a stage of curation says of itself, beside its decisions; and which stages came before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runtime.files import write_whole
from ..runtime.reading import read_json

RECORD = "_state/curation.json"


def write_record(decisions: Path, record: dict[str, Any]) -> None:
    """Write what ran, resolved."""
    (decisions / RECORD).parent.mkdir(parents=True, exist_ok=True)
    write_whole(decisions / RECORD, json.dumps(record, indent=2) + "\n")


def record_of(decisions: Path) -> dict[str, Any]:
    """What ran.

    Raises:
        DataError: no decisions there, or the stage has not ended.
    """
    path = decisions / RECORD
    if not path.is_file():
        raise DataError(f"{decisions}: not the decisions of a stage that has ended; run `vladapt curate` to its end")
    record = read_json(path)
    if not isinstance(record, dict):
        raise DataError(f"{path}: not a record of curation; run the stage again")
    return record


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
    beside = folder.parent / Path(name).name
    place = next((each for each in (Path(name), beside) if each.is_dir()), None)
    if place is None:
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
