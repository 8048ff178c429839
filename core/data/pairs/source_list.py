"""Several sources of one training: `--data PATH[=WEIGHT]`, and how their samples are mixed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contracts.options import option, settle
from ...errors import ConfigError, DataError
from ...runtime.reading import read_json
from ...runtime.remote import is_url, shown
from .shards import BRACES

FACTOR, SHARE = "factor", "share"
ONE, MIXED = "one", "mixed"
OWNER = "the sources"
"""What options belong to, in messages."""
STAGES_EXAMPLE = '[{"until": 1000, "weights": [1, 0]}, {"weights": [1, 1]}]'


@dataclass(frozen=True)
class NamedSource:
    """A source as the user names it.

    Args:
        path: a file, folder or URL of pairs, or "sample".
        weight: or None where none is given.
    """

    path: str
    weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How the samples of several sources are mixed, given as `sources.NAME` in a recipe."""

    weights: str = option(
        SHARE,
        "what weights of sources are: share of the samples, or factor on sampling in proportion to size",
        choices=(SHARE, FACTOR),
    )
    batch: str = option(MIXED, "a batch is mixed, or of one source drawn by the shares", choices=(MIXED, ONE))
    replacement: bool = option(False, "draw samples anew each time, so that some come again before all were seen")
    samples: int | None = option(
        None, "samples of an epoch; by default those of all sources together", low=1, high=10**12, metavar="N"
    )
    stages: str | None = option(None, "JSON file: until which step sources have which weights", metavar="FILE")

    def __post_init__(self):
        settle(self, OWNER)


def parse_sources(texts: Sequence[str]) -> list[NamedSource]:
    """["a.csv", "b.csv=3"] -> the sources. What exists under the whole text is a path; else a number after the last "="
    is the weight.

    Raises:
        ConfigError: a weight that is not above 0, or a source named twice.
    """
    sources = [_parsed(str(text)) for text in texts]
    for number, source in enumerate(sources):
        if len(sources) > 1 and any(_place(source.path) == _place(other.path) for other in sources[:number]):
            raise ConfigError(f"--data {shown(source.path)}: named twice; give its weight as --data PATH=WEIGHT")
    return sources


def check_sources(sources: Sequence[NamedSource], sample: str) -> None:
    """Raise the DataError of a source that is missing, before any of them is read.

    Args:
        sample: the word for generated data.
    """
    for source in sources:
        path = source.path
        if path != sample and not is_url(path) and not BRACES.search(path) and not Path(path).exists():
            raise DataError(f"--data {path}: no such file or folder; give the path of a data set, or '{sample}'")


def weights_of(sources: Sequence[NamedSource], sizes: Sequence[int], options: SourceOptions) -> list[float]:
    """The weight of each source. Shares of which none is given are the sizes; a weight that is not given among others
    is 1."""
    if options.weights == SHARE and all(source.weight is None for source in sources):
        return [float(size) for size in sizes]
    return [1.0 if source.weight is None else source.weight for source in sources]


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
    return stages


def _weights_of_stage(given: Any, names: Mapping[str, int], count: int, where: str) -> list[float]:
    if isinstance(given, dict):
        if unknown := [name for name in given if name not in names]:
            raise DataError(f"{where}: there is no source '{unknown[0]}'; give {', '.join(names)}")
        by_number = {names[name]: weight for name, weight in given.items()}
        given = [by_number.get(number, 0) for number in range(count)]
    if not isinstance(given, list) or len(given) != count:
        raise DataError(f"{where}: weights={given!r}; give one for each of the {count} sources, in the order of --data")
    if not all(type(each) in (int, float) and math.isfinite(each) and each >= 0 for each in given) or not any(given):
        raise DataError(f"{where}: weights={given!r}; give numbers, none below 0 and one above")
    return [float(each) for each in given]


def _parsed(text: str) -> NamedSource:
    path, equals, weight = text.rpartition("=")
    query = is_url(path) and "?" in path  # whose own values may be numbers
    if not equals or not path or query or Path(text).exists():
        return NamedSource(text)
    try:
        number = float(weight)
    except ValueError:
        return NamedSource(text)
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"--data {shown(text)}: the weight of a source is a number above 0")
    return NamedSource(path, number)


def _place(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)
