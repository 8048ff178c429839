"""Greedy k-centre: a subset from which no pair is far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ._kmeans import features_option, unit_rows
from ._ranks import count_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False, kw_only=True)
class KCenter(Curator):
    """The greedy k-centre algorithm of Active Learning for Convolutional Neural Networks: A Core-Set Approach (Sener
    and Savarese, 2018, arXiv 1708.00489), on features of length 1.

    The first pair is drawn; each next one is the farthest from all that are kept. Outliers and wrong pairs are far from
    all others, so that filters come first. N pairs of which k are kept take N k products: 10,000 of a million
    pairs half an hour of a core.

    For a clean pool that is to be covered.

    Example:
        >>> build_curator("k-center", fraction=0.1).decide_all(pairs).keep.sum()
        100
    """

    stage: ClassVar[str] = "subset"

    fraction: float = option(0.1, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    features: str = features_option()
    seed: int = option(0, "draws the first pair", low=0)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        import torch

        from ..data import farthest_first

        def read(rows: Tensor | slice) -> Tensor:
            positions = rows if isinstance(rows, slice) else rows.numpy()
            return torch.from_numpy(unit_rows(pairs, self.features, positions))

        drawn = np.concatenate(
            [pairs.uniform(self.seed, rows, purpose="k-center: first centre") for rows in pairs.blocks()]
        )
        count = count_of(len(pairs), self.fraction)
        first = int(drawn.argmin())
        chosen, nearest = farthest_first(
            read, len(pairs), count, first=first, progress=lambda done: progress(done, count)
        )
        rank = np.full(len(pairs), -1, np.int64)
        rank[chosen] = np.arange(count)
        distance = nearest.sqrt().numpy()
        median = np.median(distance)
        note = f"all pairs lie within {distance.max():.3f} of one that is kept, half of them within {median:.3f}"
        return Survey(rows={"rank": rank, "distance": distance}, notes=(note,))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        covered = survey.rows["rank"] < 0
        return Decision.of({"near to one that is kept": covered}, scores={"distance": survey.rows["distance"]})
