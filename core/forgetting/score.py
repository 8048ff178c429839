"""How well a model names generic images, and what a training did to it: in words, and as numbers for metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..contracts.run_info import Record
from ..errors import DataError
from ..metrics.intervals import SIGNIFICANT, exact_interval
from ..metrics.significance import McNemar, mcnemar, p_words
from ..runs.run_sections import score_rows
from ..runs.sections import Measure, TableSection, VerdictSection

if TYPE_CHECKING:
    from typing_extensions import Self

DRAWN = "drawings"
MEASURES = {
    "top1": Measure("First word right", "its name comes first"),
    "top5": Measure("Among the first five", "its name is one of the first five words"),
}
TESTED = ("gained", "lost", "p_value")


@dataclass(frozen=True)
class GenericScore:
    """How well a model names generic images.

    Attributes:
        top1, top5: share of images whose name is the first, or among the first five, of all words. A tie with another
            word counts as wrong: a tower that gives the same for all images knows none.
        images: how many images.
        words: how many words there are to choose from.
        name: "drawings", or the folder of the images.
        right: (N,) bool, which images have their name first, for the paired test; None where that is not known.
        broken: images without a usable similarity (NaN, infinity, or a feature of zeros); they count as wrong.
    """

    top1: float
    top5: float
    images: int
    words: int
    name: str
    right: Tensor | None = field(default=None, repr=False, compare=False)
    broken: int = 0

    @property
    def count(self) -> int:
        """Images whose name is the first."""
        return round(self.top1 * self.images)

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of `top1`, as if no two images showed the same thing: a little too narrow."""
        return exact_interval(self.count, self.images)

    @property
    def shares(self) -> dict[str, Any]:
        """For metrics.json."""
        return {"top1": self.top1, "top5": self.top5, "interval": self.interval}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.top1:.1%} ({100 * low:.1f} to {100 * high:.1f})"

    @property
    def note(self) -> str:
        """What keeps this score from showing anything that is lost later; "" where nothing does."""
        if self.broken:
            return f"the model gives NaN, infinity or only zeros for {self.broken} of {self.images} generic images"
        if self.interval[0] <= 1 / self.words:
            return (
                f"{100 * self.top1:.1f} % cannot be told from guessing among {self.words} words, so a loss would not "
                "show; give generic images that this model can name (--generic)"
            )
        if mcnemar(torch.ones(self.count), torch.zeros(self.count)).p_value >= SIGNIFICANT:
            return (
                f"with {self.count} of {self.images} generic images right, even losing all could be chance; give "
                "generic images that this model can name (--generic)"
            )
        return ""


def generic_sentence(before: GenericScore, after: GenericScore) -> str:
    """What a training did to a model's general ability, in one line for the user.

    Raises:
        DataError: the scores are of different images or words.
    """
    _check_same_probe(before, after)
    shown = f"{before.images} {DRAWN}" if before.name == DRAWN else f"{before.images} generic images of {before.name}"
    line = f"Generic vocabulary ({before.words} words, {shown}): {_share(before)} before, {_share(after)} after"
    changed = "" if before.note else _what_changed(before, after)
    return "; ".join(part for part in (line, changed, _reservation(before, after)) if part) + "."


@dataclass(frozen=True, eq=False)
class Forgotten(Record):
    """What a training did to a model's general ability.

    Attributes:
        before, after: how the model named the same images.
        gained, lost, p_value: of McNemar's test, images named correctly only after, and only before; None where it is
            not known which were.
        reservation: what must be known to read the numbers, or "".
    """

    key: ClassVar[str] = "generic"
    before: GenericScore
    after: GenericScore
    gained: int | None
    lost: int | None
    p_value: float | None
    reservation: str

    @classmethod
    def of_scores(cls, before: GenericScore, after: GenericScore) -> Forgotten:
        """Two scores of one probe.

        Raises:
            DataError: they are of different images or words.
        """
        _check_same_probe(before, after)
        test = _paired(before, after)
        tested = (None, None, None) if test is None else (test.gained, test.lost, test.p_value)
        return cls(before, after, *tested, _reservation(before, after))

    def values_by_key(self) -> dict[str, Any]:
        of = self.before
        values = {"name": of.name, "words": of.words, "images": of.images}
        values |= {"before": of.shares, "after": self.after.shares}
        return {**values, **{key: getattr(self, key) for key in TESTED}, "note": self.reservation}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = metrics[cls.key]
        of = (values["images"], values["words"], values["name"])
        sides = (GenericScore(values[side]["top1"], values[side]["top5"], *of) for side in ("before", "after"))
        return cls(*sides, *map(values.get, TESTED), values.get("note") or "")

    def note(self) -> str:
        return generic_sentence(self.before, self.after)

    def section(self) -> list[Any]:
        """The verdict, and the numbers below it."""
        sides = (self.before.shares, self.after.shares)
        rows = score_rows(MEASURES, *sides, {"top1": (self.before.interval, self.after.interval)})
        return [self.verdict, TableSection("", ("Generic vocabulary", "Before", "After", "Change"), rows)]

    @property
    def verdict(self) -> VerdictSection:
        """Whether the model forgot."""
        p, note, before = self.p_value, self.reservation, self.before
        of = DRAWN if before.name == DRAWN else f"generic images of {before.name}"
        text = (
            f"Of {before.images} {of}, each to be named by one of {before.words} words, {before} were named correctly "
            f"before and {self.after} after."
        )
        if p is not None and self.gained + self.lost:
            text += f" It lost {self.lost} and gained {self.gained} (McNemar’s test, {p_words(p)})."
        text += f" {note[0].upper()}{note[1:]}." if note else ""
        if p is not None and p < SIGNIFICANT:
            forgot = self.lost > self.gained
            tone, title = ("bad", "It forgot some of what it knew, by more than chance") if forgot else ("good", "")
            title = title or "It names generic images better than before"
        elif note or p is None:
            tone, title = "open", "This cannot tell what it forgot"
        else:
            tone, title = "open", "A loss that could be chance" if self.lost > self.gained else "No loss"
        return VerdictSection(tone, title, text, heading="What the towers still know about other things")


def _check_same_probe(before: GenericScore, after: GenericScore) -> None:
    if (before.name, before.images, before.words) != (after.name, after.images, after.words):
        raise DataError(
            f"scores of {before.images} generic images ({before.name}) and {after.images} ({after.name}) "
            "cannot be compared; use one probe before and after"
        )


def _share(score: GenericScore) -> str:
    low, high = score.interval
    return f"{100 * score.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _paired(before: GenericScore, after: GenericScore) -> McNemar | None:
    if before.right is None or after.right is None:
        return None
    return mcnemar(before.right, after.right)


def _what_changed(before: GenericScore, after: GenericScore) -> str:
    test = _paired(before, after)
    if test is None:
        return ""
    if test.gained + test.lost == 0:
        return "the same ones are named correctly as before"
    shown = f"(McNemar's test, {p_words(test.p_value)})"
    if test.p_value >= SIGNIFICANT:
        return f"{test.lost} lost and {test.gained} gained, which can be chance {shown}"
    if test.lost > test.gained:
        gained = f" and learned {test.gained} others" if test.gained else ""
        return f"the model forgot {test.lost} of the {before.count} it named correctly{gained} {shown}"
    return f"the model forgot nothing overall: {test.lost} lost, {test.gained} gained {shown}"


def _reservation(before: GenericScore, after: GenericScore) -> str:
    """What must be known to read the numbers: that there was nothing to lose, or that the model is broken now."""
    if before.note:
        return f"before: {before.note}"
    return f"after: {after.note}" if after.broken else ""
