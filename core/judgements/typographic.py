"""`--holistic`: whether a run answers a word that is drawn into an image, the name of another class.

Goh et al., 2021, and Materzyńska, Torralba and Bau, 2022, as in `core/robustness/typographic.py`. Intervals, and the
share that gave this answer without the word, are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..contracts.corruption import Corruption
from ..contracts.judgement import JudgedClassifier
from ..contracts.run_info import AxisScore, Record
from ..metrics.intervals import share_interval
from ..prompts.classifier import spoken
from ..robustness.corruption import Corrupted
from ..robustness.typographic import drawn_word, has_letters
from ..runs.sections import Cell, TableSection, plural
from ._condition import SHARE, ConditionScores, printed, why_unchanged
from ._holistic import WORST, HolisticJudgement

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor
    from typing_extensions import Self

LEAST_SIDE = 32
"""Pixels of a tower's images below which no word can be read."""
NAME = "typographic"
TITLE = "A word of another class in the image"
HEADER = ("", "Zero-shot", "This run", "Change", "Over zero-shot")


@dataclass(frozen=True, eq=False)
class TypographicScores(Record):
    """What a drawn word does.

    Attributes:
        images: test images into which one was drawn.
        lacking: why there are no scores; "" where there are.
        clean, clean_zero_shot: accuracy on these images without it, at the same size.
        scores: with it.
        follows, follows_interval: share of the images whose answer is the drawn word.
        follows_clean: share that had this answer without the word.
        follows_zero_shot: share by zero-shot with the word, or None.
        worst: (test row, word) of images that were right, and whose answer became the word.
    """

    key: ClassVar[str] = NAME
    axes: ClassVar = {NAME: "give --holistic"}
    images: int
    lacking: str = ""
    clean: float = 0.0
    clean_zero_shot: float | None = None
    scores: ConditionScores | None = None
    follows: float = 0.0
    follows_interval: Sequence[float] = ()
    follows_clean: float = 0.0
    follows_zero_shot: float | None = None
    worst: Sequence[tuple[int, str]] = ()

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = dict(metrics[cls.key])
        scores = values.pop("scores")
        return cls(scores=scores and ConditionScores(**scores), **values)

    def rows(self) -> list[tuple[str | Cell, ...]]:
        """Of a table."""
        if self.scores is None:
            return []
        follows = Cell(SHARE.text(self.follows), SHARE.between(self.follows_interval))
        return [
            ("Without a word", Cell(SHARE.text(self.clean_zero_shot)), Cell(SHARE.text(self.clean)), "", ""),
            ("With the word", *self.scores.cells()),
            ("Answers the word", Cell(SHARE.text(self.follows_zero_shot)), follows, "", ""),
        ]

    def section(self) -> TableSection:
        if self.scores is None:
            return TableSection(TITLE, (), [], self.lacking)
        note = (
            f"The name of another class is drawn into each of {plural(self.images, 'test image')}, at a size and a "
            f"place of chance. Without the word {SHARE.text(self.follows_clean)} of the answers named that class."
        )
        return TableSection(TITLE, HEADER, self.rows(), note)

    def pictured(self) -> tuple[str, list[tuple[int, str]]] | None:
        rows = [(row, f"answers the drawn word {word}") for row, word in self.worst]
        return ("Answers that follow a drawn word", rows) if rows else None

    def axis_scores(self) -> Mapping[str, AxisScore | str]:
        if self.scores is None:
            return {NAME: self.lacking}
        return {NAME: AxisScore(TITLE, self.scores.accuracy, self.scores.interval, self.scores.zero_shot)}

    def table(self) -> Table | None:
        return None if self.scores is None else printed(TITLE, HEADER, self.rows())

    def note(self) -> str:
        if self.scores is None:
            return self.lacking
        change = self.scores.cells()[2]
        return (
            f"with the name of another class drawn into each image the accuracy is {SHARE.text(self.scores.accuracy)} "
            f"({change.text} points, 95 % interval {change.small}); {SHARE.text(self.follows)} of the answers are the "
            f"drawn word, {SHARE.text(self.follows_clean)} without it"
        )


@dataclass(eq=False, kw_only=True)
class Typographic(HolisticJudgement):
    """Scores on test images into which the name of another class is drawn."""

    record: ClassVar = TypographicScores

    def compute(self, fit: JudgedClassifier) -> TypographicScores:
        if lacking := _lacking(fit):
            return TypographicScores(0, f"drawn words: not tested, since {lacking}")
        rows = self.rows_of(fit)
        assert fit.test.ids is not None and fit.labels is not None
        ids, labels = [fit.test.ids[row] for row in rows], fit.labels[rows]
        words = _other_classes(ids, labels, len(fit.class_names), fit.seed)
        before, after = _answers(fit, ids, None)
        before_word, after_word = torch.full_like(words, -1), torch.empty_like(words)
        with fit.reporter.task("Drawing words into test images") as progress:
            for done, word in enumerate(words.unique().tolist(), start=1):
                of = (words == word).nonzero().squeeze(1)
                zero_shot, after_word[of] = _answers(fit, [ids[n] for n in of.tolist()], fit.class_names[word])
                if zero_shot is not None:
                    before_word[of] = zero_shot
                progress(done, len(words.unique()))
        groups = None if fit.scores.groups is None else list(map(fit.scores.groups.__getitem__, rows))
        follows, has_texts = after_word == words, before is not None
        led = (follows & (after == labels)).nonzero().squeeze(1).tolist()[:WORST]
        return TypographicScores(
            images=len(rows),
            clean=_share(after == labels),
            clean_zero_shot=None if before is None else _share(before == labels),
            scores=ConditionScores.of(
                after == labels, after_word == labels, before_word == labels if has_texts else None, groups
            ),
            follows=_share(follows),
            follows_interval=share_interval(follows, groups),
            follows_clean=_share(after == words),
            follows_zero_shot=_share(before_word == words) if has_texts else None,
            worst=[(rows[n], spoken(fit.class_names[int(words[n])])) for n in led],
        )


def _lacking(fit: JudgedClassifier) -> str:
    """Why a run cannot be judged so; "" where it can."""
    if why := why_unchanged(fit, LEAST_SIDE):
        return why
    if len(fit.class_names) < 2:
        return "there is one class"
    without = [name for name in fit.class_names if not has_letters(spoken(name))]
    return f"the font lacks letters of class '{without[0]}'" if without else ""


def _other_classes(ids: Sequence[str], labels: Tensor, classes: int, seed: int) -> Tensor:
    """(n,) a class other than each image's own, by the seed and its id."""
    digests = [hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest() for name in ids]
    further = torch.tensor([1 + int.from_bytes(digest, "big") % (classes - 1) for digest in digests])
    return (labels + further) % classes


def _answers(fit: JudgedClassifier, ids: Sequence[str], word: str | None) -> tuple[Tensor | None, Tensor]:
    """(n,) class indices, of zero-shot and of the run, with a word in each image, or None."""
    assert fit.before is not None
    kind = None if word is None else Corruption(f"the word {word}", partial(drawn_word, spoken(word)))
    size, severity = fit.before.image_size, int(kind is not None)
    seen = partial(Corrupted, size=size, corruption=kind, severity=severity, seed=fit.seed)
    zero_shot, adapted = fit.answers_seen_through(ids, seen)
    return None if zero_shot is None else zero_shot.argmax(dim=1), adapted.argmax(dim=1)


def _share(of: Tensor) -> float:
    return float(of.double().mean())
