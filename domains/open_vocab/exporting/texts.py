"""Detectors of transformers that are asked by texts as a graph: the names are folded in, as constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ....core.errors import CapabilityError
from ....core.export import Graph
from ..inference.detection import believed_from, rivals
from ..modules.detectors.hf_text_detector import LEAST_SIDE, HFTextDetector
from .detectors import Boxes

NONE = 2.0
"""An overlap that no two boxes have: none is suppressed."""


class Answers(nn.Module):
    """Pixels (B, 3, S, S) -> scores (B, Q, C) and boxes (B, Q, 4), corners in pixels, of each prompt."""

    def __init__(self, model: HFTextDetector):
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.prompts = model.prompts()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        family, answers = self.model.family, []
        mask = torch.ones(pixels.shape[0], *pixels.shape[-2:], dtype=torch.long, device=pixels.device)
        for prompt, embedded in self.prompts:
            outputs = family.outputs(self.model.model, pixels, mask, prompt, embedded)
            scores, boxes = family.answers(outputs, prompt)
            answers += [scores, box_convert(boxes, "cxcywh", "xyxy") * pixels.shape[-1]]
        return tuple(answers)


class TextBoxes(Boxes):
    """Boxes with names that the graph has learned by heart."""

    model: HFTextDetector

    def check(self) -> None:
        family = self.model.family
        if family.no_graph:
            raise CapabilityError(f"{family.config['model_type']}: {family.no_graph}; predict with the run")
        if len(self.model.prompts()) > 1 or self._side() is None:
            raise CapabilityError("its names, or its images, have no fixed size; predict with the run")

    def noise(self) -> list[Tensor]:
        side, made = self._side(), torch.Generator().manual_seed(0)
        return [torch.randn(count, 3, side, side, generator=made) for count in (2, 1, 3)]

    @property
    def sizes(self) -> str:
        return f"height and width of {self._side()}"

    def graph(self, pixels: Tensor) -> Graph:
        return Graph(Answers(self.model), {"pixels": pixels}, ["scores_0", "boxes_0"])

    @property
    def facts(self) -> dict[str, Any]:
        apart = rivals(self.model)
        most = self.model.max_per_img
        rule: dict[str, Any] = {
            "score_thr": self.model.score_thr,
            "nms_pre": most,
            "min_bbox_size": LEAST_SIDE,
            "iou_threshold": NONE,
        }
        together = (apart.sum(axis=1) != len(apart) - 1).tolist()
        square = self.model.prepared.pads_to_square
        rule |= {"max_per_img": most, "learned_together": together, "padded_to_square": square}
        return {"boxes": rule, "score": believed_from(self.model)}

    def answer(self, outputs, size, whole, facts):
        """Where images are padded to a square, they have a part of it."""
        if facts["boxes"]["padded_to_square"]:
            size = tuple(side * max(size) / max(whole) for side in whole)
        return super().answer(outputs, size, whole, facts)

    def _side(self) -> int | None:
        """Of the square that all images are made; None where they are no squares of one size."""
        size = self.model.prepared.fixed_size
        return size[0] if size is not None and size[0] == size[1] else None
