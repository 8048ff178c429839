"""TL;DR: some members of each cluster, of the better 50 % of all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import DataError
from ._kmeans import cluster, clusters_option, features_option, unit_rows
from ._ranks import best, count_of
from .prototypes import ranks_within


@dataclass(eq=False, kw_only=True)
class TlDr(Curator):
    """Too Large; Data Reduction for Vision-Language Pre-Training (Wang et al., 2023, arXiv 2305.20087), as its code was
    released: of each cluster every 5th member, in the order of ids, and of those the ones that are among the half of
    all pairs whose image and caption match better.

    The match is a column, such as `itm` of `curate score` (`--columns DIR`), or the cosine of the features; a pair
    without one is not among the better 50 %. The paper clusters images by the codes of a captioner that is trained on
    the pairs themselves; any other features do, too:

    ```text
    vladapt pretrain --data shards/ --backbone SPEC --recipe codebook --out book
    vladapt embed shards/ --as parquet --backbone projected:book --out codes
    vladapt curate subset shards/ --method tl-dr --features codes --columns scores --set score=itm --out curated
    ```

    Its second captions are those of `curate caption`.

    For a redundant pool where no class names are known.

    Example:
        >>> build_curator("tl-dr", every=5, better=0.5).decide_all(pairs).keep.sum()
        100
    """

    stage: ClassVar[str] = "subset"

    every: int = option(5, "of each cluster every so many-th member is kept, the first of them among them", low=1)
    better: float = option(0.5, "share of all pairs, by their match, of which members are kept", above=0.0, high=1.0)
    score: str | None = option(None, "column of numbers, how well image and caption match; none: their cosine")
    clusters: int | None = clusters_option()
    features: str = features_option()
    seed: int = option(0, "fixes the clusters", low=0)

    @property
    def reads(self) -> tuple[str, ...]:
        match = (IMAGE_FEATURES, CAPTION_FEATURES) if self.score is None else (self.score,)
        return tuple(dict.fromkeys((self.features, *match)))

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        match = np.concatenate([self._match(pairs.among(rows)) for rows in pairs.blocks()])
        clusters = cluster(pairs, self.features, self.clusters, self.seed, progress)
        turn = every_nth(clusters.nearest[:, 0], self.every)
        fits = best(np.nan_to_num(match, nan=-np.inf), count_of(len(pairs), self.better)) & ~np.isnan(match)
        some = f"{turn.sum()} pairs are one in {self.every} of each of {len(clusters.sizes)} clusters"
        note = f"{some}; {(turn & fits).sum()} of them are in the better part"
        return Survey({"pairs": clusters.sizes}, {"turn": turn, "fits": fits, "match": match}, (note,))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rows = survey.rows
        fails = {"not its turn in its cluster": ~rows["turn"], "others match better": ~rows["fits"]}
        return Decision.of(fails, scores={"match": rows["match"]})

    def _match(self, pairs: PairTable) -> np.ndarray:
        if self.score is None:
            images, captions = (unit_rows(pairs, each, slice(None)) for each in (IMAGE_FEATURES, CAPTION_FEATURES))
            return np.einsum("nd,nd->n", images, captions)
        match = pairs.numbers(self.score).astype(np.float32)
        if match.ndim != 1 or np.isinf(match).any():
            raise DataError(f"column '{self.score}': not a finite number per pair; fill in what is missing")
        return match


def every_nth(clusters: np.ndarray, every: int) -> np.ndarray:
    """(N,) flags of the first, the (1 + every)-th, ... member of each cluster, of (N,) clusters."""
    return ranks_within(np.zeros(len(clusters)), clusters) % every == 0
