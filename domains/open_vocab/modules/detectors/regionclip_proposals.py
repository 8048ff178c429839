"""Where RegionCLIP's pretraining takes its regions from: the data, boxes of a grid, or the RPN of another detector."""

from __future__ import annotations

from pathlib import Path

import torch
from mmdet.models.detectors import RPN
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .....core.contracts.errors import ConfigError
from .....registry import MODELS
from .region_labeller import given_regions

GRID = 8  # pixels between the lines that the edges of random boxes lie on, as released


class GivenProposals(nn.Module):
    """What the samples bring."""

    def forward(self, pixels: Tensor, samples: list[DetDataSample]) -> list[InstanceData]:
        return [given_regions(sample) for sample in samples]


class RandomBoxes(nn.Module):
    """Boxes whose edges lie on a grid, drawn evenly: a corner, then any corner beyond it. In evaluation images of one
    size have the same ones, whenever they are seen.

    Args:
        count: boxes an image.
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
        count: best boxes an image.
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
        found = head.predict(self.detector.extract_feat(self._normalised(pixels)), samples, rescale=False)
        return [boxes[: self.count] for boxes in found]

    def train(self, mode: bool = True) -> RpnProposals:
        return super().train(False)

    def _normalised(self, pixels: Tensor) -> Tensor:
        own = self.detector.data_preprocessor
        if not getattr(own, "_channel_conversion", False):  # it was trained on images as they are read, BGR
            pixels = pixels.flip(1)
        if not getattr(own, "_enable_normalize", False):
            return pixels
        return (pixels - own.mean) / own.std


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
