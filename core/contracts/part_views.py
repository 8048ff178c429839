"""Views of a sample, several clips and crops of a video say, that follow one another as its parts: each is looked at by
itself, and what is predicted of them is averaged.

The two averages are those of MMAction2 (`average_clips`, "prob" and "score"); X-CLIP (Ni et al., 2022, arXiv
2208.02816) averages probabilities over 4 x 3 views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, DataError, shortened

PROBABILITIES, SCORES = "probabilities", "scores"
IMAGES = "looks at whole images while it predicts, not at views of them; average no views, or choose another method"


@dataclass(frozen=True)
class PartViews:
    """How the parts of each sample divide into views, all of one sample with as many parts.

    Args:
        count: V, views per sample.
        middle: the view that methods are fitted on.
        average: what is averaged, "probabilities" or "scores".

    Raises:
        ConfigError: fewer than two views, no such view, or another average.
    """

    count: int
    middle: int = 0
    average: str = PROBABILITIES

    def __post_init__(self):
        if self.count < 2 or not 0 <= self.middle < self.count or self.average not in (PROBABILITIES, SCORES):
            raise ConfigError(
                f"part views {self.as_text}: give at least two views, the index of the one to learn from, and "
                f"{PROBABILITIES} or {SCORES}"
            )

    @property
    def as_text(self) -> str:
        """For files of features."""
        return f"{self.count},{self.middle},{self.average}"

    @classmethod
    def of_text(cls, text: str) -> PartViews:
        """From `as_text`.

        Raises:
            ConfigError: something else.
        """
        try:
            count, middle, average = text.split(",")
            return cls(int(count), int(middle), average.strip())
        except ValueError:
            cure = f"give three values, for instance 12,8,{PROBABILITIES}"
            raise ConfigError(f"part views '{shortened(text)}': {cure}") from None

    def divided(self, parts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Each view by itself.

        Args:
            parts: (N, V * T, D), the views of a sample one after the other; shorter samples have fewer parts per view.
            mask: (N, V * T) bool, True where there is a part.

        Returns:
            (N, V, T, D) and (N, V, T).

        Raises:
            DataError: the parts of a sample do not divide into V views.
        """
        if mask.all() and mask.shape[1] % self.count == 0:
            return parts.unflatten(1, (self.count, -1)), mask.unflatten(1, (self.count, -1))
        each = mask.sum(dim=1, keepdim=True)  # (N, 1)
        if len(odd := (each[:, 0] % self.count).nonzero().flatten()):
            row = int(odd[0])
            raise DataError(
                f"row {row} has {int(each[row])} parts, which do not divide into {self.count} views; read it again"
            )
        each = each // self.count
        longest = int(each.max())
        place = mask.cumsum(dim=1) - 1
        target = (place // each) * longest + place % each  # (N, V * T), where a part belongs
        rows, columns = mask.nonzero(as_tuple=True)
        there = torch.zeros(len(mask), self.count * longest, dtype=torch.bool, device=mask.device)
        moved = parts.new_zeros(len(parts), self.count * longest, parts.shape[2])
        there[rows, target[rows, columns]] = True
        moved[rows, target[rows, columns]] = parts[rows, columns]
        return moved.unflatten(1, (self.count, longest)), there.unflatten(1, (self.count, longest))

    def keys(self, keys: Tensor, mask: Tensor) -> Tensor:
        """Sort keys (N, V * T) in 0..1 of parts, so that those of each view stay before those of the next."""
        each = mask.sum(dim=1, keepdim=True) // self.count
        view = (mask.cumsum(dim=1) - 1).clamp(min=0) // each.clamp(min=1)
        return (view + keys) / self.count


def averaged_views(logits: Tensor, average: str, several: bool) -> Tensor:
    """(V, B, C) -> (B, C), the logits of averaged probabilities, or averaged logits."""
    if average == SCORES:
        return logits.mean(dim=0)
    wide, views = logits.double(), math.log(len(logits))
    if not several:
        return (wide.log_softmax(dim=2).logsumexp(dim=0) - views).to(logits.dtype)
    return (F.logsigmoid(wide).logsumexp(dim=0) - F.logsigmoid(-wide).logsumexp(dim=0)).to(logits.dtype)
