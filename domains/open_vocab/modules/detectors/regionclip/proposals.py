"""Where RegionCLIP's pretraining takes its regions from: the data, boxes of a grid, or the RPN of another detector."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from mmdet.models.detectors import RPN
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import roi_align

from ......core.contracts import Backbone
from ......core.errors import ConfigError
from ......registry import MODELS
from ...backbones.clip_c4 import before_last_stage, modified_resnet, pool_regions, pool_side
from ...backbones.image_part import whole_patches
from ..region_labeller import given_regions

GRID = 8  # pixels between the lines that the edges of random boxes lie on, as released
DENSE_ROI_SIZE = 7


class GivenProposals(nn.Module):
    """What the samples bring."""

    def forward(self, pixels: Tensor, samples: list[DetDataSample]) -> list[InstanceData]:
        return [given_regions(sample) for sample in samples]


class RandomBoxes(nn.Module):
    """Boxes whose edges lie on a grid, drawn evenly: a corner, then any corner beyond it. In evaluation images of one
    size have the same ones, whenever they are seen.

    Args:
        count: boxes per image.
    """

    def __init__(self, count: int = 100):
        super().__init__()
        self.count = count

    def forward(self, pixels: Tensor, samples: list[DetDataSample]) -> list[InstanceData]:
        sizes = [sample.get("img_shape", pixels.shape[-2:])[:2] for sample in samples]
        return [InstanceData(bboxes=self._drawn(*size).to(pixels.device)) for size in sizes]

    def _drawn(self, height: int, width: int) -> Tensor:
        generator = torch.default_generator if self.training else torch.Generator().manual_seed(0)
        left, right = self._edges(width, generator)
        top, bottom = self._edges(height, generator)
        return torch.stack([left, top, right, bottom], dim=1)

    def _edges(self, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        cells = max(length // GRID, 1)
        low = torch.randint(cells, (self.count,), generator=generator)
        high = low + 1 + (torch.rand(self.count, generator=generator) * (cells - low)).long()
        return low.float() * GRID, (high.float() * GRID).clamp(max=length)


class RpnProposals(nn.Module):
    """The boxes of a frozen detector that has an RPN, in the images it is used to: its own normalisation is applied.

    Args:
        detector: config of a detector of mmdet with an RPN (`mmdet.RPN`, `mmdet.FasterRCNN`), `checkpoint` in it
            the file of its weights.
        count: best boxes per image.
    """

    def __init__(self, detector: dict, count: int = 300):
        super().__init__()
        config = ConfigDict(detector)
        checkpoint = config.pop("checkpoint", None)
        self.detector = MODELS.build(config)
        if not isinstance(self.detector, RPN) and not hasattr(self.detector, "rpn_head"):
            raise ConfigError(
                f"option proposals: {config.get('type')} has no RPN; give mmdet.RPN or a two-stage detector"
            )
        self.detector.init_weights()
        if checkpoint is not None:
            load_checkpoint(self.detector, str(Path(checkpoint)), map_location="cpu", strict=True)
        self.detector.requires_grad_(False)
        self.count = count

    @torch.no_grad()
    def forward(self, pixels: Tensor, samples: list[DetDataSample]) -> list[InstanceData]:
        """Args: pixels (B, 3, H, W), RGB in 0..255."""
        head = self.detector.bbox_head if isinstance(self.detector, RPN) else self.detector.rpn_head
        per_image = head.predict(self.detector.extract_feat(self._normalised(pixels)), samples, rescale=False)
        return [boxes[: self.count] for boxes in per_image]

    def train(self, mode: bool = True) -> RpnProposals:
        return super().train(False)

    def _normalised(self, pixels: Tensor) -> Tensor:
        preprocessor = self.detector.data_preprocessor
        if not getattr(preprocessor, "_channel_conversion", False):  # it was trained on images as they are read, BGR
            pixels = pixels.flip(1)
        if not getattr(preprocessor, "_enable_normalize", False):
            return pixels
        return (pixels - preprocessor.mean) / preprocessor.std


def proposals_of(source: str | dict, count: int) -> nn.Module:
    """ "given", "random", or the config of a detector.

    Raises:
        ConfigError: something else.
    """
    if source == "given":
        return GivenProposals()
    if source == "random":
        return RandomBoxes(count)
    if isinstance(source, dict):
        return RpnProposals(source, count)
    raise ConfigError(f"option proposals='{source}' is not usable; give 'given', 'random' or a detector's config")


def region_features(backbone: Backbone, pixels: Tensor, boxes: list[Tensor]) -> list[Tensor]:
    """Unit features of the regions of each image.

    CLIP's ResNets, as published: RoIAlign on the third stage's map, then the fourth stage and the attention pool on
    each region, which are given a map of the size they are used to. Other towers: RoIAlign on the map of their image
    tokens, then the mean.

    Args:
        backbone: its image tower; gradients flow where its parameters want them.
        pixels: (B, 3, H, W).
        boxes: B tensors (N_i, 4) of x1, y1, x2, y2 in pixels.

    Returns:
        B tensors (N_i, D) float32.
    """
    visual = modified_resnet(backbone)
    if visual is None:
        features = _dense_regions(backbone, pixels, boxes)
    else:
        cells = before_last_stage(visual, pixels.to(backbone.device))
        crops = aligned(cells, pixels.shape[-2:], boxes, 2 * pool_side(visual.attnpool))  # (R, C, 2s, 2s)
        features = pool_regions(visual.attnpool, visual.layer4(crops))
    return list(F.normalize(features.float(), dim=1).split([len(rows) for rows in boxes]))


def aligned(cells: Tensor, size: tuple[int, int], boxes: list[Tensor], side: int) -> Tensor:
    """RoIAlign without rounding: maps (B, W, h, w) of images of `size`, boxes in pixels -> (R, W, side, side)."""
    cells = cells.float()  # coordinates too: 16 bits would move boxes by pixels
    scale = cells.new_tensor([cells.shape[-1] / size[1], cells.shape[-2] / size[0]]).repeat(2)
    rois = [rows.to(cells) * scale for rows in boxes]
    return roi_align(cells, rois, (side, side), spatial_scale=1.0, sampling_ratio=-1, aligned=True)


def _dense_regions(backbone: Backbone, pixels: Tensor, boxes: list[Tensor]) -> Tensor:
    pixels = whole_patches(backbone, pixels)
    tokens, (height, width) = backbone.image_tokens(pixels)
    cells = tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)  # (B, D, h, w)
    return aligned(cells, pixels.shape[-2:], boxes, DENSE_ROI_SIZE).mean(dim=(2, 3))


def whole_boxes(samples: list, pixels: Tensor) -> list[Tensor]:
    """Of each image the box that holds all of it, (1, 4), without what pads it."""
    sizes = [sample.get("img_shape", pixels.shape[-2:])[:2] for sample in samples]
    return [torch.tensor([[0.0, 0.0, width, height]], device=pixels.device) for height, width in sizes]
