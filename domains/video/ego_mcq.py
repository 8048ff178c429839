"""EgoMCQ: which of five clips is the one that a sentence tells of (EgoVLP; Lin et al., 2022, arXiv 2206.01670)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.errors import DataError

INTER, INTRA = "inter", "intra"
"""Options from other videos, or from the same one."""


def ego_mcq(scores: Tensor, answers: Tensor, kinds: Sequence[str]) -> dict[str, float]:
    """Accuracy over the options of each question, for the questions of each kind.

    Args:
        scores: (Q, O) of each question's sentence with its options.
        answers: (Q,) which option is right.
        kinds: Q times "inter" or "intra".

    Returns:
        {"inter": ..., "intra": ...}, of the kinds that there are. A tie for the first place counts as a share.

    Raises:
        DataError: sizes disagree, an answer is no option, a score is not finite, or a kind is unknown.
    """
    if scores.ndim != 2 or len(scores) != len(answers) or len(kinds) != len(answers):
        raise DataError(
            f"{tuple(scores.shape)} scores, {len(answers)} answers, {len(kinds)} kinds; give (Q, O), Q and Q"
        )
    if len(answers) and not (int(answers.min()) >= 0 and int(answers.max()) < scores.shape[1]):
        raise DataError(
            f"answers reach from {int(answers.min())} to {int(answers.max())}; give 0 to {scores.shape[1] - 1}"
        )
    if not torch.isfinite(scores).all():
        raise DataError("scores hold NaN or infinity; compute them again")
    if unknown := sorted(set(kinds) - {INTER, INTRA}):
        raise DataError(f"kind '{unknown[0]}' of a question; there are {INTER} and {INTRA}")
    top = scores == scores.amax(dim=1, keepdim=True)
    right = (top.gather(1, answers[:, None])[:, 0] / top.sum(dim=1)).double()
    of_kind = {kind: torch.tensor([each == kind for each in kinds]) for kind in (INTER, INTRA)}
    return {kind: float(right[rows].mean()) for kind, rows in of_kind.items() if rows.any()}
