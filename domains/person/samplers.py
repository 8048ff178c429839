"""Batches of P identities with K pictures each, as losses want them that compare people: random, or over cameras.

`random_identity` is that of "In Defense of the Triplet Loss for Person Re-Identification" (Hermans et al. 2017, arXiv
1703.07737) as torchreid (arXiv 1910.10093) and IRRA (arXiv 2303.12501) release it; `naive` and `balanced`, which takes
the pictures of a person from different cameras, are those of "FastReID: A Pytorch Toolbox for General Instance
Re-identification" (He et al. 2020, arXiv 2006.02631). Each is a pure function of the seed, and draws by the same calls
of `random` and `numpy.random` as the released code, with generators of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from ...core.errors import DataError
from .pedestrian import NOBODY

Batch = list[int]
"""Rows of the training set, the K of an identity side by side."""


def random_identity(
    identities: Sequence[int], cameras: Sequence[str], people: int, pictures: int, seed: int
) -> Iterator[Batch]:
    """One epoch: of each identity its pictures, shuffled and cut into groups of K, a remainder dropped; P identities
    are drawn among those that still have a group, until fewer than P have. An identity of fewer than K pictures shows
    some of them several times.

    Args:
        identities: of each row; rows of `NOBODY` are not drawn.
        cameras: not used.
        people: P.
        pictures: K.
        seed: fixes all draws.
    """
    draw, draw_again = random.Random(seed), np.random.RandomState(seed)
    groups: dict[int, list[Batch]] = {}
    for identity, rows in _rows_of(identities).items():
        rows = rows if len(rows) >= pictures else draw_again.choice(rows, size=pictures, replace=True).tolist()
        draw.shuffle(rows)
        cut = [rows[start : start + pictures] for start in range(0, len(rows), pictures)]
        groups[identity] = [group for group in cut if len(group) == pictures]
    left = list(groups)
    while len(left) >= people:
        chosen = draw.sample(left, people)
        yield [row for identity in chosen for row in groups[identity].pop(0)]
        left = [identity for identity in left if groups[identity]]


def naive(identities: Sequence[int], cameras: Sequence[str], people: int, pictures: int, seed: int) -> Iterator[Batch]:
    """A stream without end, passes of `random_identity`'s kind one after the other; arguments as there."""
    draw, rows_of = np.random.RandomState(seed), _rows_of(identities)
    while True:
        left, waiting = sorted(rows_of), {}
        while len(left) >= people:
            batch: Batch = []
            for identity in draw.choice(left, people, replace=False).tolist():
                if identity not in waiting:
                    rows = list(rows_of[identity])
                    rows = rows if len(rows) >= pictures else draw.choice(rows, size=pictures, replace=True).tolist()
                    draw.shuffle(rows)
                    waiting[identity] = rows
                batch += waiting[identity][:pictures]
                waiting[identity] = waiting[identity][pictures:]
                if len(waiting[identity]) < pictures:
                    left.remove(identity)
            yield batch


def balanced(
    identities: Sequence[int], cameras: Sequence[str], people: int, pictures: int, seed: int
) -> Iterator[Batch]:
    """A stream without end that is aware of cameras: of each identity one picture at random, and K - 1 from other
    cameras, several times where those have fewer; from its own camera where there is no other. A pass draws each
    identity once, but those left over that do not fill a batch.

    Args:
        cameras: of each row.
    """
    draw, rows_of = np.random.RandomState(seed), _rows_of(identities)
    order = sorted(rows_of)
    while True:
        permuted = draw.permutation(len(order))
        permuted = permuted[: len(permuted) - len(permuted) % people]
        for start in range(0, len(permuted), people):
            chosen = [rows_of[order[n]] for n in permuted[start : start + people]]
            yield [row for rows in chosen for row in _over_cameras(draw, rows, cameras, pictures)]


def _over_cameras(draw: np.random.RandomState, rows: list[int], cameras: Sequence[str], pictures: int) -> Batch:
    """A picture of one identity, and K - 1 of its others."""
    first = int(draw.choice(rows))
    others = [n for n, row in enumerate(rows) if cameras[row] != cameras[first]]
    others = others or [n for n, row in enumerate(rows) if row != first]
    if not others:
        return [first, *rows * (pictures - 1)]
    more = draw.choice(others, size=pictures - 1, replace=len(others) < pictures)
    return [first, *(rows[n] for n in more)]


def _rows_of(identities: Sequence[int]) -> dict[int, list[int]]:
    """Identity -> its rows, in the order of first mention."""
    rows: dict[int, list[int]] = {}
    for row, identity in enumerate(identities):
        if identity != NOBODY:
            rows.setdefault(int(identity), []).append(row)
    return rows


SAMPLERS: dict[str, Callable[..., Iterator[Batch]]] = {
    "random-identity": random_identity,
    "naive": naive,
    "balanced": balanced,
}


@dataclass(frozen=True)
class IdentityBatches:
    """The batches of each epoch, the same on any number of processes: what `core.training` takes as `Task.plan`.

    All epochs have as many steps as one pass over the identities has; where another epoch's draw has fewer batches, a
    further draw of the same epoch fills it up.

    Args:
        identities, cameras: of each row.
        people: P, cut to the identities there are.
        pictures: K.
        sampler: one of `SAMPLERS`.
        seed: fixes all draws.

    Raises:
        DataError: fewer than two identities.
    """

    identities: Sequence[int]
    cameras: Sequence[str]
    people: int
    pictures: int
    sampler: str = "random-identity"
    seed: int = 0

    def __post_init__(self):
        count = len(_rows_of(self.identities))
        if count < 2:
            raise DataError(
                f"{count} identity to train on; batches of several people need at least two, give more people"
            )
        object.__setattr__(self, "people", min(self.people, count))

    @property
    def batch_size(self) -> int:
        return self.people * self.pictures

    @property
    def steps(self) -> int:
        """Of each epoch."""
        if self.sampler == "balanced":
            return len(_rows_of(self.identities)) // self.people
        return sum(1 for _ in random_identity(self.identities, self.cameras, self.people, self.pictures, self.seed))

    def rows(self, epoch: int) -> list[Batch]:
        """The batches of an epoch, as many as `steps`."""
        passes = (self._draw(epoch, number) for number in range(self.steps))  # each has one batch at least
        return list(islice(chain.from_iterable(passes), self.steps))

    def _draw(self, epoch: int, number: int) -> Iterator[Batch]:
        seed = int(np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0])
        return SAMPLERS[self.sampler](self.identities, self.cameras, self.people, self.pictures, seed)
