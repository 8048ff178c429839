"""Attention pooling: a clip is the weighted mean of its frames, with learned weights, whatever their order.

Take it where few frames of a clip show the action, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import has, option
from ....core.training import GatedAttention
from ._frames import masked_mean
from ._pairs import PairTextHead
from ._text_head import TunedText


class FrameAttention(GatedAttention):
    """(B, T, D) frames and (B, T) bool -> (B, D), the mean of unit frames weighted by a softmax of their scores, which
    start at 0.

    Args:
        width: D. hidden: rows of V and U.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__(width, hidden, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        unit = F.normalize(frames, dim=-1)
        weights = self.weights(unit, mask)  # (B, T)
        counts = mask.sum(dim=1, keepdim=True)
        return masked_mean(counts[..., None] * weights[..., None] * unit, mask)

    def weights(self, unit: Tensor, mask: Tensor) -> Tensor:
        """(B, T) above 0 where there is a frame, with a sum of 1."""
        return super().forward(unit)[..., 0].masked_fill(~mask, -torch.inf).softmax(dim=1)


@dataclass(eq=False, kw_only=True)
class AttentionPool(PairTextHead):
    """Attention-based Deep Multiple Instance Learning (Ilse, Tomczak and Welling, 2018, arXiv 1802.04712), over the
    frames of a clip: the gated attention of its equation 9 says how much each frame counts.

    Its scoring vector starts at 0, so that before the first step a clip is the mean of its frames. Scores are cosines
    to the class texts, and a residual of each is learned too (`tune_text`; ours, as in `mean-pool`). The order of
    frames changes nothing.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: samples without parts.

    Example:
        >>> adapter = build_adapter("attention-pool", epochs=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked against the paper's equation, computed directly. The pooled frames are compared with "
        "class texts, and attention starts uniform"
    )

    state: ClassVar[tuple[str, ...]] = PairTextHead.tuned_state

    tuned = has(TunedText)
    weight_decay: float = 0.01
    hidden: int = option(128, "width of the attention", low=1, high=65_536)

    def _network(self, width: int) -> nn.Module:
        return FrameAttention(width, self.hidden)
