"""Whether an image is told from images, and a caption from captions, that differ by a detail or by the order of words.

A score is that of an image with a text; right is what scores above every other option. Of equal scores none is right
("wrong"), as in Winoground's paper and SugarCrepe's code: a model that cannot tell two captions apart has not chosen.
Released code of others takes the first of the best ("position"), whatever stands there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DataError

TIES = ("wrong", "position")
TEXT, IMAGE, GROUP = "text", "image", "group"
GUESSED_PAIRS = {TEXT: 1 / 4, IMAGE: 1 / 4, GROUP: 1 / 6}
"""What random scores reach of two images and two texts: of the 24 orders of four scores 6, 6 and 4 are right."""


def chosen_rightly(scores: Tensor, answers: Tensor, ties: str = "wrong") -> Tensor:
    """(Q,) whether the right one of several options was chosen.

    Args:
        scores: (Q, O) of the options of each question.
        answers: (Q,) which option is right.
        ties: "wrong", or "position": of the best options the first is chosen.

    Raises:
        DataError: sizes disagree, an answer is no option, or a score is not finite.
    """
    _check(scores, answers, ties)
    if ties == "position":
        return scores.argmax(dim=1) == answers
    own = scores.gather(1, answers[:, None])  # (Q, 1)
    return (scores >= own).sum(dim=1) == 1  # none but itself


def paired_rightly(scores: Tensor, ties: str = "wrong") -> dict[str, Tensor]:
    """Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality (Thrush et al., 2022, arXiv
    2204.03162): "text" is whether each image scores highest with its own text, "image" whether each text does with its
    own image, "group" whether both hold.

    Args:
        scores: (Q, K, K) of K images, in rows, with K texts; the i-th belong together.
        ties: as of `chosen_rightly`.

    Returns:
        Name -> (Q,) bool.

    Raises:
        DataError: the scores are not square, or not finite.
    """
    if scores.ndim != 3 or scores.shape[1] != scores.shape[2]:
        raise DataError(f"{tuple(scores.shape)} scores of pairs; give (Q, K, K)")
    count, size, _ = scores.shape
    own = torch.arange(size, device=scores.device).repeat(count)  # (Q K,)
    sides = {TEXT: scores, IMAGE: scores.transpose(1, 2)}
    right = {
        name: chosen_rightly(side.reshape(-1, size), own, ties).view(count, size).all(dim=1)
        for name, side in sides.items()
    }
    return {**right, GROUP: right[TEXT] & right[IMAGE]}


def shares_of_kinds(right: Tensor, kinds: Sequence[str], least: int = 1) -> dict[str, float]:
    """Kind of question -> share that was answered rightly, in alphabetical order; their mean is the macro accuracy.

    Args:
        right: (Q,) bool.
        kinds: Q.
        least: questions that a kind must have to count: 25 of the pairs of attributes of ARO (When and Why
            Vision-Language Models Behave like Bags-of-Words, and What to Do About It?, Yuksekgonul et al., 2022, arXiv
            2210.01936).

    Raises:
        DataError: sizes disagree.
    """
    if len(right) != len(kinds):
        raise DataError(f"{len(right)} answers of {len(kinds)} questions; give as many")
    shares = {}
    for kind in sorted(set(kinds)):
        own = right[torch.tensor([each == kind for each in kinds])].double()
        if len(own) >= least:
            shares[kind] = float(own.mean())
    return shares


def _check(scores: Tensor, answers: Tensor, ties: str) -> None:
    if ties not in TIES:
        raise DataError(f"ties '{ties}'; give one of {', '.join(TIES)}")
    if scores.ndim != 2 or len(scores) != len(answers):
        raise DataError(f"{tuple(scores.shape)} scores and {len(answers)} answers; give (Q, O) and Q")
    if len(answers) and not (int(answers.min()) >= 0 and int(answers.max()) < scores.shape[1]):
        raise DataError(
            f"answers reach from {int(answers.min())} to {int(answers.max())}; options are 0 to {scores.shape[1] - 1}"
        )
    if not torch.isfinite(scores).all():
        raise DataError("scores hold NaN or infinity; compute them again")
