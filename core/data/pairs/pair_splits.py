"""Train, val and test for pairs that have none: by image, so that no image is on two sides."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from ...contracts.adapter import require
from ..verify import FileHashes
from .pair_set import SPLIT_CODES, PairSet, StoredImages


def assign_pair_splits(
    pairs: PairSet,
    seed: int = 0,
    val: float = 0.1,
    test: float = 0.1,
    hashes: FileHashes | None = None,
    by_class: bool = False,
) -> PairSet:
    """The pairs with a split for each row that has none; rows that have one keep it.

    Each image has a rank that depends on the seed and its id alone: the order of the files does not matter. Of the
    images in order of rank `test` of all are test, the next `val` are val, the others train; at least one image each,
    where there are three.

    Args:
        pairs: the set.
        seed: fixes the ranks.
        val, test: shares of the images, 0 to below 1 together.
        hashes: with these, exact copies of an image under other names go to the same split: files of the same size
            are read and compared by content.
        by_class: whether all images of a class stay together, as those of a person do in person search; the shares are
            then of the classes.

    Raises:
        ConfigError: the shares are out of range.
        DataError: a file to be compared cannot be read.
    """
    require(0 <= val < 1, "val", val, "give a share of 0 to below 1")
    require(0 <= test < 1 - val, "test", test, "give a share of 0 to below 1, and with val less than all")
    free = np.flatnonzero(pairs.split_codes == 0)
    images: dict[str, list[int]] = defaultdict(list)
    for row, key in zip(free.tolist(), _keys(pairs, free, hashes, by_class), strict=True):
        images[key].append(row)
    ranked = sorted(images, key=lambda key: hashlib.blake2b(f"{seed}:{key}".encode(errors="surrogatepass")).digest())
    codes = pairs.split_codes.copy()
    ends = _ends(len(ranked), val, test)
    for rank, key in enumerate(ranked):
        name = "test" if rank < ends[0] else "val" if rank < ends[1] else "train"
        codes[images[key]] = SPLIT_CODES[name]
    return pairs.with_split_codes(codes)


def _ends(count: int, val: float, test: float) -> tuple[int, int]:
    """Ranks where test and val end."""
    least = 1 if count >= 3 else 0
    of_test = max(round(count * test), least if test else 0)
    of_val = max(round(count * val), least if val else 0)
    return of_test, of_test + of_val


def _keys(pairs: PairSet, rows: np.ndarray, hashes: FileHashes | None, by_class: bool) -> list[str]:
    """One key per row, equal for rows that must not be divided."""
    names = [pairs.id(row) for row in rows.tolist()]
    if by_class:
        labels = pairs.labels[rows].tolist()
        return [name if label < 0 else f"class {label}" for name, label in zip(names, labels, strict=True)]
    if hashes is None or not isinstance(pairs.images, StoredImages):
        return names
    sizes = [pairs.image_size(row) for row in rows.tolist()]
    by_size = defaultdict(set)
    for name, size in zip(names, sizes, strict=True):
        by_size[size].add(name)
    return [
        pairs.content_hash(row, hashes) if len(by_size[size]) > 1 else name
        for row, name, size in zip(rows.tolist(), names, sizes, strict=True)
    ]
