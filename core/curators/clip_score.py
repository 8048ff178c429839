"""CLIP score: the cosine of image and caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError, DataError, shortened
from ._ranks import PAIRS_AT_ONCE


@dataclass(eq=False, kw_only=True)
class CLIPScore(Curator):
    """DataComp: In search of the next generation of multimodal datasets (2023, arXiv 2304.14108), its filter by CLIP
    score: pairs whose score is at least a threshold, or at least that of the pair at rank int(n f) from the top,
    counted from 0, for a fraction f. These are int(n f) + 1 pairs, or more where scores are equal.

    A threshold belongs to one encoder: 0.3 of OpenAI's B/32 keeps other pairs than 0.3 of its L/14. So it needs the
    encoder's name, and the fraction is the safer choice.

    Example:
        >>> build_curator("clip-score", fraction=0.3).decide_all(pairs).keep.sum()
        301
    """

    stage: ClassVar[str] = "filter"

    fraction: float | None = option(None, "share of the pairs to keep, by default 0.3", above=0.0, high=1.0)
    threshold: float | None = option(None, "lowest score to keep; needs the encoder", low=-1.0, high=1.0)
    column: str = option("", "of scores that the pairs come with, such as clip_l14_similarity_score; else features")
    encoder: str = option("", "that the threshold was chosen for; of features it must be theirs")

    def __post_init__(self):
        super().__post_init__()
        who = f"curator '{self.name}'"
        if self.fraction is not None and self.threshold is not None:
            raise ConfigError(f"{who}: both fraction and threshold are given; give one of them")
        if self.threshold is not None and self.column and not self.encoder:
            raise ConfigError(
                f"{who}: a threshold holds for one encoder; give encoder=, the one that made {self.column}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.column else (IMAGE_FEATURES, CAPTION_FEATURES)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        encoder = encoder_of_scores(pairs, self.column, self.encoder, self.threshold is not None)
        if self.threshold is not None:
            lowest = np.float64(self.threshold)
        else:
            lowest = score_at(column_scores(pairs, self.column), 0.3 if self.fraction is None else self.fraction)
        note = (
            f"CLIP score of {encoder}: pairs with {lowest:.4f} or more are kept; other encoders need another threshold"
        )
        return Survey(whole={"lowest": np.array([lowest])}, notes=(note,))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        scores = column_scores(pairs, self.column)
        low = ~(scores >= scores.dtype.type(survey.whole["lowest"][0]))  # NaN too
        return Decision.of({"CLIP score below the threshold": low}, scores={"clip_score": scores.astype(np.float32)})


def _cosines(pairs: PairTable) -> np.ndarray:
    """(N,) float32 cosines of image and caption."""
    made = [
        np.einsum("nd,nd->n", pairs.unit(IMAGE_FEATURES, rows), pairs.unit(CAPTION_FEATURES, rows))
        for rows in pairs.blocks(PAIRS_AT_ONCE)
    ]
    return np.concatenate(made)


def column_scores(pairs: PairTable, column: str = "") -> np.ndarray:
    """(N,) scores of a column, with all their digits, or float32 cosines where none is named."""
    if not column:
        return _cosines(pairs)
    scores = pairs.numbers(column)
    return scores if np.issubdtype(scores.dtype, np.floating) else scores.astype(np.float64)


def score_at(scores: np.ndarray, fraction: float) -> np.floating:
    """The score at rank int(n f) from the top, counted from 0; the lowest where there are no more.

    Args:
        scores: (n,); NaN count in n, below all others.

    Raises:
        DataError: there are none but NaN.
    """
    count, scores = len(scores), scores[~np.isnan(scores)]
    if not len(scores):
        raise DataError("no pair has a score; choose another column, or embed the pairs again")
    rank = min(int(count * fraction), len(scores) - 1)
    return np.partition(scores, len(scores) - 1 - rank)[len(scores) - 1 - rank]


def encoder_of_scores(pairs: PairTable, column: str, encoder: str, needed: bool) -> str:
    """What made the scores, in words.

    Args:
        column: of scores, or "" for cosines of features.
        encoder: that the user names.
        needed: whether a threshold depends on it.

    Raises:
        DataError: it is not known, or not the one that the user names.
    """
    if column:
        return f"{encoder or 'an unnamed encoder'} (column {column})"
    if encoder and pairs.encoder and encoder not in (pairs.encoder, pairs.spec):
        raise DataError(
            f"the features are of encoder {shortened(pairs.spec or pairs.encoder, 40)}, the threshold is for "
            f"{shortened(encoder, 40)}; embed with that one, or give the threshold of this one"
        )
    if needed and not (encoder or pairs.encoder):
        raise DataError("a threshold holds for one encoder, and the features do not say theirs; give encoder=")
    return shortened(encoder or pairs.spec or pairs.encoder or "an unnamed encoder")
