"""The image tower of a backbone as a module that a model holds, trains and saves; its text tower stays outside."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .....core.backbones import load_backbone
from .....core.contracts import Backbone, InputChannels

NEEDED_TO_PROJECT = "alignment"  # of the embedded backbone: shared by both towers, never trained
NORMS = (nn.BatchNorm2d,)
DIVISOR = 32
"""What sides of a batch are padded to: the largest stride of a pyramid."""


class ImagePart(nn.Module):
    """What of a backbone sees images.

    Args:
        spec: of the backbone; an instance of its own is built, so that training it changes no other.
        trainable: whether its parameters are trained.
        norm_eval: keep batch norms at the statistics they came with, in training too.

    Attributes:
        backbone: the backbone over these modules; its device follows `.to()`.
    """

    def __init__(self, spec: str, trainable: bool = True, norm_eval: bool = True):
        super().__init__()
        backbone = load_backbone(spec, device="cpu")
        self._held = (backbone,)  # no child: its text tower is neither saved nor moved with this module
        self.norm_eval = norm_eval
        children = dict(backbone.model.named_children())
        seen = [name for name in children if backbone.tower_of(name) == "image" or name == NEEDED_TO_PROJECT]
        self.tower = nn.ModuleDict({name: children[name] for name in seen})
        for name, child in self.tower.items():
            child.requires_grad_(trainable and name != NEEDED_TO_PROJECT)

    @property
    def backbone(self) -> Backbone:
        return self._held[0]

    @property
    def trained(self) -> bool:
        """Whether any parameter of the tower is trained."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) unit features."""
        return self.backbone.encode_image(pixels)

    def train(self, mode: bool = True) -> ImagePart:
        super().train(mode and self.trained)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, NORMS):
                    module.eval()
        return self

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.backbone.device = next(self.parameters()).device
        return self


def whole_patches(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Zeros on the right and below, up to whole patches of a transformer."""
    if "image_blocks" not in backbone.capabilities:
        return pixels
    patch = backbone.image_stride
    return F.pad(pixels, (0, -pixels.shape[-1] % patch, 0, -pixels.shape[-2] % patch))


def pixel_cfg(spec: str, channels: InputChannels | None = None) -> dict[str, Any]:
    """Options of a `data_preprocessor` by which images as mm loads them, BGR in 0..255, become what the tower knows.

    Args:
        spec: of the backbone, see `load_backbone`; its towers are not built.
        channels: of the images, for a backbone that takes bands by what they are.

    Raises:
        ConfigError: a spec that cannot be used.
    """
    backbone = load_backbone(spec, device="cpu", channels=channels)
    return {
        "mean": [255 * mean for mean in backbone.image_mean],
        "std": [255 * std for std in backbone.image_std],
        "bgr_to_rgb": True,
    }


def detection_preprocessor(spec: str, **options: Any) -> dict[str, Any]:
    """The `data_preprocessor` of a config for mmdet, with the pixels of `pixel_cfg`.

    Args:
        options: of `mmdet.DetDataPreprocessor`, in place of or beside those chosen here.
    """
    padding = {"pad_size_divisor": DIVISOR, "pad_mask": True}
    return {"type": "mmdet.DetDataPreprocessor", **pixel_cfg(spec), **padding, **options}


def segmentation_preprocessor(spec: str, **options: Any) -> dict[str, Any]:
    """The `data_preprocessor` of a config for mmsegmentation, with the pixels of `pixel_cfg`.

    Args:
        options: of `mmseg.SegDataPreProcessor`, in place of or beside those chosen here.
    """
    padding = {"pad_val": 0, "seg_pad_val": 255} | ({} if "size" in options else {"size_divisor": DIVISOR})
    return {"type": "mmseg.SegDataPreProcessor", **pixel_cfg(spec), **padding, **options}
