"""CLIP's ResNet up to its third stage: what a C4 detector takes regions from, the rest being run on each region."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from .....core.backbones import load_backbone
from .....core.contracts import Backbone
from .....core.errors import CapabilityError, ConfigError
from .....registry import MODELS
from .clip_vision import CLIPVisionBackbone

STAGES = ("layer1", "layer2", "layer3", "layer4")
PUBLISHED_FROZEN = 1


@MODELS.register_module()
class CLIPC4Backbone(CLIPVisionBackbone):
    """The map of the third stage, (B, C, H / 16, W / 16), of a ResNet of CLIP; its last stage is not run on it.

    RegionCLIP: Region-based Language-Image Pretraining, 2021, arXiv 2112.09106. `CLIPLastStage` runs it on regions.

    Args:
        backbone: spec of a ResNet of open_clip.
        frozen_stages: as of `CLIPVisionBackbone`; 1 freezes the stem and the first stage, as published.
        options: of `CLIPVisionBackbone`.

    Raises:
        CapabilityError: the backbone is not a ResNet of CLIP.
    """

    def __init__(self, backbone: str, frozen_stages: int = PUBLISHED_FROZEN, **options: Any):
        require_resnet(load_backbone(backbone, device="cpu"))
        frozen_stages = -1 if options.get("frozen") or options.get("lora") else frozen_stages
        super().__init__(backbone, pyramid="taps", frozen_stages=frozen_stages, **options)
        for part in last_stage(self.tower["visual"]).values():
            part.requires_grad_(False)

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        return [before_last_stage(self.tower["visual"], pixels)]


@MODELS.register_module()
class CLIPLastStage(BaseModule):
    """The fourth stage of CLIP's ResNet and its attention pool, for the `shared_head` of an `AttentionPoolRoIHead`.

    Args:
        backbone: spec of a ResNet of open_clip, the one whose earlier stages give the map.
        frozen: nothing of it trains.

    Raises:
        CapabilityError: the backbone is not a ResNet of CLIP.
    """

    def __init__(self, backbone: str, frozen: bool = False, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        visual = require_resnet(load_backbone(backbone, device="cpu"))
        for name, part in last_stage(visual).items():
            self.add_module(name, part.requires_grad_(not frozen))

    @property
    def side(self) -> int:
        """Of the map that the attention pool has positions for."""
        return pool_side(self.attnpool)

    def forward(self, crops: Tensor) -> Tensor:
        """(R, C, 2s, 2s) -> (R, 2C, s, s)."""
        return self.layer4(crops)

    def pool(self, crops: Tensor) -> Tensor:
        """(R, 2C, s, s) -> (R, D), in the space of the texts.

        Raises:
            ConfigError: regions are of a size that the pool has no positions for.
        """
        return pool_regions(self.attnpool, crops)

    def train(self, mode: bool = True) -> CLIPLastStage:
        """Batch norms keep the statistics they came with, as published."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def modified_resnet(backbone: Backbone) -> nn.Module | None:
    """CLIP's ResNet with an attention pool, or None where the image tower is something else."""
    visual = getattr(backbone.model, "visual", None)
    return visual if all(hasattr(visual, part) for part in (*STAGES, "attnpool", "stem")) else None


def require_resnet(backbone: Backbone) -> nn.Module:
    """The same, or a CapabilityError."""
    visual = modified_resnet(backbone)
    if visual is None:
        raise CapabilityError(
            f"backbone '{backbone.spec}' has no last stage and attention pool to run on regions; give a ResNet of "
            "CLIP, such as open_clip:RN50-quickgelu/openai"
        )
    return visual


def before_last_stage(visual: nn.Module, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, C, H / 16, W / 16)."""
    return visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels))))


def last_stage(visual: nn.Module) -> dict[str, nn.Module]:
    """What is run on regions, by name."""
    return {"layer4": visual.layer4, "attnpool": visual.attnpool}


def pool_side(attnpool: nn.Module) -> int:
    """Side of the map that an attention pool has positions for."""
    return round((len(attnpool.positional_embedding) - 1) ** 0.5)


def pool_regions(attnpool: nn.Module, crops: Tensor) -> Tensor:
    """(R, W, s, s) -> (R, D).

    Raises:
        ConfigError: regions are of a size that the pool has no positions for.
    """
    side = pool_side(attnpool)
    if tuple(crops.shape[-2:]) != (side, side):
        raise ConfigError(
            f"regions of {tuple(crops.shape[-2:])} do not fit the attention pool, which takes {side} x {side}; "
            f"give the RoI extractor output_size={2 * side}"
        )
    if not len(crops):
        return crops.new_zeros(0, attnpool.c_proj.out_features)
    return attnpool(crops).to(torch.float32)
