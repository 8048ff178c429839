"""Segmentors of mmseg as one graph, from pixels to logits of each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import Upsample
from torch import Tensor, nn

from ....core.errors import CapabilityError
from ....core.export import Graph, maps
from ..inference.predictions import PredictedMap
from ..modules.segmentors.hf_segmentor import HFSegmentor
from ..modules.segmentors.hf_text_segmentor import HFTextSegmentor
from .run import Form, positions_as_constants, size_of_processor


class Logits(nn.Module):
    """Pixels (B, 3, H, W) -> logits (B, C, H, W)."""

    def __init__(self, model: EncoderDecoder):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        with mock.patch.object(Upsample, "forward", _upsampled):
            return self.model.encode_decode(pixels, [{"img_shape": pixels.shape[2:]}])


class Maps(Form):
    """A class of each pixel."""

    script = "maps.py"
    values = "logit"
    answers = "pixels"

    def check(self) -> None:
        if not _maps_as_usual(type(self.model)):
            raise CapabilityError(
                f"{type(self.model).__name__} cuts and compares images in its own way, which is not a fixed graph "
                "(fpn, mask2former and denseclip are exported); predict with the run"
            )
        if self.model.test_cfg.get("mode", "whole") != "whole":
            raise CapabilityError(
                "its config uses sliding windows (test_cfg.mode='slide'), whose number depends on the image, which "
                "is not a fixed graph; fit with test_cfg.mode='whole', or predict with the run"
            )

    def graph(self, pixels: Tensor) -> Graph:
        return Graph(Logits(self.model), {"pixels": pixels}, ["logits"], {"pixels": (2, 3)})

    @property
    def facts(self) -> dict[str, Any]:
        head = getattr(self.model, "decode_head", None)
        return {"threshold": getattr(head, "threshold", None)}

    def answer(self, outputs: Mapping[str, np.ndarray], size, whole, facts) -> np.ndarray:
        return maps.map_of(outputs["logits"][0], size, whole, facts["threshold"])

    def same(self, sample: Any, answer: np.ndarray) -> tuple[float, float]:
        return float((PredictedMap.of(sample).classes == answer).sum()), float(answer.size)


class SegmentorScores(nn.Module):
    """Pixels (B, 3, H, W) -> scores (B, C, h, w) of a model of transformers, as coarse as it gives them."""

    def __init__(self, model: HFSegmentor):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.family.scores(self.model.model, pixels)


class HubMaps(Maps):
    """A class of each pixel, by a model of transformers."""

    values = "score"

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pixels that the processor gives; None where it differs from image to image."""
        return size_of_processor(self.model)

    def noise(self) -> list[Tensor]:
        """Pixels of several batches, or of several sizes."""
        if self.size is None:
            return super().noise()
        made = torch.Generator().manual_seed(0)
        return [torch.randn(images, 3, *self.size, generator=made) for images in (2, 1)]

    def check(self) -> None:
        kind = self.model.family.config["model_type"]
        if self.size is None and not self.model.family.any_size:
            raise CapabilityError(
                f"its processor keeps the ratio of an image's sides, and a graph of {kind} takes images of one size; "
                "predict with the run"
            )

    def graph(self, pixels: Tensor) -> Graph:
        return Graph(
            SegmentorScores(self.model), {"pixels": pixels}, ["logits"], {"pixels": () if self.size else (2, 3)}
        )

    @property
    def facts(self) -> dict[str, Any]:
        return {"threshold": None}

    def answer(self, outputs: Mapping[str, np.ndarray], size, whole, facts) -> np.ndarray:
        scores = outputs["logits"][0]
        return maps.map_of(scores, scores.shape[1:], whole, facts["threshold"])


class NamedScores(nn.Module):
    """Pixels (B, 3, H, W) -> logits (B, C, H, W) of texts that the graph has learned by heart."""

    def __init__(self, model: HFTextSegmentor):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_decode(pixels)


class TextMaps(HubMaps):
    """A class of each pixel, by a model of transformers that is asked by texts."""

    values = "logit"

    def check(self) -> None:
        if len(self.model.names) < 2:
            raise CapabilityError(
                "pixels without its only class have none, which a map of classes cannot say; fit with a class "
                '"background" too, or predict with the run'
            )
        super().check()

    def graph(self, pixels: Tensor) -> Graph:
        positions_as_constants(self.model, pixels)
        return Graph(NamedScores(self.model), {"pixels": pixels}, ["logits"], {"pixels": ()})


def _maps_as_usual(model: type) -> bool:
    """Whether a segmentor makes maps of its logits as mmseg's `EncoderDecoder` does; how it makes these is its own."""
    steps = ("predict", "inference", "whole_inference", "postprocess_result")
    return issubclass(model, EncoderDecoder) and all(
        getattr(model, step) is getattr(EncoderDecoder, step) for step in steps
    )


def _upsampled(self: Upsample, x: Tensor) -> Tensor:
    """What mmseg's Upsample does; that rounds sizes to numbers, which a trace would keep."""
    factor = {"size": self.size} if self.size else {"scale_factor": self.scale_factor}
    return F.interpolate(x, mode=self.mode, align_corners=self.align_corners, **factor)
