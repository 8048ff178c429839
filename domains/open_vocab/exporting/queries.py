"""Detectors of transformers as a graph: logits and boxes of every query."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....core.errors import CapabilityError
from ....core.export import Graph
from ..hub_models.family import BOXES, HEAD
from ..inference.detection import rivals
from ..inference.predictions import PredictedBoxes
from ..modules.detectors.hf_detector import HFDetector
from .detectors import SAME_PLACE, SAME_SCORE
from .run import Form, size_of_processor

POSITIONS = "interpolate_pos_encoding"
"""Of a vision transformer: its positions for a size of images, which one graph has one of."""


class Queries(nn.Module):
    """Pixels (B, 3, H, W) -> logits (B, Q, C) and boxes (B, Q, 4), centre and size in shares of the image."""

    def __init__(self, model: HFDetector):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model._forward(pixels)
        return outputs.logits, outputs.pred_boxes


class QueryBoxes(Form):
    """Boxes with names, of a graph for images of one size."""

    script = "boxes.py"
    values = "output"
    answers = "boxes"
    model: HFDetector

    def check(self) -> None:
        family = self.model.family
        kind = family.config["model_type"]
        if family.asked_by != HEAD or family.gives != BOXES:
            raise CapabilityError(f"{kind} with texts or masks is not exported; predict with the run")
        if self.size is None:
            raise CapabilityError(
                f"{kind}: its processor keeps the proportions of images, and the graph is for one size; predict with "
                "the run, or give its processor a square, --set plan.model.processor.size"
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pixels that the processor gives; None where it differs from image to image."""
        return size_of_processor(self.model)

    def noise(self) -> list[Tensor]:
        """Pixels of several batches."""
        assert self.size is not None  # see `check`
        made = torch.Generator().manual_seed(0)
        return [torch.randn(rows, 3, *self.size, generator=made) for rows in (2, 1, 3)]

    def graph(self, pixels: Tensor) -> Graph:
        positions_as_constants(self.model, pixels)
        return Graph(Queries(self.model), {"pixels": pixels}, ("logits", "boxes"), {"pixels": ()})

    @property
    def facts(self) -> dict[str, Any]:
        assert self.size is not None
        mean, std = self.model.data_preprocessor.mean, self.model.data_preprocessor.std
        return {
            "queries": {
                "size": list(self.size),
                "mean": mean.flatten().tolist(),
                "std": std.flatten().tolist(),
                "channels": "rgb",
                "boxes": "centre x, centre y, width, height, in shares of the image",
                "model_type": self.model.family.config["model_type"],
            }
        }

    def answer(self, outputs, size, whole, facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        logits, boxes = (torch.from_numpy(np.array(outputs[name])) for name in ("logits", "boxes"))
        raw = type("Outputs", (), {"logits": logits, "pred_boxes": boxes})
        chosen = None if self.model.chosen is None else torch.tensor(self.model.chosen)
        (found,) = self.model.family.found(raw, [whole], chosen)
        kept = PredictedBoxes(found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy())
        kept = kept.without_rivals(rivals(self.model))
        return kept.boxes, kept.scores, kept.labels

    def same(self, sample: Any, answer) -> tuple[float, float]:
        """Boxes of either that have one of the other of their name, in its place and with its score."""
        model = PredictedBoxes.of(sample).without_rivals(rivals(self.model))
        found, scores, labels = answer
        near = np.abs(model.boxes[:, None] - found[None]).max(axis=2, initial=0) <= SAME_PLACE
        near &= np.abs(model.scores[:, None] - scores[None]) <= SAME_SCORE
        near &= model.labels[:, None] == labels[None]
        return float(near.any(axis=0).sum() + near.any(axis=1).sum()), float(sum(near.shape))


@torch.no_grad()
def positions_as_constants(model: nn.Module, pixels: Tensor) -> None:
    """Let the positions of vision transformers be those for pixels of this size from now on, in place: ONNX has no
    operator for how they are resized."""
    for part in model.modules():
        if hasattr(part, POSITIONS):
            setattr(part, POSITIONS, _Held(getattr(part, POSITIONS)))
    model.eval()._forward(pixels)


class _Held:
    """What a function gave the first time."""

    def __init__(self, function):
        self.function, self.value = function, None

    def __call__(self, *args: Any) -> Tensor:
        if self.value is None:
            self.value = self.function(*args).detach()
        return self.value
