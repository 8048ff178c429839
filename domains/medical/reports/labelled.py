"""Findings that others made: tables of CheXbert, JSON of RadGraph, JSON and arrays of MedKLIP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....core.data import Table
from ....core.errors import DataError
from ....core.runtime import read_json
from .reading import study_column_of, study_in, study_of
from .records import ABSENT, PRESENT, UNCERTAIN, ReportFinding
from .vocabulary import GAP, phrases

CHEXBERT = {"1": PRESENT, "0": ABSENT, "-1": UNCERTAIN, "": None}
RADGRAPH = {
    "OBS-DP": PRESENT,
    "OBS-DA": ABSENT,
    "OBS-U": UNCERTAIN,
    "Observation::definitely present": PRESENT,
    "Observation::definitely absent": ABSENT,
    "Observation::uncertain": UNCERTAIN,
}
"""Of RadGraph and RadGraph-XL. Other entities are anatomy."""
MEDKLIP = {0: ABSENT, 1: PRESENT, 2: UNCERTAIN}
"""-1 is for what a report does not mention."""


def chexbert_columns(table: Table) -> list[str]:
    """The columns of CheXpert's findings; none unless most of them are there, for a table of something else."""
    names = {phrase.finding for phrase in phrases() if phrase.finding}
    columns = [name for name in table.columns if name in names]
    return columns if 2 * len(columns) > len(names) else []


def read_chexbert(table: Table, study_column: str | None = None) -> Iterator[ReportFinding]:
    """One record per finding that is not blank.

    Raises:
        DataError: no column names the study, or a value is not 1, 0, -1 or blank.
    """
    study, columns = study_column_of(table, study_column), chexbert_columns(table)
    for row in table.rows:
        for name in columns:
            value = row.text(name).removesuffix(".0")
            if value not in CHEXBERT:
                raise DataError(f"{row.place}: '{name}' is '{value}'; CheXbert writes 1, 0, -1 or nothing")
            if (state := CHEXBERT[value]) is not None:
                yield ReportFinding(study_in(row, study), name, state)


def is_radgraph(content: Any) -> bool:
    """Whether JSON has a text and entities for each report."""
    return {"text", "entities"} <= _first(content).keys()


def read_radgraph(content: Mapping[str, Any], path: Path) -> Iterator[ReportFinding]:
    """One record per observation, but for those that only modify another ("small").

    Places are those in RadGraph's own text, whose tokens one space divides. An observation has the name of the usual
    vocabulary where that knows its words, else its words in lower case.

    Raises:
        DataError: an entry of another form.
    """
    usual = {phrase.text: phrase.finding for phrase in phrases() if GAP not in phrase.text and not phrase.normal}
    for report, entry in content.items():
        try:
            tokens = list(re.finditer(r"\S+", entry["text"]))
            entities = entry["entities"]
            for entity in entities.values():
                related = [(kind, entities[other]) for kind, other in entity["relations"]]
                modifies = any(kind == "modify" and other["label"] in RADGRAPH for kind, other in related)
                if entity["label"] not in RADGRAPH or modifies:
                    continue
                words, first, last = entity["tokens"].lower(), entity["start_ix"], entity["end_ix"]
                yield ReportFinding(
                    study_of(report),
                    usual.get(words) or words,
                    RADGRAPH[entity["label"]],
                    *(tokens[first].start(), tokens[last].end()),
                    position=" ".join(other["tokens"] for kind, other in related if kind == "located_at"),
                    sentence=_sentence(tokens, first, last),
                )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"{path}: an entry has another form than RadGraph's ({type(error).__name__})"
            raise DataError(f"{reason}; make the file again") from None


def is_medklip(content: Any) -> bool:
    """Whether JSON has the row of an array for each image."""
    return "labels_id" in _first(content)


def read_medklip(content: Mapping[str, Any], path: Path, array: Path, entities: Path) -> Iterator[ReportFinding]:
    """One record per entity and position that a report mentions; position is the index of the anatomy.

    Args:
        content: image -> `{"labels_id": row}`.
        array: `.npy` (N, positions, entities): -1 not mentioned, 0 absent, 1 present, 2 uncertain.
        entities: JSON whose keys are the names of the entities in order, as MedKLIP's "observation explanation.json".

    Raises:
        DataError: a file cannot be read, or they do not belong together.
    """
    names, values = list(_named(read_json(entities), entities)), _mapped(array)
    if values.ndim != 3 or values.shape[2] != len(names):
        raise DataError(
            f"{array}: its shape is {values.shape}; {entities.name} asks for (reports, positions, {len(names)})"
        )
    seen: set[str] = set()
    for image, entry in content.items():
        study, row = study_of(image), entry.get("labels_id") if isinstance(entry, dict) else None
        if type(row) is not int or not 0 <= row < len(values):
            raise DataError(f"{path}: labels_id {row} of an image is no row of {array.name}, which has {len(values)}")
        if study in seen:  # further views
            continue
        seen.add(study)
        for place, entity in np.argwhere(values[row] >= 0):
            state = MEDKLIP.get(int(values[row, place, entity]))
            if state is None:
                raise DataError(f"{array}: row {row} holds {values[row, place, entity]}; values are -1, 0, 1 and 2")
            yield ReportFinding(study, names[entity], state, position=str(place))


def _first(content: Any) -> dict[str, Any]:
    """The first entry of a JSON object of objects; nothing of other JSON."""
    entry = next(iter(content.values()), None) if isinstance(content, dict) else None
    return entry if isinstance(entry, dict) else {}


def _sentence(tokens: list[re.Match], first: int, last: int) -> str:
    """The words around a place, from full stop to full stop."""
    start = next((place + 1 for place in range(first - 1, -1, -1) if tokens[place][0] == "."), 0)
    end = next((place for place in range(last + 1, len(tokens)) if tokens[place][0] == "."), len(tokens) - 1)
    return " ".join(token[0] for token in tokens[start : end + 1])


def _named(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise DataError(f'{path}: not a JSON object; give {{"entity": "what it is", ...}} in the order of the array')
    return content


def _mapped(array: Path) -> np.ndarray:
    """An array that is read where it is looked at."""
    try:
        return np.load(array, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "not a .npy of numbers, or a damaged one"
        raise DataError(f"{array}: cannot be read ({reason}); give MedKLIP's .npy of labels") from None
