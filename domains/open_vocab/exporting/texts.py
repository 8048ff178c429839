"""Detectors of transformers that are asked by texts as a graph: the names are folded in, as constants."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ....core.errors import CapabilityError
from ....core.export import Graph
from ..inference.detection import believed_from, rivals
from ..modules.detectors.hf_text_detector import LEAST_SIDE, HFTextDetector
from .detectors import BoxForm
from .run import check_one_size, noise_of_one_size, size_of_processor

NONE = 2.0
"""An overlap that no two boxes have: none is suppressed."""


class TextAnswers(nn.Module):
    """Pixels (B, 3, H, W) -> scores (B, Q, C) and boxes (B, Q, 4), corners in pixels."""

    def __init__(self, model: HFTextDetector):
        super().__init__()
        self.model = model
        with torch.no_grad():
            ((self.prompt, self.embedded),) = model.prompts()
        self.constants: AbstractContextManager = nullcontext()
        if name := model.family.of_tokens:
            module = import_module(type(model.model).__module__)
            self.constants = mock.patch.object(module, name, _OfOneRow(getattr(module, name)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        family, (height, width) = self.model.family, pixels.shape[-2:]
        mask = torch.ones_like(pixels[:, 0], dtype=torch.long)  # not of a number of images that a trace would keep
        with self.constants:
            outputs = family.outputs(self.model.model, pixels, mask, self.prompt, self.embedded)
        scores, boxes = family.answers(outputs, self.prompt)
        return scores, box_convert(boxes, "cxcywh", "xyxy") * pixels.new_tensor([width, height] * 2)


class _OfOneRow:
    """What a function of rows that are all the same gave of the first one, when it was first asked."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]):
        self.function = function
        self.values: tuple[Tensor, ...] = ()

    def __call__(self, rows: Tensor, *args: Any, **options: Any) -> tuple[Tensor, ...]:
        self.values = self.values or self.function(rows[:1], *args, **options)
        return tuple(each.expand(rows.shape[0], *each.shape[1:]) for each in self.values)


class TextBoxes(BoxForm):
    """Boxes with names that the graph has learned by heart."""

    model: HFTextDetector

    def check(self) -> None:
        family = self.model.family
        if family.no_graph:
            raise CapabilityError(f"{family.config['model_type']}: {family.no_graph}; predict with the run")
        if len(self.model.prompts()) > 1:
            kind = family.config["model_type"]
            raise CapabilityError(f"{kind}: its names do not fit into one caption; fewer do, or predict with the run")
        check_one_size(self)

    @property
    def size(self) -> tuple[int, int] | None:
        return size_of_processor(self.model)

    def noise(self) -> list[Tensor]:
        return noise_of_one_size(self)

    def graph(self, pixels: Tensor) -> Graph:
        sizes = {"pixels": ()} if self.model.family.of_tokens else {}  # these are traced with queries by rank
        return Graph(TextAnswers(self.model), {"pixels": pixels}, ["scores_0", "boxes_0"], sizes)

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
