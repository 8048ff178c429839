"""Captions of a training that change from epoch to epoch: at times a paraphrase, and at times words left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...core.contracts import require
from ...core.data import CaptionSampler, Pair
from ...core.errors import DataError, shortened
from ...core.runtime import read_json

FORM = '{"a caption": ["the same in other words", ...], ...}'


@dataclass(frozen=True)
class ChangedCaptions(CaptionSampler):
    """An Empirical Study of CLIP for Text-based Person Search (TBPS-CLIP; Cao et al., 2023, arXiv 2308.10045): with
    probability 0.1 a caption gives way to its translation into another language and back, then each of its words is
    left out with probability 0.05 (EDA's random deletion, 2019, arXiv 1901.11196), never all of them.

    No translator is at hand: the paraphrases are given, however they were made. Without them only words are left out.

    Args:
        paraphrases: caption -> the same in other words, one of which is drawn.
        paraphrased: probability that a caption gives way to one.
        deleted: probability that a word is left out; 0 for none.

    Raises:
        ConfigError: a probability out of range.
    """

    paraphrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paraphrased: float = 0.0
    deleted: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("paraphrased", "deleted"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "give a probability from 0 to below 1")

    def choose(self, pair: Pair, epoch: int, index: int, view: int = 0) -> str:
        text, generator = super().choose(pair, epoch, index, view), self.generator("change", epoch, index, view)
        others = self.paraphrases.get(text, ())
        if others and generator.random() < self.paraphrased:
            text = others[int(generator.integers(len(others)))]
        words = text.split()
        if not self.deleted or len(words) < 2:
            return text
        return " ".join(replace(self.augment, alpha=self.deleted).without_some(words, generator))


def read_paraphrases(path: str | Path, captions: Collection[str] | None = None) -> dict[str, tuple[str, ...]]:
    """The paraphrases of a JSON file: {"a caption": ["the same in other words", ...], ...}; or a text for a list.

    Args:
        captions: those of the training, one of which it is to be of; None: any.

    Raises:
        DataError: it cannot be read, is of another form, or is of none of the captions.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; write {FORM}")
    found: dict[str, tuple[str, ...]] = {}
    for caption, others in content.items():
        texts = [others] if isinstance(others, str) else others
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts)):
            raise DataError(f"{path}: paraphrases of '{shortened(caption)}' are not texts; write {FORM}")
        found[caption] = tuple(texts)
    if captions is not None and found.keys().isdisjoint(captions):
        raise DataError(
            f"{path}: has no paraphrase of any of the {len(set(captions))} training captions; give the "
            "captions exactly as they are"
        )
    return found
