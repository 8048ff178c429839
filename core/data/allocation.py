"""Stratified, greedy sharing out of parts (images, patients) among splits; a part never goes to two."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ItemGroup:
    """What must stay together.

    Args:
        counts: class index -> images of it in this part. Negative keys are balanced but reserve nothing.
        rank: its place in the shuffled order.
    """

    counts: Mapping[int, int]
    rank: str

    @property
    def size(self) -> int:
        return sum(self.counts.values())


def allocate(parts: Sequence[ItemGroup], shares: Mapping[str, float], reserve_test: bool) -> list[str]:
    """The split of each part.

    First every class that lies in two parts gets a test part (if asked for), then every class a train part, the rarest
    class first and the smallest part first, sparing the last part that some class could train on. The rest goes, large
    parts first, where the numbers of its classes are furthest below their share.

    Args:
        parts: in any order; the result depends on their ranks alone.
        shares: split -> share of each class; "train" takes what rounding leaves, "test" at least 1 of a class with 2.
        reserve_test: whether a class must be tested where it can be.
    """
    state = _State(parts, shares)
    if reserve_test:
        state.reserve("test")
    state.reserve("train")
    for index in sorted(range(len(parts)), key=lambda i: (-parts[i].size, parts[i].rank)):
        if not state.split_of[index]:
            state.put(index, state.neediest(parts[index]))
    return state.split_of


class _State:
    def __init__(self, parts: Sequence[ItemGroup], shares: Mapping[str, float]):
        self.parts = parts
        self.split_of = [""] * len(parts)
        self.holders: dict[int, list[int]] = defaultdict(list)  # class -> parts that hold it, by size and rank
        for index in sorted(range(len(parts)), key=lambda i: (parts[i].size, parts[i].rank)):
            for label in parts[index].counts:
                self.holders[label].append(index)
        self.totals = Counter()
        for part in parts:
            _add(self.totals, part.counts)
        self.wanted = {label: _wanted(n, len(self.holders[label]), shares) for label, n in self.totals.items()}
        self.got = {split: Counter() for split in shares}

    def put(self, index: int, split: str) -> None:
        self.split_of[index] = split
        _add(self.got[split], self.parts[index].counts)

    def reserve(self, split: str) -> None:
        """A part in `split` for every class that can have one."""
        classes = [label for label in self.holders if label >= 0]
        for label in sorted(classes, key=lambda label: (len(self.holders[label]), label)):
            free = [index for index in self.holders[label] if not self.split_of[index]]
            if self.got[split][label] or not free or (split == "test" and len(self.holders[label]) < 2):
                continue
            self.put(free[0] if split == "train" else min(free, key=self._left_without_training), split)

    def _left_without_training(self, index: int) -> int:
        """Classes of this part that would have no part left that trains or still may."""
        return sum(
            all(other == index or self.split_of[other] not in ("", "train") for other in self.holders[label])
            for label in self.parts[index].counts
            if label >= 0
        )

    def neediest(self, part: ItemGroup) -> str:
        """The split whose squared distance from the wanted numbers, relative to class sizes, shrinks most."""
        if not part.counts:
            return "train"
        return min(self.got, key=lambda split: self._cost(part, split))

    def _cost(self, part: ItemGroup, split: str) -> float:
        cost = 0.0
        for label, count in part.counts.items():
            over = self.got[split][label] - self.wanted[label][split]
            cost += ((over + count) ** 2 - over**2) / self.totals[label]
        return cost


def _add(counter: Counter, counts: Counter) -> None:
    """As `Counter.update`, which takes several times as long for one or two labels."""
    for label, count in counts.items():
        counter[label] += count


def _wanted(total: int, holders: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Images of one class that each split should get; all train where they cannot be divided."""
    wanted = {split: int(share * total + 0.5) if holders > 1 else 0 for split, share in shares.items()}
    if "test" in shares and holders > 1:
        wanted["test"] = max(1, wanted["test"])
    wanted["train"] = total - sum(count for split, count in wanted.items() if split != "train")
    return wanted
