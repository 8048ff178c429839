"""D4: semantic copies are dropped, then what is left is clustered again, and what is prototypical is dropped.

D4: Improving LLM pretraining via document de-duplication and diversification, 2023 (arXiv 2308.12284).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError
from . import prototypes, sem_dedup
from ._kmeans import clusters_option, features_option


@dataclass(eq=False, kw_only=True)
class D4(Curator):
    """SemDeDup to a share of 0.75, k-means on what is left, then SSL prototypes, of which the hardest stay, to the
    wanted share of all. To cluster again is the point: the first clusters are driven by copies, and a pair that is near
    the centroid of many copies is not prototypical of anything else. There is no released code.

    Example:
        >>> build_curator("d4", fraction=0.5).decide_all(pairs).keep.sum()
        500
    """

    stage: ClassVar[str] = "prune"

    fraction: float = option(0.5, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    dedup: float = option(0.75, "share of the pairs that SemDeDup leaves", above=0.0, high=1.0)
    borders: bool = option(False, "whether SemDeDup also compares pairs within their second nearest cluster")
    clusters: int | None = clusters_option()
    features: str = features_option()
    seed: int = option(0, "fixes the clusters", low=0)

    def __post_init__(self):
        super().__post_init__()
        if self.fraction > self.dedup:
            raise ConfigError(f"curator 'd4': fraction={self.fraction:g} is above dedup={self.dedup:g}; give less")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        same: dict[str, Any] = {"clusters": self.clusters, "features": self.features, "seed": self.seed}
        dedup = sem_dedup.SemDedup(fraction=self.dedup, borders=self.borders, **same)
        first = dedup.survey(pairs, progress)
        left = np.flatnonzero(~first.rows["dropped"])
        count = max(1, int(len(pairs) * self.fraction))
        prune = prototypes.Prototypes(fraction=min(1.0, (count + 0.5) / len(left)), balance=0.0, **same)
        second = prune.survey(pairs.among(left), progress)
        prototypical, distance = np.zeros(len(pairs), bool), np.zeros(len(pairs), np.float32)
        prototypical[left], distance[left] = ~second.rows["keep"], second.rows["distance"]
        rows = {name: first.rows[name] for name in ("dropped", "max_similarity")}
        return Survey(second.whole, {**rows, "prototypical": prototypical, "distance": distance}, first.notes)

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        """The score `distance` is from the second centroids, and 0 of what was dropped before."""
        rules = {sem_dedup.COPY: survey.rows["dropped"], prototypes.PROTOTYPICAL: survey.rows["prototypical"]}
        return Decision.of(rules, scores={name: survey.rows[name] for name in ("max_similarity", "distance")})
