"""LAION's filter: language, length of the caption, size of the file, and a CLIP score of one encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError
from ._captions import CaptionFilter
from .clip_score import column_scores, encoder_of_scores

NOT_DONE = (
    "not done here: hash lists of images known to be illegal (`vladapt curate remove --hashes`), and classifiers of "
    "unsafe images and of watermarks, but for the columns of their probabilities that are asked for"
)


@dataclass(eq=False, kw_only=True)
class Laion(CaptionFilter):
    """LAION-5B: An open large-scale dataset for training next generation image-text models (2022, arXiv 2210.08402)
    and LAION-400M (2021, arXiv 2111.02114): an English caption of at least 5 characters, an image file of at least
    5 kB, and a CLIP score of at least 0.28 of OpenAI's ViT-B/32. LAION-400M took 0.3; LAION-5B took 0.26 of a
    multilingual encoder for other languages.

    Safety: LAION published probabilities of unsafe content and of watermarks as columns and dropped nothing by them;
    `unsafe` and `watermark` do. What cannot be had without a network is not done: its classifiers, and the hash lists
    of images known to be illegal, for which LAION-5B was withdrawn in 2023 and published anew in 2024 (Re-LAION-5B).
    Copies, by URL and text in LAION, are for the stage dedup.

    No filter makes a set of web images safe; `vladapt curate remove --hashes` takes a hotline's list.

    Example:
        >>> build_curator("laion", column="similarity", encoder="ViT-B-32 openai").decide_all(pairs).keep.sum()
        171
    """

    stage: ClassVar[str] = "filter"

    threshold: float = option(0.28, "lowest CLIP score to keep; holds for one encoder", low=-1.0, high=1.0)
    column: str = option("", "of scores that the pairs come with, such as similarity; else features")
    encoder: str = option("", "that the threshold was chosen for; of features it must be theirs")
    characters: int = option(5, "fewest characters of a caption", low=0)
    file_bytes: int = option(5000, "smallest file of an image", low=0)
    unsafe: float | None = option(None, "probability of unsafe content from which pairs are dropped", low=0.0, high=1.0)
    unsafe_column: str = option("punsafe", "column of that probability")
    watermark: float | None = option(None, "probability of a watermark from which pairs are dropped", low=0.0, high=1.0)
    watermark_column: str = option("pwatermark", "column of that probability")

    def __post_init__(self):
        super().__post_init__()
        if self.column and not self.encoder:
            raise ConfigError(
                f"curator '{self.name}': a threshold holds for one encoder; give encoder=, which made {self.column}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        scores = (self.column,) if self.column else (IMAGE_FEATURES, CAPTION_FEATURES)
        size = ("bytes",) if self.file_bytes else ()
        return (*super().reads, *size, *scores, *(column for column, _, _ in self._probabilities()))

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        self.check(pairs.columns)
        encoder = encoder_of_scores(pairs, self.column, self.encoder, needed=True)
        note = f"CLIP score of {encoder}: {self.threshold:g} and more are kept; other encoders need another threshold"
        return Survey(notes=(note, NOT_DONE))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        texts, scores = pairs.strings("text"), column_scores(pairs, self.column)
        fails = {
            self.rule_of_language: self.in_another_language(pairs, texts),
            f"fewer than {self.characters} characters": np.array([len(t) < self.characters for t in texts], bool),
        }
        if self.file_bytes:
            fails[f"a file below {self.file_bytes} bytes"] = ~(pairs.numbers("bytes") >= self.file_bytes)
        fails[f"CLIP score below {self.threshold:g}"] = ~(scores >= scores.dtype.type(self.threshold))
        for column, highest, what in self._probabilities():
            fails[what] = ~(pairs.numbers(column) < highest)
        return Decision.of(fails, scores={"clip_score": scores.astype(np.float32)})

    def _probabilities(self) -> list[tuple[str, float, str]]:
        """(column, probability from which pairs are dropped, rule) of what the user asks for."""
        offered = [
            (self.unsafe_column, self.unsafe, "unsafe content is probable, or not looked for"),
            (self.watermark_column, self.watermark, "a watermark is probable, or not looked for"),
        ]
        return [(column, highest, what) for column, highest, what in offered if highest is not None]
