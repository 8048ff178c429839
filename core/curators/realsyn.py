"""RealSyn's semantic balance: pairs of moderate similarity, and few of each cluster of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError
from ._kmeans import cluster, unit_rows
from .prototypes import ranks_within

PAIRS_PER_CLUSTER = 168
"""Published: 168.3 million images in a million clusters."""


@dataclass(eq=False, kw_only=True)
class Realsyn(Curator):
    """RealSyn: An Effective and Scalable Multimodal Interleaved Document Transformation Paradigm (Gu et al., 2025,
    arXiv 2502.12513), its semantic balance sampling.

    Pairs are dropped whose cosine of image and caption is below `low`, which do not fit, or above `high`, whose image
    is often a picture of the text. Of each cluster of images that are left, `most` are kept, drawn at random.

    The published window, 0.51 to 0.61, holds for the authors' encoder and synthetic captions alone: by default there is
    none. One cluster per 168 pairs is published too; of a million pairs that takes an hour of a core.
    Centroids are learned from a million pairs, or 39 per cluster where that is more, which are held in memory.

    Look at the distribution of your own encoder before a window is chosen.

    Example:
        >>> build_curator("realsyn", low=0.2, high=0.4, most=20).decide_all(pairs).keep.sum()
        280
    """

    stage: ClassVar[str] = "balance"

    low: float | None = option(None, "smallest cosine of image and caption; none: any", low=-1.0, high=1.0)
    high: float | None = option(None, "largest cosine of image and caption; none: any", low=-1.0, high=1.0)
    most: int = option(20, "pairs of a cluster that are kept; published are 20, 35 and 180", low=1)
    clusters: int | None = option(None, "number of clusters of k-means; none: one per 168 pairs, as published", low=1)
    seed: int = option(0, "fixes the draw, and the clusters", low=0)

    def __post_init__(self):
        super().__post_init__()
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(
                f"curator '{self.name}': no pair lies between low={self.low:g} and high={self.high:g}; swap them"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (IMAGE_FEATURES,) if self._window is None else (IMAGE_FEATURES, CAPTION_FEATURES)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        inside = np.concatenate([self._inside(self._cosines(pairs.among(rows))) for rows in pairs.blocks()])
        rank = np.zeros(len(pairs), np.int64)
        if not inside.any():
            return Survey(rows={"rank": rank}, notes=(f"no pair has a cosine in {self._window}; widen low and high",))
        some = pairs.among(inside)
        count = self.clusters or max(1, round(len(some) / PAIRS_PER_CLUSTER))
        clusters = cluster(some, IMAGE_FEATURES, count, self.seed, progress)
        drawn = np.concatenate([some.uniform(self.seed, rows, purpose=self.name) for rows in some.blocks()])
        rank[inside] = ranks_within(-drawn, clusters.nearest[:, 0])
        full = int(np.count_nonzero(clusters.sizes > self.most))
        note = f"{full} of {len(clusters.sizes)} clusters have more than {self.most} of {len(some)} pairs"
        return Survey({"pairs": clusters.sizes}, {"rank": rank}, (note,))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        cosines = self._cosines(pairs)
        fails = {"its cluster is full": survey.rows["rank"] >= self.most}
        if self._window is None:
            return Decision.of(fails)
        low, high = self._window
        window = {"image and caption do not fit": cosines < low, "image and caption are too similar": cosines > high}
        return Decision.of(window | fails, scores={"clip_score": cosines})

    @property
    def _window(self) -> tuple[float, float] | None:
        if self.low is None and self.high is None:
            return None
        return -np.inf if self.low is None else self.low, np.inf if self.high is None else self.high

    def _cosines(self, pairs: PairTable) -> np.ndarray:
        if self._window is None:
            return np.zeros(len(pairs), np.float32)
        rows = slice(None)
        return np.einsum("nd,nd->n", unit_rows(pairs, IMAGE_FEATURES, rows), unit_rows(pairs, CAPTION_FEATURES, rows))

    def _inside(self, cosines: np.ndarray) -> np.ndarray:
        if self._window is None:
            return np.ones(len(cosines), bool)
        return (cosines >= self._window[0]) & (cosines <= self._window[1])
