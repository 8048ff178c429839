"""ARO's order of words: the caption of an image among four that have the same words in another order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...contracts.bench import BenchScore
from ...contracts.items import DomainData, Question
from ...contracts.options import option
from ...errors import CapabilityError, DataError
from ...metrics.compositional import TIES, chosen_rightly
from ...runtime.reading import read_json
from ..questions import PLACES, QuestionSet, entry_of, image_data, image_items

FILES = tuple(f"{name}_{split}.json" for name in ("coco_karpathy", "flickr30k") for split in ("test", "val"))
FIELDS = {"image": str, "caption": list}
VERSION = "the caption files of ARO (coco_karpathy_test.json, flickr30k_test.json)"
NOUNS, ADJECTIVES = ("NN", "NNS", "NNP", "NNPS"), ("JJ", "JJR", "JJS")
"""Tags of the Penn Treebank."""
OPTIONS = 5
PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
TRIGRAM = 3


@dataclass(eq=False, kw_only=True)
class AroOrder(QuestionSet):
    """When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It? (Yuksekgonul et al.,
    2022, arXiv 2210.01936), COCO-Order and Flickr30k-Order: each caption beside four shuffles of its words (nouns among
    each other and adjectives among each other; all other words; within groups of three; the groups), in lower case and
    cut to 30 words, as `--seed` draws them. "p1" is the share of captions that score above their shuffles.

    spaCy cuts and tags the words; the released code cuts groups of three by NLTK. A caption that a shuffle leaves as it
    is ties with it, which is wrong here and right by position."""

    images: str | None = option(None, "folder of the images; by default that of the file", metavar="DIR")
    ties: str = option("wrong", "equal scores are wrong, or by position: the first, the true caption", choices=TIES)
    tagger: str = option("en_core_web_sm", "spaCy model that tags words")
    max_words: int = option(30, "words of a caption that are read", low=1, high=1000)

    unchanged: int = field(default=0, init=False)

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return any((place / file).is_file() for file in FILES)

    @property
    def notes(self) -> list[str]:
        if not self.unchanged:
            return []
        counted = "counted as right" if self.ties == "position" else "counted as wrong (ties=position: as right)"
        return [f"{self.title}: {self.unchanged:,} captions equal one of their own shuffles; they are {counted}."]

    def read(self, seed: int) -> tuple[DomainData, list[Question]]:
        assert self.folder is not None
        present = [self.folder / name for name in FILES if (self.folder / name).is_file()]
        if len(present) > 1:
            raise DataError(f"{self.folder}: holds {present[0].name} and {present[1].name}; keep one in a folder")
        file = present[0]
        entries = read_json(file)
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{file}: has no list of images; give {VERSION}")
        pairs: list[tuple[str, str]] = []
        for number, each in enumerate(entries):
            entry = entry_of(each, FIELDS, f"{file} entry {number}", VERSION)
            pairs += [(entry["image"], str(caption)) for caption in entry["caption"]]
        roots = [Path(self.images)] if self.images else [self.folder / each for each in PLACES]
        cure = "fetch the images, and name their folder: --set aro-order.images=DIR"
        items = image_items({name: (name, {}) for name, _ in pairs}, roots, file, cure)
        tagged = self.tagged([caption for _, caption in pairs])
        asked = []
        for number, ((image, caption), words) in enumerate(zip(pairs, tagged, strict=True)):
            shuffles = shuffled(words, np.random.default_rng([seed, number]))
            asked.append(
                Question((image,), tuple(shortened_caption(each, self.max_words) for each in (caption, *shuffles)))
            )
        self.unchanged = sum(each.texts[0] in each.texts[1:] for each in asked)
        return image_data(items, self.title), asked

    def tagged(self, captions: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
        """Words and tags of each caption.

        Raises:
            CapabilityError: spaCy or its model is not installed.
        """
        installed = find_spec("spacy") and (Path(self.tagger).is_dir() or find_spec(self.tagger.replace(".", "_")))
        if not installed:
            raise CapabilityError(
                f"{self.title}: shuffling nouns and adjectives needs spaCy and its model {self.tagger}; install them "
                f"(pip install spacy; python -m spacy download {self.tagger})"
            )
        import spacy

        language = spacy.load(self.tagger, disable=["parser", "ner", "lemmatizer"])
        for document in language.pipe(captions):
            yield [(token.text, token.tag_) for token in document]

    def scores_of(self, asked: Sequence[Question], scores: Tensor, units: Tensor) -> list[BenchScore]:
        right = chosen_rightly(scores[:, 0], torch.zeros(len(asked), dtype=torch.int64), self.ties)
        return [BenchScore.share("p1", right, units=units, guessing=1 / OPTIONS)]


def shuffled(words: Sequence[tuple[str, str]], generator: np.random.Generator) -> list[str]:
    """Four orders of the words of a caption: nouns and adjectives in each other's places, all but these, the words
    within each three, the threes.

    Args:
        words: and the tag of each.
    """
    texts = [text for text, _ in words]
    nouns = [place for place, (_, tag) in enumerate(words) if tag in NOUNS]
    adjectives = [place for place, (_, tag) in enumerate(words) if tag in ADJECTIVES]
    others = sorted(set(range(len(words))) - {*nouns, *adjectives})
    threes = [texts[start : start + TRIGRAM] for start in range(0, len(texts), TRIGRAM)]
    described = _exchanged(_exchanged(texts, nouns, generator), adjectives, generator)
    within = [[three[place] for place in generator.permutation(len(three))] for three in threes]
    turned = [threes[place] for place in generator.permutation(len(threes))]
    orders = (
        described,
        _exchanged(texts, others, generator),
        [word for three in within for word in three],
        [word for three in turned for word in three],
    )
    return [" ".join(order) for order in orders]


def _exchanged(texts: list[str], places: list[int], generator: np.random.Generator) -> list[str]:
    made = list(texts)
    for place, other in zip(places, generator.permutation(places)):
        made[place] = texts[other]
    return made


def shortened_caption(caption: str, most: int) -> str:
    """In lower case, without most punctuation, cut to so many words."""
    return " ".join(PUNCTUATION.sub(" ", caption.lower()).split()[:most])
