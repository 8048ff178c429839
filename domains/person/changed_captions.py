"""Captions of a training that change from epoch to epoch: at times a paraphrase, and at times words left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...core.contracts.adapter import require
from ...core.data.pairs.augment_text import TextAugment
from ...core.data.pairs.captions import CaptionSampler
from ...core.data.pairs.pair_set import Pair

PARAPHRASES = "synthetic"
"""The text of a pair that is another wording of its captions, as `core/data/pairs` calls it."""


@dataclass(frozen=True)
class ChangedCaptions(CaptionSampler):
    """An Empirical Study of CLIP for Text-based Person Search (TBPS-CLIP; Cao et al., 2023, arXiv 2308.10045): with
    probability 0.1 a caption gives way to its translation into another language and back, then each of its words is
    left out with probability 0.05 (EDA's random deletion, 2019, arXiv 1901.11196), never all of them.

    No translator is at hand: the data bring paraphrases, however made, one for each caption in their order where there
    are as many, else any of them. Without them only words are left out.

    Args:
        paraphrase: probability of a paraphrase.
        deletion: probability that a word is left out; 0 for none.

    Raises:
        ConfigError: a probability out of range.
    """

    mode: str = "captions"
    paraphrase: float = 0.1
    deletion: float = 0.05
    _delete: TextAugment | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("paraphrase", "deletion"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "give a probability from 0 to below 1")
        object.__setattr__(self, "_delete", TextAugment(alpha=self.deletion) if self.deletion else None)

    def choose(self, pair: Pair, epoch: int, index: int, view: int = 0) -> str:
        text, generator = super().choose(pair, epoch, index, view), self._generator("change", epoch, index, view)
        others = pair.texts.get(PARAPHRASES, ())
        if others and generator.random() < self.paraphrase:
            ordered = len(others) == len(pair.captions)
            place = pair.captions.index(text) if ordered else int(generator.integers(len(others)))
            text = others[place]
        words = text.split()
        if self._delete is None or len(words) < 2:
            return text
        return " ".join(self._delete.without_some(words, generator))
