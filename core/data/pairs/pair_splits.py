"""Train, val and test for pairs: by image and its exact copies, so that no image is on two sides."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...contracts.options import require
from ..file_hashes import FileHashes
from ..splits import connected
from .joined_pairs import JoinedPairs
from .pair_set import SPLIT_CODES, PairSet

PROBE_BYTES = 4096
READ_AT_ONCE = 256
TRAIN, VAL, TEST = (SPLIT_CODES[name] for name in ("train", "val", "test"))


def assign_pair_splits(
    pairs: PairSet,
    seed: int = 0,
    val: float = 0.1,
    test: float = 0.1,
    hashes: FileHashes | None = None,
    by_class: bool = False,
) -> PairSet:
    """The pairs with a split for each row that has none; rows that have one keep it.

    Each image has a rank that depends on the seed and its id alone: neither the order of the files nor the place of
    their folder matters. Of the images in order of rank `test` of all are test, the next `val` are val, the others
    train; at least one image each, where there are three.

    Args:
        pairs: the set.
        seed: fixes the ranks.
        val, test: shares of the images, 0 to below 1 together.
        hashes: with these, exact copies of an image under other names go to the same split (`copies_in`).
        by_class: whether all images of a class stay together, as those of a person do in person search; the shares are
            then of the classes. Images of a group (a patient) always do, and count as one.

    Raises:
        ConfigError: the shares are out of range.
        DataError: a file to be compared cannot be read.
    """
    require(0 <= val < 1, "val", val, "give a share from 0 to below 1")
    require(0 <= test < 1 - val, "test", test, "give a share from 0 to below 1, and with val less than all")
    free = np.flatnonzero(pairs.split_codes == 0)
    copies = [] if hashes is None else copies_in(pairs, free, hashes)
    images = _images(pairs, free, [*copies, *_rows_of_groups(pairs, free)], by_class)
    ranked = sorted(images, key=lambda key: hashlib.blake2b(f"{seed}:{key}".encode(errors="surrogatepass")).digest())
    codes = pairs.split_codes.copy()
    ends = ends_of_ranks(len(ranked), val, test)
    for rank, key in enumerate(ranked):
        name = "test" if rank < ends[0] else "val" if rank < ends[1] else "train"
        codes[images[key]] = SPLIT_CODES[name]
    extra = sum(len(rows) - 1 for rows in copies)
    notes = [f"Exact copies of other images under other names: {extra}; each is in the same split as its original."]
    return pairs.with_split_codes(codes, notes if extra else ())


def without_divided_copies(pairs: PairSet, hashes: FileHashes) -> PairSet:
    """The pairs without those of train and val whose image is an exact copy of one of the given test split.

    The test split never changes. What is in train and val alike trains.

    Raises:
        DataError: a file to be compared cannot be read.
    """
    codes, kept, moved = pairs.split_codes.copy(), np.ones(len(pairs), bool), 0
    if len(pairs.splits) < 2:
        return pairs
    for rows in copies_in(pairs, np.arange(len(pairs)), hashes):
        present = codes[rows]
        if (present == TEST).any():
            kept[rows] = present == TEST
        elif len(set(present.tolist())) > 1:
            moved += int((present == VAL).sum())
            codes[rows] = TRAIN
    notes = []
    if not kept.all():
        notes.append(f"Left out of train and val because a copy is in the given test split: {int((~kept).sum())}.")
    if moved:
        notes.append(f"Moved from val to train because a copy is in the given train split: {moved}.")
    return pairs.with_split_codes(codes, notes).select(np.flatnonzero(kept)) if notes else pairs


def held_out_elsewhere(pairs: JoinedPairs, hashes: FileHashes) -> np.ndarray:
    """(N,) whether an exact copy of a row's image is held out in another source.

    That is a row of train of which val or test of another source has a copy, or one of val of which test has. Images
    that are not files here are not compared.

    Args:
        pairs: of several sources; parts of one name are of one source.
        hashes: memory of file hashes.

    Raises:
        DataError: an image that may be a copy cannot be read.
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(pairs.names))}
    source = np.repeat([places[name] for name in pairs.names], [len(part) for part in pairs.parts])
    codes = np.concatenate([part.split_codes for part in pairs.parts])
    held_out = np.zeros(len(pairs), bool)
    for copies in copies_in(pairs, np.arange(len(pairs)), hashes):
        rows = np.array(copies)
        for own in set(source[rows].tolist()):
            others = codes[rows[source[rows] != own]]
            held_out[rows[(source[rows] == own) & (codes[rows] < others.max(initial=0))]] = True
    return held_out


def left_out(count: int, what: str = "a copy of the image") -> str:
    """What is said of so many rows of a source that are `held_out_elsewhere`."""
    return f"Left out of train and val because another set holds out {what}: {count:,}."


def copies_in(pairs: PairSet | JoinedPairs, rows: np.ndarray, hashes: FileHashes) -> list[list[int]]:
    """Rows whose images are the same bytes under several names, two or more in each list.

    What has a size of its own is not read; of equal sizes the last 4 KB are compared, and only where these agree the
    whole. Images in tar files are compared where they lie.

    Args:
        pairs: the set.
        rows: which of its rows are compared.
        hashes: memory of file hashes.

    Raises:
        DataError: an image that may be a copy cannot be read.
    """
    if not pairs.comparable or len(rows) < 2:
        return []
    sizes = pairs.image_sizes(rows)
    chosen = np.flatnonzero(sizes > 0)
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        chosen = _with_equals(chosen, sizes[chosen].tolist())
        places = rows[chosen].tolist()
        ends = _ends_of(pairs, places, threads)
        keys = list(zip(sizes[chosen].tolist(), ends, strict=True))
        chosen, ends = _with_equals(chosen, keys), None
        places = rows[chosen].tolist()
        digests = list(threads.map(lambda row: pairs.content_hash(row, hashes), places))
    by_content: dict[str, list[int]] = defaultdict(list)
    for row, digest in zip(places, digests, strict=True):
        by_content[digest].append(row)
    return [some for some in by_content.values() if len({pairs.id(row) for row in some}) > 1]


def _with_equals(chosen: np.ndarray, keys: Sequence[Hashable]) -> np.ndarray:
    """Those whose key another one has too."""
    counts = Counter(keys)
    return chosen[[counts[key] > 1 for key in keys]] if len(chosen) else chosen


def _ends_of(pairs: PairSet | JoinedPairs, rows: list[int], threads: ThreadPoolExecutor) -> list[bytes]:
    """A hash of the last bytes of each image."""

    def read(some: list[int]) -> list[bytes]:
        return [hashlib.blake2b(pairs.image_end(row, PROBE_BYTES), digest_size=16).digest() for row in some]

    parts = [rows[start : start + READ_AT_ONCE] for start in range(0, len(rows), READ_AT_ONCE)]
    return [end for ends in threads.map(read, parts) for end in ends]


def ends_of_ranks(count: int, val: float, test: float) -> tuple[int, int]:
    """Ranks where test and val end."""
    least = 1 if count >= 3 else 0
    of_test = max(round(count * test), least if test else 0)
    of_val = max(round(count * val), least if val else 0)
    return of_test, of_test + of_val


def _rows_of_groups(pairs: PairSet, rows: np.ndarray) -> list[list[int]]:
    """Rows of each group, two or more in each list."""
    if pairs.columns.groups is None:
        return []
    by_group: dict[int, list[int]] = defaultdict(list)
    for row, group in zip(rows.tolist(), pairs.columns.groups[pairs.rows[rows]].tolist(), strict=True):
        if group:
            by_group[group].append(row)
    return [some for some in by_group.values() if len(some) > 1]


def _images(pairs: PairSet, rows: np.ndarray, together: list[list[int]], by_class: bool) -> dict[str, np.ndarray]:
    """Rows that must not be divided, by the first of their names in order."""
    names = [pairs.id(row) for row in rows.tolist()]
    if by_class:
        labels = pairs.labels[rows].tolist()
        names = [name if label < 0 else f"class {label}" for name, label in zip(names, labels, strict=True)]
    by_name: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        by_name[name].append(place)
    chains = [*by_name.values(), *(np.searchsorted(rows, some).tolist() for some in together)]
    return {min(names[place] for place in places): rows[places] for places in connected(len(names), chains)}
