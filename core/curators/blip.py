"""BLIP's filter: a text goes where a head for image-text matching says that it does not match its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Survey
from ..contracts.options import option

CAPTION, CAPTION_MATCH = "caption", "caption_itm"
"""Columns of `curate caption --matcher`."""


@dataclass(eq=False, kw_only=True)
class Blip(Curator):
    """BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and Generation (Li et
    al., 2022, arXiv 2201.12086), the filter of its CapFilt: a text is noisy where the head for image-text matching says
    so, that is, where "no match" is not less probable than "match". No threshold is tuned.

    The head reads pixels, so its answer is a column of probabilities that `vladapt curate score` writes beforehand. The
    authors tuned it on COCO; the script by which they filtered is not public. They filtered captions by a model in the
    same way, so that an image whose text is noisy stays with a caption that is not: `captions`, with the columns that
    `curate caption --matcher` writes.

    It reads the pixels of every pair: use a GPU for `curate score`, or `clip-score` as the cheap stand-in. A text
    without a score goes.

    Example:
        >>> build_curator("blip").decide_all(pairs).keep.sum()
        57
    """

    stage: ClassVar[str] = "filter"

    column: str = option("itm", "of the probability that image and text match, of `curate score`")
    threshold: float = option(0.5, "probability above which they match; 0.5: match is more probable", low=0.0, high=1.0)

    captions: bool = option(False, "put the caption by a model, if that matches, in place of a text that does not")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column, *((CAPTION, CAPTION_MATCH) if self.captions else ()))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        match = pairs.numbers(self.column)
        scores, noisy, captions = {"match": match.astype(np.float32)}, ~(match > self.threshold), None
        if self.captions:
            of_caption = pairs.numbers(CAPTION_MATCH)
            instead = noisy & (of_caption > self.threshold)
            captions = [text if there else None for text, there in zip(pairs.strings(CAPTION), instead)]
            scores[CAPTION_MATCH], noisy = of_caption.astype(np.float32), noisy & ~instead
        fails = {"no score": noisy & np.isnan(match), "image and text do not match": noisy}
        return Decision.of(fails, scores=scores, captions=captions)
