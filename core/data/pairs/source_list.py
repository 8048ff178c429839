"""What the sources of a training are looked at for before they are read, and the file of its stages."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...contracts.recipe import SAMPLE
from ...contracts.sources import NamedSource
from ...errors import DataError
from ...runtime.reading import read_json
from ...runtime.remote import is_url
from .record_fields import RecordColumns
from .shards import BRACES
from .table_pairs import table_rows
from .text_pairs import SUFFIXES

STAGES_EXAMPLE = '[{"until": 1000, "weights": [1, 0]}, {"weights": [1, 1]}]'


def check_sources(sources: Sequence[NamedSource]) -> None:
    """Raise the DataError of a source that is missing, before any of them is read."""
    for source in sources:
        path = source.path
        if path != SAMPLE and not is_url(path) and not BRACES.search(path) and not os.path.exists(path):
            raise DataError(f"--data {path}: no such file or folder; give the path of a data set, or '{SAMPLE}'")


def holds_text_pairs(path: str) -> bool:
    """Whether a table has no column of images, and two of texts besides its splits: a sentence and its translation."""
    place = Path(path)
    if place.suffix.lower() not in SUFFIXES or not place.is_file():
        return False
    _, row = next(table_rows(place), (0, {}))
    columns = RecordColumns(row)
    return (
        not {"image/key", "img_path", columns.of.get("image")} & row.keys()
        and len(row.keys() - {columns.of.get("split")}) > 1
    )


def read_stages(path: str, names: Mapping[str, int]) -> list[tuple[int | None, list[float]]]:
    """(the step at which it ends, or None for the last; the weight of each source) of the stages in a JSON file.

    Args:
        names: of sources, by path or name -> which of them it is.

    Raises:
        DataError: it cannot be read, or is not such a list.
    """
    count = len(set(names.values()))
    content = read_json(Path(path))
    if not isinstance(content, list) or not content or not all(isinstance(each, dict) for each in content):
        raise DataError(f"{path}: not a list of stages; write {STAGES_EXAMPLE}")
    stages: list[tuple[int | None, list[float]]] = []
    for number, stage in enumerate(content, start=1):
        where, last, until = f"{path}: stage {number}", number == len(content), stage.get("until")
        if unknown := sorted(stage.keys() - {"until", "weights"}):
            raise DataError(f"{where}: has '{unknown[0]}'; give until and weights alone")
        if last != (until is None):
            cure = "omit it" if last else "give the step at which it ends"
            raise DataError(f"{where}: until={until}, and the last stage alone has no end; {cure}")
        before = stages[-1][0] if stages else 0
        if until is not None and (type(until) is not int or until <= (before or 0)):
            raise DataError(f"{where}: until={until!r}; give whole steps that rise from stage to stage")
        stages.append((until, _weights_of_stage(stage.get("weights"), names, count, where)))
    for name, number in names.items():
        if not any(weights[number] for _, weights in stages):
            raise DataError(f"{path}: source '{name}' has no weight in any stage; give it one, or omit its --data")
    return stages


def _weights_of_stage(weights: Any, names: Mapping[str, int], count: int, where: str) -> list[float]:
    if isinstance(weights, dict):
        if unknown := [name for name in weights if name not in names]:
            raise DataError(f"{where}: there is no source '{unknown[0]}'; give {', '.join(names)}")
        by_number = {names[name]: weight for name, weight in weights.items()}
        weights = [by_number.get(number, 0) for number in range(count)]
    if not isinstance(weights, list) or len(weights) != count:
        cure = f"give one for each of the {count} sources, in the order of --data"
        raise DataError(f"{where}: weights={weights!r}; {cure}")
    numbers = all(type(each) in (int, float) and math.isfinite(each) and each >= 0 for each in weights)
    if not numbers or not any(weights):
        raise DataError(f"{where}: weights={weights!r}; give numbers, none below 0 and one above")
    return [float(each) for each in weights]
