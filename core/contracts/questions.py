"""Questions with images to choose from, which some sets of captioned images or clips ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Question:
    """A sentence, and samples of which one is meant.

    Args:
        text: one of the captions of the right sample.
        options: ids of the samples.
        answer: which of them is right.
        kind: of question, by which scores are told apart.
    """

    text: str
    options: tuple[str, ...]
    answer: int
    kind: str


@dataclass(frozen=True)
class Questions:
    """All questions of a set, each with as many options.

    Args:
        name: of the measure ("EgoMCQ").
        asked: the questions.
        metric: (scores (Q, O), answers (Q,), Q kinds) -> shares in 0..1 by name.
    """

    name: str
    asked: Sequence[Question]
    metric: Callable[[Tensor, Tensor, Sequence[str]], dict[str, float]]
