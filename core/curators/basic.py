"""DataComp's basic filter: language, length of the caption, size and shape of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import Decision, PairTable, Survey
from ..contracts.options import option
from ._captions import CaptionFilter


@dataclass(eq=False, kw_only=True)
class Basic(CaptionFilter):
    """DataComp: In search of the next generation of multimodal datasets (2023, arXiv 2304.14108), basic filtering: an
    English caption of more than 2 words, counted at white space of any kind, and more than 5 characters; the smaller
    side of the image at least 200 pixels, the larger one at most 3 times it.

    Example:
        >>> build_curator("basic", side=100).decide_all(pairs).keep.sum()
        412
    """

    stage: ClassVar[str] = "filter"

    words: int = option(3, "fewest words of a caption", low=0)
    characters: int = option(6, "fewest characters of a caption", low=0)
    side: int = option(200, "shortest side of an image, in pixels", low=0)
    aspect: float = option(3.0, "longest side of an image as a multiple of the other", low=1.0)

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, "width", "height")

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        texts = pairs.strings("text")
        sides = np.stack([pairs.numbers(name) for name in ("width", "height")])
        shortest, longest = sides.min(axis=0), sides.max(axis=0)
        return Decision.of(
            {
                self.rule_of_language: self.in_another_language(pairs, texts),
                f"fewer than {self.words} words": np.array([len(text.split()) < self.words for text in texts], bool),
                f"fewer than {self.characters} characters": np.array([len(t) < self.characters for t in texts], bool),
                f"a side below {self.side} pixels": ~(shortest >= self.side),
                f"sides beyond {self.aspect:g} to 1": ~(longest <= self.aspect * shortest),
            }
        )
