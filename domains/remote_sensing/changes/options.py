"""What a user may say of a model of change and its training."""

from __future__ import annotations

from dataclasses import dataclass

from ....core.contracts import option, settle
from ....core.errors import ConfigError

FROZEN, LORA, FULL = "frozen", "lora", "full"
LIGHT, FPN, UPERNET = "light", "fpn", "upernet"
TOWER = "tower"
RESNETS = {"resnet-18": 18, "resnet-34": 34, "resnet-50": 50, "resnet-101": 101}
"""Name of an encoder of mmsegmentation -> its depth."""


@dataclass(frozen=True, kw_only=True)
class ChangeOptions:
    """How a model of change is made and trained."""

    encoder: str = option(
        TOWER,
        "what looks at both dates: the tower of --backbone, or a ResNet of mmsegmentation, which trains whole",
        choices=(TOWER, *RESNETS),
    )
    tower: str = option(
        FROZEN, "what of the tower trains: nothing, LoRA in its attention, or all", choices=(FROZEN, LORA, FULL)
    )
    rank: int = option(4, "rank of LoRA", low=1, high=256)
    head: str = option(
        LIGHT,
        "what decodes the compared maps: light (two convolutions), or mmsegmentation's FPN or UPerNet",
        choices=(LIGHT, FPN, UPERNET),
    )
    head_channels: int = option(64, "channels of the head, a multiple of 8", low=8, high=1024)
    change_weight: float | None = option(
        None,
        "weight of changed pixels in the cross-entropy; by default by how rare they are",
        above=0,
        high=1e4,
    )
    dice_weight: float = option(1.0, "weight of the Dice loss beside cross-entropy; 0 for none", low=0, high=100)
    augmented: bool = option(True, "turn and mirror both dates alike, and vary the light of each alone")

    def __post_init__(self):
        settle(self, "the task change")
        if self.head_channels % 8:
            raise ConfigError(f"--head-channels {self.head_channels}: give a multiple of 8")
        if self.encoder != TOWER and self.tower != FROZEN:
            raise ConfigError(f"--tower {self.tower}: {self.encoder} trains whole; omit it, or give --encoder tower")
        if self.rank != type(self).rank and self.tower != LORA:
            raise ConfigError(f"--rank {self.rank}: is for --tower lora; omit it, or give that")
