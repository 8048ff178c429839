"""Pairs in shards that are read in a row: the set to train on, and a fixed number of samples held out of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError
from ...runtime.distributed import all_gather_json, is_main, run_on_all
from ...runtime.files import caching
from ...runtime.remote import printed_name
from ..files import licence_of
from .pair_list import is_pair_list, listed_shards
from .pair_set import MOST, PairSet, StoredImages
from .shard_list import check_alike, counted, shards_at
from .shard_reader import ChosenKeys, ShardBlock, ShardOrder, ShardReader, ShardRun, ShardSample
from .shards import brace_names, read_shards, split_in_name

MOST_HELD_OUT = 0.1
"""Share of the samples that val, and test, may be at most."""
LOOKED_AT = 200
"""Samples that are looked at to see which texts a set has."""


@dataclass(frozen=True)
class ShardPairs:
    """N pairs in shards, none of which is in memory.

    Args:
        shards: paths and URLs.
        firsts, counts: (S,) int64, which samples of each shard are used: so many from the first of them.
        fields: of the set, as of `PairSet`, by its first samples.
        further_columns: further columns -> what they hold.
        widths: further column of numbers -> how many a sample has.
        columns: keys of the `.json` that are kept in addition to the usual ones -> what they hold.
        max_pixels: a larger image is refused.
        block: samples that are shuffled among themselves.
        streams: how many read it, or None.
        name, licence, notes: as of `PairSet`.
        chosen: of each shard, which of its samples are used, and how often; None for all.
    """

    shards: tuple[str, ...]
    firsts: np.ndarray
    counts: np.ndarray
    fields: frozenset[str] = frozenset()
    further_columns: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    max_pixels: int = 0
    block: int = 1000
    streams: int | None = None
    name: str = ""
    licence: str = "unknown"
    notes: list[str] = field(default_factory=list)
    chosen: tuple[ChosenKeys, ...] | None = None

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def digest(self) -> str:
        """Of which samples these are, in which blocks."""
        facts: list[Any] = [
            list(map(printed_name, self.shards)),
            self.firsts.tolist(),
            self.counts.tolist(),
            self.block,
        ]
        facts += _digests(self.chosen)
        return hashlib.sha256(json.dumps(facts).encode(errors="surrogatepass")).hexdigest()[:16]

    def order(self, seed: int) -> ShardOrder:
        """Of all epochs."""
        return ShardOrder(self.firsts, self.counts, seed, self.block)

    def reader(self) -> ShardReader:
        """For one stream."""
        return ShardReader(self.shards, self.chosen)

    def rows(self, run: ShardRun) -> range:
        """The rows of a run: samples are numbered in the order of the shards."""
        before = int(self.counts[: run.shard].sum()) + run.first - int(self.firsts[run.shard])
        return range(before, before + run.count)

    def block_of(self, samples: Mapping[int, ShardSample]) -> ShardBlock:
        """Some rows in memory."""
        return ShardBlock(samples, self.fields, self.further_columns, self.widths, self.columns, self.max_pixels)


@dataclass(frozen=True)
class HeldOut:
    """How a large set is divided.

    Args:
        val_samples, test_samples: how many samples are held out, at most.
        val_shards, test_shards: a pattern of names of shards, or braces: those that are held out; or None.
    """

    val_samples: int
    test_samples: int
    val_shards: str | None = None
    test_shards: str | None = None


def read_shard_set(
    place: str,
    held_out: HeldOut,
    *,
    seed: int,
    cache: Path,
    columns: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> tuple[ShardPairs, PairSet | None, PairSet | None]:
    """The shards of a place: (train, val, test); val and test as sets on this disk, None where there is none.

    Val and test are the shards given for them, or whose names say so ("val-000.tar"), up to the number of samples; else
    so many samples at the beginnings of shards that the seed chooses. They are copied into the cache once, since every
    validation reads them.

    Args:
        place: as for `shards_at`, or a list of pairs in shards.
        held_out: what is not trained on.
        seed: chooses the shards that are held out.
        cache: folder of counts and copies.
        columns: as for `read_shards`.
        say: told what takes a while.
        options: further fields of `ShardPairs`.

    Raises:
        DataError: a shard cannot be read, ranks see different ones, or nothing is left to train on.
        ConfigError: a package is not installed, or a pattern fits no shard.
    """
    chosen: tuple[ChosenKeys, ...] | None = None
    if is_pair_list(place):
        shards, chosen = run_on_all(lambda: listed_shards(Path(place), seed))
        check_alike([len(shards), *_digests(chosen)], "pairs of the list")
        counts = np.array([len(each.digests) for each in chosen], np.int64)
    else:
        shards = run_on_all(lambda: shards_at(place))
        counts = counted(shards, cache, say)
    split_of = _split_of_shards(shards, held_out)
    firsts, runs, notes = _divided(shards, counts, split_of, held_out, seed)
    held = {split: (ShardReader(shards), runs[split]) for split in ("val", "test")}
    if chosen is not None:
        notes.append(
            f"List: {int(counts.sum()):,} samples of {len(shards):,} tars, which are read whole, since what is read in "
            "sequence cannot be passed over; weights were drawn once."
        )
        held = {split: _chosen_alone(shards, chosen, some) for split, some in runs.items()}
        chosen = tuple(each.part(first) for each, first in zip(chosen, firsts.tolist()))
        counts, firsts = np.array(list(map(len, chosen)), np.int64), np.zeros_like(firsts)
    parts = [number for number, split in enumerate(split_of) if split == "train" and counts[number] > firsts[number]]
    name = _name_of(shards) if chosen is None else Path(place).stem
    train = ShardPairs(
        tuple(shards[number] for number in parts),
        firsts[parts],
        (counts - firsts)[parts],
        columns={key: kind for key, kind in (columns or {}).items() if kind != "image"},
        name=name,
        licence=licence_of(Path(shards[0]).parent),
        notes=notes,
        chosen=None if chosen is None else tuple(chosen[number] for number in parts),
        **options,
    )
    if len(train) < 2:
        raise DataError(
            f"--data {printed_name(place)}: {len(train)} samples left to train on; give more shards, or hold fewer out"
        )
    train = _looked_at(train)
    sets = [_copied(*held[split], split, cache, train, say) for split in ("val", "test")]
    return train, *sets


def _chosen_alone(
    shards: Sequence[str], chosen: Sequence[ChosenKeys], runs: Sequence[ShardRun]
) -> tuple[ShardReader, list[ShardRun]]:
    """What reads runs of chosen samples, counted in the order of their digests, once each; and these runs in it."""
    keys = [chosen[run.shard].part(run.first, run.first + run.count).once() for run in runs]
    own = [ShardRun(number, 0, run.count) for number, run in enumerate(runs)]
    return ShardReader([shards[run.shard] for run in runs], keys), own


def _split_of_shards(shards: Sequence[str], held_out: HeldOut) -> list[str]:
    """ "train", "val" or "test" for each, by the user's patterns, else by names where these tell several splits."""
    asked = {"val": held_out.val_shards, "test": held_out.test_shards}
    if not any(asked.values()):
        folders = [printed_name(shard).rpartition("/")[0].rpartition("/")[2] for shard in shards]
        one = len(set(folders)) == 1
        named = [split_in_name(_stem(shard), "" if one else folder) for shard, folder in zip(shards, folders)]
        return [name or "train" for name in named] if len(set(named) - {""}) > 1 else ["train"] * len(shards)
    splits = ["train"] * len(shards)
    for split, pattern in asked.items():
        fitting = [number for number, shard in enumerate(shards) if pattern and _fits(shard, pattern)]
        if pattern and not fitting:
            raise ConfigError(
                f"--set data.{split}_shards={printed_name(pattern)}: matches none of the {len(shards):,} shards; "
                "correct it"
            )
        for number in fitting:
            splits[number] = split
    return splits


def _fits(shard: str, pattern: str) -> bool:
    name = printed_name(shard)
    return any(
        fnmatch(name, each) or fnmatch(os.path.basename(name), each) for each in brace_names(printed_name(pattern))
    )


def _divided(
    shards: Sequence[str], counts: np.ndarray, split_of: Sequence[str], held_out: HeldOut, seed: int
) -> tuple[np.ndarray, dict[str, list[ShardRun]], list[str]]:
    """The first sample of each shard that is trained on, what is held out, and sentences on that."""
    firsts, runs, notes = np.zeros_like(counts), {}, []
    training = np.array([number for number, split in enumerate(split_of) if split == "train"], np.int64)
    chosen = np.random.default_rng([seed, 1]).permutation(training)
    total = int(counts[training].sum())
    for split, most in (("val", held_out.val_samples), ("test", held_out.test_samples)):
        own = [number for number, each in enumerate(split_of) if each == split]
        if own:
            runs[split] = _first_samples(own, np.zeros_like(counts), counts, most)
            part = f"the first {_count(runs[split]):,} samples of {len(own):,} shards"
        else:
            runs[split] = _first_samples(chosen, firsts, counts, min(most, int(MOST_HELD_OUT * total)))
            for run in runs[split]:
                firsts[run.shard] += run.count
            names = ", ".join(_stem(shards[run.shard]) for run in runs[split][:3]) + (", ..." * (len(runs[split]) > 3))
            part = f"{_count(runs[split]):,} samples of {names}, which are not trained on"
        if runs[split]:
            notes.append(f"{split.capitalize()}: {part}.")
    if runs["val"] or runs["test"]:
        notes.append("In a set of this size, copies of an image in several splits are not looked for.")
    return firsts, runs, notes


def _first_samples(chosen: Sequence[int], firsts: np.ndarray, counts: np.ndarray, most: int) -> list[ShardRun]:
    runs: list[ShardRun] = []
    for number in map(int, chosen):
        left = most - _count(runs)
        count = min(left, int(counts[number] - firsts[number]))
        if count > 0:
            runs.append(ShardRun(number, int(firsts[number]), count))
    return runs


def _count(runs: Sequence[ShardRun]) -> int:
    return sum(run.count for run in runs)


def _looked_at(pairs: ShardPairs) -> ShardPairs:
    """With the fields that its first samples have, as rank 0 sees them."""
    facts = all_gather_json(run_on_all(lambda: _facts(pairs) if is_main() else None))[0]
    kinds = {key: kind for key, kind in pairs.columns.items() if key in facts["fields"]}
    return replace(pairs, fields=frozenset(facts["fields"]), further_columns=kinds, widths=facts["widths"])


def _facts(pairs: ShardPairs) -> dict[str, Any]:
    run = ShardRun(0, int(pairs.firsts[0]), int(pairs.counts[0]))
    has: dict[str, int] = {}
    widths: dict[str, int] = {}
    readable = 0
    for sample in islice(pairs.reader().read(run), LOOKED_AT):
        try:
            texts = sample.texts(pairs.columns)
        except DataError as error:
            broken = error
            continue
        readable += 1
        widths |= {key: len(values) for key, values in texts.numbers.items() if key not in widths}
        for key in (*texts.texts, *(["several_captions"] if len(texts.captions) > 1 else [])):
            has[key] = has.get(key, 0) + 1
    if not readable:
        raise DataError(f"{printed_name(pairs.shards[0])}: none of its first samples can be used ({broken})")
    return {"fields": sorted([key for key, n in has.items() if n >= MOST * readable] + list(widths)), "widths": widths}


def _copied(
    reader: ShardReader, runs: list[ShardRun], split: str, cache: Path, pairs: ShardPairs, say: Callable[[str], None]
) -> PairSet | None:
    """The samples of some runs as a set of its own, in a tar file of the cache."""
    if not runs:
        return None
    facts: list[Any] = [[printed_name(reader.shards[run.shard]), run.first, run.count] for run in runs]
    facts += _digests(reader.chosen)
    digest = hashlib.sha256(json.dumps(facts).encode(errors="surrogatepass")).hexdigest()[:32]
    path = cache / "shards" / f"held-out-{digest}.tar"
    if is_main() and not path.is_file():
        say(f"Copying {_count(runs):,} samples of {split} to {path}, once")
    run_on_all(lambda: _copy(reader, runs, path) if is_main() else None)
    run_on_all(lambda: _copy(reader, runs, path))  # on other machines
    held_out = run_on_all(lambda: read_shards([path], path.parent, columns=pairs.columns))
    check_alike([len(held_out), digest], f"samples of {split}")
    held_out = replace(held_out, name=pairs.name, images=StoredImages(pairs.max_pixels), notes=[])
    return held_out.with_split([split] * len(held_out))


def _digests(chosen: Sequence[ChosenKeys] | None) -> list[str]:
    """Of which samples are chosen; none where all are."""
    return [hashlib.sha256(c.digests.tobytes() + c.times.tobytes()).hexdigest() for c in chosen or ()]


def _copy(reader: ShardReader, runs: Sequence[ShardRun], path: Path) -> None:
    if path.is_file():
        return
    number = 0
    with caching(path) as handle, tarfile.open(fileobj=handle, mode="w") as archive:
        for run in runs:
            for sample in reader.read(run):
                for extension, content in filter(all, sample.members.items()):
                    info = tarfile.TarInfo(f"{_stem(reader.shards[run.shard])}-{number:06d}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
                number += 1


def _stem(shard: str) -> str:
    return printed_name(shard).rpartition("/")[2].partition(".")[0]


def _name_of(shards: Sequence[str]) -> str:
    """What the folder of the shards is called."""
    return printed_name(shards[0]).rpartition("/")[0].rpartition("/")[2] or _stem(shards[0])
