"""Which sets lie at the places that a user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contracts.bench import BenchSet
from ..contracts.options import chosen
from ..contracts.recipe import SAMPLE, check_data_place
from ..data.files import visible
from ..errors import ConfigError, DataError, UnknownNameError, did_you_mean
from ..registry import benchmark_class
from ..registry.catalogue import benchmarks

DRAWN = f"{SAMPLE}:"
"""Before the kind of a set that is drawn."""


def sets_at(places: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> list[BenchSet]:
    """The sets at some places. A folder that is none itself, but holds folders that are, stands for these.

    Args:
        places: folders, files, "sample", or "sample:KIND" of a set that is drawn.
        options: kind -> name of an option -> value.

    Raises:
        DataError: nothing is there, or no kind of set, or two kinds recognise it.
        UnknownNameError: no such kind, or no such option. ConfigError: a value that an option does not accept, options
            of a kind of which there is no set, or a place named twice.
    """
    if not places:
        raise ConfigError("--data: none given; give the folder of a published set, or of your own images")
    kinds = {kind: benchmark_class(kind) for kind in benchmarks()}
    of_kind: dict[str, dict[str, Any]] = {}
    for kind, values in (options or {}).items():
        if kind not in kinds:
            raise UnknownNameError(f"--set {kind}: no such kind of set; {did_you_mean(kind, kinds)}")
        of_kind[kind] = chosen(kinds[kind], values, f"benchmark '{kind}'")
    sets: list[BenchSet] = []
    for place in places:
        for kind, folder in _kinds_at(place, kinds):
            benchmark = kinds[kind](**of_kind.get(kind, {}))
            benchmark.folder = folder
            if any(type(each) is type(benchmark) and each.folder == folder for each in sets):
                raise ConfigError(f"--data {place}: named twice; name it once")
            sets.append(benchmark)
    if unused := of_kind.keys() - {each.kind for each in sets}:
        kind = min(unused)
        raise ConfigError(f"--set {kind}.{next(iter(of_kind[kind]), '')}: there is no set of that kind; omit it")
    return sets


def _kinds_at(place: str, kinds: Mapping[str, type[BenchSet]]) -> list[tuple[str, Path | None]]:
    """(kind, folder) of each set at a place."""
    if place.startswith(DRAWN):
        kind, drawn = place.removeprefix(DRAWN), [kind for kind, cls in kinds.items() if cls.drawn]
        if kind not in drawn:
            raise UnknownNameError(f"--data {place}: no set of that name is drawn; {did_you_mean(kind, drawn)}")
        return [(kind, None)]
    check_data_place(place)
    folder = Path(place)
    if kind := _kind_of(folder, kinds, 0):
        return [(kind, folder)]
    if folder.is_dir():
        inside = sorted(Path(entry.path) for entry in visible(folder) if entry.is_dir())
        within = [(kind, each) for each in inside if (kind := _kind_of(each, kinds, 0))]
        if within:
            return list(within)
    for fallback in sorted({cls.fallback for cls in kinds.values()} - {0}):
        if kind := _kind_of(folder, kinds, fallback):
            return [(kind, folder)]
    raise DataError(f"--data {place}: is no set that bench knows; it knows {', '.join(kinds)} (`list benchmarks`)")


def _kind_of(folder: Path, kinds: Mapping[str, type[BenchSet]], fallback: int) -> str:
    """The kind of that number that recognises a folder; "" where none does."""
    recognised = [kind for kind, cls in kinds.items() if cls.fallback == fallback and cls.recognises(folder)]
    if len(recognised) > 1:
        raise DataError(f"--data {folder}: may be {' or '.join(recognised)}; keep the files of one set in a folder")
    return next(iter(recognised), "")
