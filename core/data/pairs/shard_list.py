"""Which shards a set has, and how many samples each holds: all that is known of a large set before it is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...runtime.distributed import all_gather_json, is_main, rank, run_on_all, world_size
from ...runtime.files import write_cached
from ...runtime.reading import version_of
from ...runtime.remote import is_url, matching, printed_name, read_small
from .pair_list import is_pair_list, list_lies_elsewhere
from .pair_set import PairSet
from .shard_reader import count_samples
from .shards import BRACES, brace_names, expanded_braces

LARGE_BYTES = 16 << 30
"""Of shards on a disk, from which on they are read in a row."""
SIZES = "sizes.json"
"""Beside the shards: {"00000.tar": samples}, as open_clip reads it."""
INDEX = "index.json"
"""Beside the shards: {"shardlist": [{"url", "nsamples"}]}, as webdataset writes it."""
ORDERS = ("auto", "global", "shards")


def shards_at(place: str) -> list[str]:
    """Paths or URLs of the shards of a set, in order.

    Args:
        place: a .tar, a folder of them, a name with braces, or a URL of these, or of a pattern with "*".

    Raises:
        DataError: there are none, or files are missing. ConfigError: a URL of a kind that is not read.
    """
    if not is_url(place):
        path = Path(os.path.abspath(place))
        return [str(each) for each in (PairSet.shards_in(path) if path.is_dir() else expanded_braces(str(path)))]
    if BRACES.search(place):
        return brace_names(place)
    names = [place] if place.partition("?")[0].lower().endswith(".tar") and "*" not in place else matching(place)
    if not names:
        raise DataError(
            f"{printed_name(place)}: no .tar files there; give shards, their folder, or a name with {{000..099}}"
        )
    return names


def reads_in_a_row(place: str, order: str) -> bool:
    """Whether the shards of a set are read one after the other, not by an index: those in object storage, or large.

    Args:
        place: as for `shards_at`, or of another kind of pairs.
        order: "shards" for yes, "global" for no, "auto" by size.

    Raises:
        DataError: the order does not go with the data.
    """
    if is_pair_list(place):
        return list_lies_elsewhere(Path(place)) if order == "auto" else order == "shards"
    if is_url(place):
        if order == "global":
            raise DataError(
                f"--set data.order=global: {printed_name(place)} is not a file on a disk; copy it to one, or omit the "
                "option"
            )
        return True
    tars = holds_shards(place)
    if order == "shards" and not tars:
        raise DataError(f"--set data.order=shards: {place} has no tar shards; omit it")
    if order != "auto" or not tars:
        return tars and order == "shards"
    return sum(os.path.getsize(shard) for shard in shards_at(place)) > LARGE_BYTES


def holds_shards(place: str) -> bool:
    """Whether tar shards lie at a path, in its folder, or where a list of pairs or a URL leads."""
    if is_pair_list(place) or is_url(place):
        return True
    path = Path(os.path.abspath(place))
    tars = path.is_dir() and bool(PairSet.shards_in(path))
    return tars or path.suffix.lower() == ".tar" or (not path.exists() and bool(BRACES.search(place)))


def counted(shards: Sequence[str], cache: Path, say: Callable[[str], None] = lambda line: None) -> np.ndarray:
    """(S,) int64, samples in each shard, the same on all ranks: by a file beside them, else counted once and kept.

    Such a file is `sizes.json`, `index.json`, or `NAME_stats.json` for each shard as img2dataset writes it. The ranks
    share the counting.

    Args:
        cache: folder that counts are kept in.
        say: told before shards are counted, which takes a while.

    Raises:
        DataError: a shard cannot be read, a file of counts is damaged or lacks shards, or ranks see different shards.
    """
    check_alike([len(shards), _digest([printed_name(shard) for shard in shards])], "shards")
    told = all_gather_json(run_on_all(lambda: _told_counts(shards, cache) if is_main() else None))[0]
    if told is None:
        say(
            f"Counting the samples of {len(shards):,} shards, once; with a {SIZES} beside them "
            '({"00000.tar": 10000, ...}) a training starts at once'
        )
        mine = run_on_all(lambda: [count_samples(shard) for shard in shards[rank() :: world_size()]])
        parts = all_gather_json(mine)
        told = [parts[number % len(parts)][number // len(parts)] for number in range(len(shards))]
        run_on_all(lambda: write_cached(_kept(shards, cache), json.dumps(told)) if is_main() else None)
    return np.array(told, np.int64)


def counts_known(shards: Sequence[str], cache: Path) -> list[int | None]:
    """Samples of each shard, without reading any that does not lie on a disk: by a file beside them, or counted by its
    headers and kept; None where only reading all of it would tell.

    Raises:
        DataError: a shard cannot be read, or a file of counts is damaged or lacks shards.
    """
    counts = _told_counts(shards, cache)
    if counts is None and not any(map(is_url, shards)):
        counts = [count_samples(shard) for shard in shards]
        write_cached(_kept(shards, cache), json.dumps(counts))
    return [None] * len(shards) if counts is None else [*counts]


def check_alike(value: Any, what: str) -> None:
    """Raises DataError, on all ranks the same, where a JSON-able value is not the same on all of them."""
    values = all_gather_json(value)
    other = next((number for number, each in enumerate(values) if each != values[0]), None)
    if other is not None:
        sizes = [f" ({each[0]:,})" if isinstance(each, list) else "" for each in (values[0], values[other])]
        raise DataError(
            f"--data: rank {other}{sizes[1]} sees different {what} from rank 0{sizes[0]}; give all processes the same "
            "files"
        )


def _told_counts(shards: Sequence[str], cache: Path) -> list[int] | None:
    """By a file, or None."""
    folder = os.path.dirname(shards[0].partition("?")[0])
    for name, read in ((SIZES, lambda content: content), (INDEX, _of_index)):
        place = f"{folder}/{name}"
        if (content := read_small(place)) is not None:
            return _listed(shards, read(_parsed(content, place)), place)
    if (counts := _of_stats(shards)) is not None:
        return counts
    kept = _kept(shards, cache)
    return _listed_in_cache(kept, len(shards)) if kept.is_file() else None


def _listed(shards: Sequence[str], sizes: Any, place: str) -> list[int]:
    names = [os.path.basename(shard.partition("?")[0]) for shard in shards]
    if not isinstance(sizes, Mapping):
        raise DataError(
            f"{printed_name(place)}: holds no numbers of samples; write {{'00000.tar': 10000, ...}}, or remove it"
        )
    for name in names:
        if not _is_count(sizes.get(name)):
            raise DataError(f"{printed_name(place)}: has no number of samples for {name}; add it, or remove the file")
    return [sizes[name] for name in names]


def _of_index(content: Any) -> Any:
    listed = content.get("shardlist") if isinstance(content, Mapping) else None
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        return None
    return {os.path.basename(str(each.get("url"))): each.get("nsamples") for each in listed}


def _of_stats(shards: Sequence[str]) -> list[int] | None:
    """What img2dataset says of each shard, if it says so of the first."""
    counts: list[int] = []
    for shard in shards:
        place = shard.partition("?")[0].removesuffix(".tar") + "_stats.json"
        content = read_small(place)
        if content is None and not counts:
            return None
        stats = {} if content is None else _parsed(content, place)
        count = stats.get("successes") if isinstance(stats, Mapping) else None
        if not _is_count(count):
            raise DataError(f"{printed_name(place)}: has no number of successes; restore it, or remove all _stats.json")
        counts.append(count)
    return counts


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _parsed(content: bytes, place: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{printed_name(place)}: not JSON ({error}); repair or remove it") from error


def _kept(shards: Sequence[str], cache: Path) -> Path:
    """The file in the cache, named by the shards and, on a disk, by their `version_of`."""
    versions = [version_of(os.stat(shard)) for shard in shards if not is_url(shard) and os.path.exists(shard)]
    facts = [[printed_name(shard) for shard in shards], versions]
    return cache / "shards" / f"counts-{_digest(facts)}.json"


def _listed_in_cache(path: Path, count: int) -> list[int] | None:
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(kept, list) and len(kept) == count and all(map(_is_count, kept))
    return kept if whole else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode(errors="surrogatepass")).hexdigest()
