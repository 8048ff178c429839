"""Which of an image's texts a training step sees: each choice a function of (seed, epoch, row) and nothing else."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...contracts.options import require
from ...errors import DataError
from .augment_text import TextAugment
from .code_switch import CodeSwitch
from .negatives import swap_negative
from .pair_set import Pair, PairSet

MODES = ("first", "captions", "uniform", "shear", "sentences")
SHARES = ("raw", "rewritten", "sheared", "captions", "sentences", "short")
"""Kinds of texts that may have a share, besides further columns."""
FIELD_OF_SHARE = {"rewritten": "synthetic", "sheared": "synthetic", "short": "short"}
"""Kind of texts -> the column that it is drawn from."""
EXAMPLE = "raw:.5,rewritten:.3,sheared:.2"
SENTENCE_END = re.compile(r"[.!?]+(?:\s+|$)|\n+|</s>")


@dataclass(frozen=True)
class CaptionSampler:
    """Chooses texts of a `Pair`.

    Modes of `choose`:
        * "first": the original, always.
        * "captions": any of the captions.
        * "sentences": any sentence of any of the captions. Contrastive Learning of Medical Visual Representations from
          Paired Images and Text (ConVIRT; Zhang et al., 2020, arXiv 2010.00747).
        * "uniform": any of the captions and rewrites ("synthetic").
          Improving CLIP Training with Language Rewrites (LaCLIP; Fan et al., 2023, arXiv 2305.20088).
        * "shear": the same, a rewrite cut to as many words as the original has, which keeps what a model invented at
          its end away. MLLMs-Augmented Visual-Language Representation Learning (Liu et al., 2023, arXiv 2311.18765);
          one text per step, as in LaCLIP.

    As in LaCLIP a text of fewer than two words gives way to the original; a sentence does not, and neither does one of
    another column, which may be in a language without blanks.

    In place of a mode there may be shares, "raw:.5,rewritten:.3,sheared:.2": of the kinds of texts in `SHARES` ("raw"
    is the original, "rewritten" one of the rewrites) and of further columns of texts ("caption_de"). One of them is
    drawn by its share, then a text of it; an image that has none gives the original. Recaptioned data keep a share of
    the originals: What If We Recaption Billions of Web Images with LLaMA-3 (Li et al., 2024, arXiv 2406.08478). One
    kind, or a column whose name begins with "caption_", may stand alone.

    Args:
        mode: one of these, or shares.
        seed: fixes every draw.
        augment: how `second` changes a text.
        switch: switches words of what is chosen into other languages; None: leaves them.

    Raises:
        ConfigError: there is no such mode, or shares are not numbers above 0.
    """

    mode: str = "uniform"
    seed: int = 0
    augment: TextAugment = field(default_factory=TextAugment)
    switch: CodeSwitch | None = None

    def __post_init__(self) -> None:
        shares_of_captions(self.mode)

    @cached_property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """(kind or column, cumulative share); nothing where there is a mode."""
        shares = shares_of_captions(self.mode)
        ends = np.cumsum([*shares.values()]) / (sum(shares.values()) or 1)
        return tuple(zip(shares, ends.tolist()))

    def choose(self, pair: Pair, epoch: int, index: int, view: int = 0) -> str:
        """The text of an image in an epoch.

        Args:
            pair: the image's texts.
            epoch: from 0.
            index: the row of the pair.
            view: another number, another draw.
        """
        return self._switched(self._chosen(pair, epoch, index, view), epoch, index, view)

    def _switched(self, text: str, *numbers: int | str) -> str:
        """With words in other languages, where there is a dictionary."""
        if self.switch is None:
            return text
        return self.switch(text, random.Random(repr((self.seed, "switch", *numbers))))

    def _chosen(self, pair: Pair, epoch: int, index: int, view: int) -> str:
        original = pair.captions[0]
        if self.shares:
            return self._by_share(pair, self.generator("share", epoch, index, view))
        if self.mode == "first":
            return original
        pool = [*pair.captions]
        if self.mode == "uniform":
            pool += pair.texts.get("synthetic", ())
        elif self.mode == "shear":
            pool += [sheared(text, original) for text in pair.texts.get("synthetic", ())]
        elif self.mode == "sentences":
            pool = [sentence for text in pool for sentence in sentences_of(text)]
        chosen = pool[int(self.generator("choose", epoch, index, view).integers(len(pool)))]
        return chosen if self.mode == "sentences" or len(chosen.split()) > 1 else original

    def _by_share(self, pair: Pair, generator: np.random.Generator) -> str:
        drawn, original = generator.random(), pair.captions[0]
        kind = next((name for name, end in self.shares if drawn < end), self.shares[-1][0])
        if kind in ("rewritten", "sheared"):
            pool = list(pair.texts.get("synthetic", ()))
        elif kind in ("raw", "captions", "sentences"):
            pool = [original] if kind == "raw" else list(pair.captions)
        else:
            pool = list(pair.texts.get(kind, ()))
        if kind == "sentences":
            pool = [sentence for text in pool for sentence in sentences_of(text)]
        chosen = pool[int(generator.integers(len(pool)))] if pool else original
        chosen = sheared(chosen, original) if kind == "sheared" else chosen
        return original if kind in ("rewritten", "sheared") and len(chosen.split()) < 2 else chosen

    def second(self, pair: Pair, epoch: int, index: int) -> str:
        """The text of a second view: another draw, augmented (DeCLIP, Li et al., 2021, arXiv 2110.05208)."""
        return self.augment(self.choose(pair, epoch, index, view=1), self.generator("second", epoch, index))

    def several(self, pair: Pair, epoch: int, index: int, count: int) -> list[str]:
        """The original and `count` sub-captions, N = count + 1 texts that all fit the image.

        Sub-captions are sentences of the other captions and rewrites; where there are none, of the original.
        """
        texts = (*pair.captions[1:], *pair.texts.get("synthetic", ())) or pair.captions
        pool = [sentence for text in texts for sentence in sentences_of(text)]
        chosen = [pair.captions[0], *drawn_captions(pool, count, self.generator("several", epoch, index))]
        return [self._switched(text, "several", place, epoch, index) for place, text in enumerate(chosen)]

    def short(self, pair: Pair, epoch: int, index: int) -> str:
        """One of the short captions; where there are none, the first sentence of the chosen one (Long-CLIP)."""
        texts = pair.texts.get("short", ())
        if not texts:
            return first_sentence(self.choose(pair, epoch, index))
        chosen = texts[int(self.generator("short", epoch, index).integers(len(texts)))]
        return self._switched(chosen, "short", epoch, index)

    def other(self, pair: Pair, kind: str, epoch: int, index: int) -> str:
        """One of the texts "synthetic" or "negative"; where an image lacks them, a caption, or a made negative."""
        generator = self.generator(kind, epoch, index)
        texts = pair.texts.get(kind, ())
        if texts:
            return texts[int(generator.integers(len(texts)))]
        caption = self.choose(pair, epoch, index)
        return swap_negative(caption, generator) if kind == "negative" else caption

    def generator(self, purpose: str, *parts: int | str) -> np.random.Generator:
        """For one purpose and, say, an epoch and a row: the same whenever it is asked for."""
        return generator_of(self.seed, purpose, *parts)


def shares_of_captions(mode: str) -> dict[str, float]:
    """Kind or column -> its share; nothing where it is a mode.

    Raises:
        ConfigError: there is no such mode, one is named twice, or a share is not a number above 0.
    """
    if mode in MODES:
        return {}
    shares: dict[str, float] = {}
    for part in mode.split(","):
        name, colon, share = part.partition(":")
        name = name.strip()
        try:
            number = float(share) if colon else 1.0
        except ValueError:
            number = math.nan
        named = bool(colon) or name in SHARES or name.startswith("caption_")  # else it may be a slip of a mode
        usable = bool(name) and named and number > 0
        require(usable, "captions", mode, f"give one of {', '.join(MODES)}, or shares: {EXAMPLE},caption_de:.5")
        require(name not in shares, "captions", mode, f"'{name}' has two shares; give one")
        shares[name] = number
    return shares


def columns_of_captions(mode: str) -> dict[str, str]:
    """The further columns of texts that captions are drawn from, as `read_pairs` takes them."""
    return {name: "text" for name in shares_of_captions(mode) if name not in SHARES}


def check_columns(mode: str, pairs: Any) -> None:
    """Raise the DataError of a column of captions, of a language for instance, that pairs do not have, or of a kind of
    texts that no row has.

    Args:
        pairs: a `PairSet`, or pairs that tell their `further_columns`.
    """
    for kind in shares_of_captions(mode):
        field = FIELD_OF_SHARE.get(kind)
        if field is not None and isinstance(pairs, PairSet) and field not in pairs.field_counts:
            raise DataError(
                f"--set captions={mode}: {pairs.name or 'the data'} has no texts for '{kind}'; add a column '{field}', "
                "or omit it"
            )
    for column in columns_of_captions(mode):
        if pairs.further_columns.get(column) != "text":
            raise DataError(
                f"--set captions={mode}: {pairs.name or 'the data'} has no texts in a column '{column}', or in under "
                f"95 % of its rows; give one of {', '.join(MODES)}, a column, or shares: {EXAMPLE}"
            )


def sheared(text: str, original: str) -> str:
    """The first words of `text`, as many as `original` has."""
    return " ".join(text.split()[: len(original.split())])


def sentences_of(text: str) -> list[str]:
    """The sentences of a text without their full stops; the text itself where it has none.

    DreamLIP: Language-Image Pre-training with Long Captions (Zheng et al., 2024, arXiv 2403.17007). The released code
    cuts at every full stop, in "3.5 m" too, and never draws the last sentence; here sentences end where a space or the
    text's end follows, and each can be drawn.
    """
    parts = [part.strip() for part in SENTENCE_END.split(text)]
    return [part for part in parts if part] or [text.strip()]


def drawn_captions(pool: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    """`count` of the pool, none twice if it has enough."""
    return [pool[int(place)] for place in generator.choice(len(pool), count, replace=len(pool) < count)]


def first_sentence(text: str) -> str:
    """What comes before the first ". ", as Long-CLIP (Zhang et al., 2024, arXiv 2403.15378) shortens ShareGPT4V."""
    return text.replace("\n", " ").split(". ")[0].strip()


def generator_of(*parts: int | str) -> np.random.Generator:
    """A generator that is the same for the same parts, and unlike that of any others."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
