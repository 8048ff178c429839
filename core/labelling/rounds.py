"""A round of labelling: most images chosen by a selector, one in five drawn at random.

Those drawn at random tell accuracy, so they are set apart from the start: whole groups (patients, volumes, copies), in
an order that a seed fixes, until they are a fifth of the pool. From these alone images are drawn at random, from the
others alone the selector chooses, in every round, so that nothing that teaches is akin to what tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contracts.items import Item
from ..contracts.selector import Pool, Selector
from ..data.splits import ItemLinks
from ..errors import ConfigError

EVERY = 5
"""One image in so many is drawn at random."""


@dataclass(frozen=True)
class Known:
    """What is known of the pool before a round.

    Args:
        items: N images.
        features: (N, D) unit rows.
        labels: row -> class indices, of the images that are labelled, or about which somebody was not sure.
        random: rows that were drawn at random in earlier rounds.
        links: which of the images belong together, and which are copies.
        num_classes: C.
        probabilities: (N, C) of the current model, or None.
    """

    items: Sequence[Item]
    features: Tensor
    labels: dict[int, tuple[int, ...]]
    random: frozenset[int]
    links: ItemLinks
    num_classes: int
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class Round:
    """Rows to label: those a selector chose, and those drawn at random, each in its order."""

    chosen: list[int]
    random: list[int]


def choose_round(known: Known, selector: Selector, budget: int, *, seed: int, split_seed: int = 0) -> Round:
    """The next images to label. Of copies and near copies one is labelled at most.

    Args:
        selector: that chooses all but the random ones.
        budget: how many images.
        seed: of the selector.
        split_seed: of what is set apart; the same in all rounds.

    Raises:
        ConfigError: a budget below 1, or above the images that are left.
    """
    reserved = reserve(known, split_seed)
    copies = _Copies(known)
    to_draw = copies.open([row for row in range(len(known.items)) if row in reserved])
    to_choose = copies.open([row for row in range(len(known.items)) if row not in reserved])
    left = len(copies.once(to_draw)) + len(copies.once(to_choose))
    if not 1 <= budget <= left:
        cure = f"give 1 to {left}" if left else "all images are labelled"
        raise ConfigError(f"--budget {budget}: {left} images are left to label, copies not counted; {cure}")
    count = (budget + EVERY // 2) // EVERY
    count = min(count, len(copies.once(to_draw)))
    count = max(count, budget - len(copies.once(to_choose)))
    ranked = sorted(to_draw, key=lambda row: known.items[row].rank(split_seed))
    random = copies.once(ranked)[:count]
    return Round(_chosen(known, selector, to_choose, budget - count, seed, copies), random)


def reserve(known: Known, split_seed: int) -> frozenset[int]:
    """The rows that are set apart for drawing at random: whole parts of the pool, a fifth of it.

    A part with an image that was drawn at random before is among them, one with another labelled image is not.
    """
    parts = known.links.near_parts
    drawn = [part for part in parts if known.random.intersection(part)]
    free = [part for part in parts if not known.random.intersection(part) and not known.labels.keys() & set(part)]
    free.sort(key=lambda part: min(known.items[row].rank(split_seed) for row in part))
    most, taken = math.ceil(len(known.items) / EVERY), [row for part in drawn for row in part]
    for part in free:
        if len(taken) + len(part) <= most:
            taken += part
    return frozenset(taken)


def _chosen(
    known: Known, selector: Selector, candidates: list[int], count: int, seed: int, copies: _Copies
) -> list[int]:
    """Rows by the selector, from the groups with the fewest labelled images first, no two of one group in a pass."""
    groups = [item.group if item.group is not None else row for row, item in enumerate(known.items)]
    used = Counter(groups[row] for row in known.labels)
    teaching = sorted(row for row in known.labels if row not in known.random)
    counts = torch.zeros(known.num_classes)
    for label in (label for row in teaching for label in known.labels[row]):
        counts[label] += 1
    chosen: list[int] = []
    pool = Pool(known.features, _rows(known, []), _rows(known, teaching), counts, known.probabilities)
    while len(chosen) < count:
        candidates = copies.open(candidates, chosen)
        fewest = min(used[groups[row]] for row in candidates)
        offered = copies.once([row for row in candidates if used[groups[row]] == fewest])
        rows = selector.select(
            replace(pool, candidates=_rows(known, offered)), min(count - len(chosen), len(offered)), seed + len(chosen)
        )
        first_of_group = list({groups[row]: row for row in reversed(rows)}.values())[::-1]
        chosen += first_of_group
        used.update(groups[row] for row in first_of_group)
        labelled = _rows(known, [*teaching, *chosen])
        pool = replace(pool, labelled=labelled, counts=counts + _predicted(known, chosen))
    return chosen


def _rows(known: Known, rows: Sequence[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=known.features.device)


def _predicted(known: Known, rows: Sequence[int]) -> Tensor:
    """(C,) how many of some rows are predicted as each class; zeros where nothing is predicted."""
    if known.probabilities is None or not rows:
        return torch.zeros(known.num_classes)
    labels = known.probabilities[list(rows)].argmax(dim=1).cpu()
    return torch.bincount(labels, minlength=known.num_classes).float()


class _Copies:
    """Which images show the same."""

    def __init__(self, known: Known):
        chains = [*known.links.near, *known.links.copies]
        self._chain = {row: place for place, chain in reversed(list(enumerate(chains))) for row in chain}
        self._labelled = set(known.labels)

    def open(self, rows: Sequence[int], chosen: Sequence[int] = ()) -> list[int]:
        """Those of some rows that are not labelled or chosen, nor a copy of one that is."""
        done = self._labelled.union(chosen)
        chains = {self._chain[row] for row in done if row in self._chain}
        return [row for row in rows if row not in done and self._chain.get(row) not in chains]

    def once(self, rows: Sequence[int]) -> list[int]:
        """The first of each chain of copies among some rows, and all that have none."""
        first: dict[object, int] = {}
        for row in rows:
            first.setdefault(("chain", self._chain[row]) if row in self._chain else row, row)
        return list(first.values())
