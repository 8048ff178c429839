"""Frame averaging: a clip is the mean of its frames, whatever their order.

Take it as the baseline of clips: what a method of time is to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import has, option
from ._frames import average_of_unit, masked_mean
from ._pairs import PairTextHead
from ._text_head import TunedText


class FrameAverage(nn.Module):
    """(B, T, D) and (B, T) bool -> (B, D) unit; it learns nothing.

    Args:
        unit_frames: make frames unit before they are averaged.
    """

    def __init__(self, unit_frames: bool = True):
        super().__init__()
        self.unit_frames = unit_frames

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return average_of_unit(frames, mask) if self.unit_frames else F.normalize(masked_mean(frames, mask), dim=-1)


@dataclass(eq=False, kw_only=True)
class MeanPool(PairTextHead):
    """Frame averaging, the baseline of every temporal method: the meanP of CLIP4Clip (Luo et al., 2021,
    arXiv 2104.08860) normalises frames, averages them and normalises the mean; ViFi-CLIP (Rasheed et al., 2022, arXiv
    2212.03640) averages them as they are (`unit_frames=false`).

    Neither learns anything on features. Here a residual of each class text is learned from the shots (`tune_text`), as
    in TaskRes (Yu et al., 2023, arXiv 2211.10277), and of pairs a matrix that gives each sentence one, so that heads
    that see the order can be compared with this one; without it the scores are zero-shot ones. With `train_towers`
    pairs train the towers, as both papers do.

    The order of frames changes nothing: the means are summed in float64.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: samples without parts.

    Example:
        >>> adapter = build_adapter("mean-pool", epochs=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "a residual of each class text is learned from the shots, of pairs a matrix that gives each sentence one; "
        "`tune_text=false` is the published method"
    )
    state: ClassVar[tuple[str, ...]] = tuple(name for name in PairTextHead.tuned_state if name != "weights")

    tuned = has(TunedText)
    weight_decay: float = 0.01
    unit_frames: bool = option(True, "normalise frames before they are averaged, as CLIP4Clip does")

    def _network(self, width: int) -> nn.Module:
        return FrameAverage(self.unit_frames)
