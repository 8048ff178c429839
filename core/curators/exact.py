"""Exact copies: images of the same bytes, or of the same pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import TEXT, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ._copies import best_of, content_digests, equal_rows, groups_of, plain_sum, preference, score_option, ties

BYTES, PIXELS = "sha256", "pixels_sha256"
"""Columns of hex digests: of the file, and of the decoded pixels."""


@dataclass(eq=False, kw_only=True)
class Exact(Curator):
    """Of images with equal SHA-256 digests of their bytes, or with `pixels` of their decoded pixels, one stays: the
    largest by what columns of sizes say, then the one of the best pair score, then the one of the smallest id.

    Pairs without a digest are nobody's copies. Nothing but equality ties pairs: what is alike to an encoder is the
    subject of `sem-dedup`.

    The same image with another caption is a copy, unless `same_caption` says otherwise.

    Example:
        >>> build_curator("exact").decide_all(pairs).keep.sum()
        950
    """

    stage: ClassVar[str] = "dedup"

    pixels: bool = option(False, "whether images of equal pixels are copies too; all images are decoded for it")
    same_caption: bool = option(False, "whether only pairs with equal captions are copies")
    score: str = score_option()

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self._digests, *([TEXT] if self.same_caption else []), *([self.score] if self.score else []))

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        numbers = [equal_rows(content_digests(pairs, name, plain_sum)) for name in self._digests]
        if self.same_caption:
            captions = content_digests(pairs, TEXT)
            numbers = [_both(each, captions) for each in numbers]
        groups = groups_of(len(pairs), map(ties, numbers))
        best = best_of(groups, preference(pairs, self.score))
        dropped = best != np.arange(len(pairs))
        of_bytes = dropped & (numbers[0] >= 0) & (numbers[0] == numbers[0][best])
        copies = np.bincount(groups)[groups]
        note = f"{dropped.sum():,} of {len(pairs):,} pairs are exact copies, {of_bytes.sum():,} of them byte by byte."
        rows = {"bytes": of_bytes, "pixels": dropped & ~of_bytes, "copies": copies}
        return Survey(rows=rows, notes=(note,))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rules = {"copy of the same bytes": survey.rows["bytes"], "copy of the same pixels": survey.rows["pixels"]}
        return Decision.of(rules, scores={"copies": survey.rows["copies"].astype(np.float32)})

    @property
    def _digests(self) -> tuple[str, ...]:
        return (BYTES, PIXELS) if self.pixels else (BYTES,)


def _both(numbers: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """(N,) numbers that are equal where these and the captions are; -1 stays."""
    together = equal_rows(np.column_stack([(numbers + 1).astype(np.uint64), captions]))
    return np.where(numbers >= 0, together, -1)
