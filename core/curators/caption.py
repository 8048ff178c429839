"""DataComp's caption filter: language and length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import Decision, PairTable, Survey
from ..contracts.options import option
from ._captions import CaptionFilter, fasttext_tokens


@dataclass(eq=False, kw_only=True)
class Caption(CaptionFilter):
    """DataComp: In search of the next generation of multimodal datasets (2023, arXiv 2304.14108), the filter of
    captions before its image-based filtering: an English caption of more than 1 token and more than 5 characters.

    Tokens are fastText's: only ASCII white space divides them, and a line end is one itself. So a no-break space is no
    border, unlike in the filter `basic`.

    Example:
        >>> build_curator("caption").decide_all(pairs).keep.sum()
        655
    """

    stage: ClassVar[str] = "filter"

    tokens: int = option(2, "fewest tokens of a caption", low=0)
    characters: int = option(6, "fewest characters of a caption", low=0)

    def rules(self, pairs: PairTable) -> dict[str, np.ndarray]:
        """Rule -> (N,) flags of the pairs that it drops."""
        texts = pairs.strings("text")
        return {
            self.rule_of_language: self.in_another_language(pairs, texts),
            f"fewer than {self.tokens} tokens": np.array([fasttext_tokens(text) < self.tokens for text in texts], bool),
            f"fewer than {self.characters} characters": np.array([len(t) < self.characters for t in texts], bool),
        }

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        return Decision.of(self.rules(pairs))
