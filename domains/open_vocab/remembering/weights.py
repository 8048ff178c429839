"""The weights between the detector before and the trained one, and which of them is best on some images.

Robust fine-tuning of zero-shot models (WiSE-FT), 2021, arXiv 2109.01903: every weight is (1 - alpha) before + alpha
after, for alpha 0, 0.1, ... 1, and 0.5 where nothing tells which. Ours is what is asked for: the alpha with the largest

    AP of the old names / theirs at alpha 0  +  AP of the new names / theirs at alpha 1,

and where the images tell nothing of the new names, the largest that keeps what is `ENOUGH` of the old: the sum would be
that of the old names alone, and best with what was learned thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

ALPHAS = tuple(step / 10 for step in range(11))
DEFAULT_ALPHA = 0.5
ENOUGH = 0.95
"""Share of the old names' AP."""

Scores = tuple[float | None, float | None]
"""AP of the old and of the new names; None where nothing tells it."""


def put_between(model: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float) -> None:
    """Give a model the weights between two states, in place; what only one of them has is that of `after`."""
    state = {name: _between(before.get(name), value, alpha) for name, value in after.items()}
    model.load_state_dict(state)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's state."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def best_alpha(score: Callable[[float], Scores]) -> tuple[float, dict[float, Scores]]:
    """The alpha that keeps and learns most, and the scores of all; of several the largest, which has learned most.

    Args:
        score: of a model with the weights at alpha.
    """
    scores = {alpha: score(alpha) for alpha in ALPHAS}
    old, new = scores[ALPHAS[0]][0], scores[ALPHAS[-1]][1]

    def kept_and_learned(alpha: float) -> float:
        return _share(scores[alpha][0], old) + _share(scores[alpha][1], new)

    if not old and not new:
        return DEFAULT_ALPHA, scores
    if not new:
        return max(alpha for alpha in ALPHAS if _share(scores[alpha][0], old) >= ENOUGH), scores
    return max(ALPHAS, key=lambda alpha: (round(kept_and_learned(alpha), 9), alpha)), scores


def _share(value: float | None, whole: float | None) -> float:
    return value / whole if value is not None and whole else 0.0


def _between(before: Tensor | None, after: Tensor, alpha: float) -> Tensor:
    if before is None or before.shape != after.shape or not torch.is_floating_point(after):
        return after
    return torch.lerp(before.to(after), after, alpha)
