"""A random subset: what every other choice is compared with, at equal size and equal samples seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option


@dataclass(eq=False, kw_only=True)
class Random(Curator):
    """As many pairs as are asked for, each as likely as any other; the draw of a pair depends on its id and the seed
    alone, so that more pairs in the set take none of its place but by its rank.

    Example:
        >>> build_curator("random", fraction=0.5).decide_all(pairs).keep.sum()
        500
    """

    stage: ClassVar[str] = "subset"

    fraction: float = option(0.1, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    seed: int = option(0, "fixes the draw", low=0)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        count = max(1, int(len(pairs) * self.fraction))
        drawn = np.concatenate([pairs.uniform(self.seed, rows, purpose=self.name) for rows in pairs.blocks()])
        chosen = np.zeros(len(pairs), bool)
        chosen[np.argsort(drawn, kind="stable")[:count]] = True
        return Survey(rows={"chosen": chosen})

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        return Decision.of({"not drawn": ~survey.rows["chosen"]})
