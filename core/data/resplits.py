"""The same images split anew, again and again: what a score owes to the one test set it was measured on.

Groups and copies stay together, as in `assign_splits`. The first of the repeated splits is the one that a fit takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..contracts.items import DomainData
from .splits import assign_splits, link_items, share_out
from .verify import FileHashes


def resplit(data: DomainData, number: int, *, seed: int, hashes: FileHashes) -> DomainData:
    """The `number`th repeated split into train, val and test, from 0, of a set that brought no split of its own.

    Args:
        data: its splits are made anew.
        seed: of the first one.
        hashes: tells copies.
    """
    return assign_splits(_without_splits(data), seed=seed + number, hashes=hashes)


def fold_split(data: DomainData, fold: int, folds: int, *, seed: int, hashes: FileHashes) -> DomainData:
    """One of `folds` splits, from 0, whose test sets share out the data; of the rest, 20 % of each class are val.

    Args:
        data, seed, hashes: as for `resplit`.
    """
    data = _without_splits(data)
    test = _folds(data, link_items(data.items, hashes).parts, folds, seed)[fold]
    tested = {position for part in test for position in part}
    items = [item.with_(split="test" if n in tested else "train") for n, item in enumerate(data.items)]
    return assign_splits(replace(data, items=items), seed=seed, hashes=hashes)


def _without_splits(data: DomainData) -> DomainData:
    return replace(data, items=[item.with_(split="") for item in data.items], notes=[])


def _folds(data: DomainData, parts: Sequence[list[int]], folds: int, seed: int) -> list[list[list[int]]]:
    """The parts of each test set: one after the other takes its share of what is left."""
    left, taken = list(parts), []
    for fold in range(folds - 1):
        share = 1 / (folds - fold)
        splits = share_out(data, left, {"test": share, "train": 1 - share}, seed)
        taken.append([part for part in left if splits[part[0]] == "test"])
        left = [part for part in left if splits[part[0]] != "test"]
    return [*taken, left]
