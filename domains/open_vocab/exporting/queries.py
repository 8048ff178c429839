"""Detectors of transformers as a graph: logits and boxes of every query."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from ....core.export import Graph, boxes
from ..data.outlines import coco_masks
from ..hub_models.boxes import BoxRanking
from ..hub_models.family import large_enough
from ..hub_models.mask_queries import MaskQueries
from ..inference.detection import believed_from, rivals
from ..inference.predictions import PredictedBoxes
from ..modules.detectors.hf_detector import HFDetector
from .detectors import SAME_PLACE, SAME_SCORE
from .run import Form, check_one_size, noise_of_one_size, positions_as_constants, size_of_processor

SAME_OUTLINE = 0.98
"""Intersection over union from which on two outlines are the same."""


class QueryGraph(nn.Module):
    """Pixels (B, 3, H, W) -> logits (B, Q, C), and of the types that have them boxes (B, Q, 4), centre and size in
    shares of the image, and masks (B, Q, h, w)."""

    def __init__(self, model: HFDetector):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        mask = torch.ones_like(pixels[:, 0], dtype=torch.long)  # not of a number of images that a trace would keep
        with large_enough(self.model.family.config["model_type"]):
            outputs = self.model.model(**self.model.family.inputs(pixels, mask))
        return tuple(self.model.family.raw(outputs).values())


class QueryBoxes(Form):
    """Boxes with names, of a graph for images of one size."""

    script = "boxes.py"
    values = "output"
    answers = "boxes"
    model: HFDetector

    def check(self) -> None:
        check_one_size(self)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pixels that the processor gives; None where it differs from image to image."""
        return size_of_processor(self.model)

    def noise(self) -> list[Tensor]:
        return noise_of_one_size(self)

    def graph(self, pixels: Tensor) -> Graph:
        names = list(self.model.family.raw(positions_as_constants(self.model, pixels)))
        return Graph(QueryGraph(self.model), {"pixels": pixels}, names, {"pixels": ()})

    @property
    def facts(self) -> dict[str, Any]:
        assert self.size is not None
        family, prepared = self.model.family, self.model.data_preprocessor
        apart = rivals(self.model)
        alone = apart.sum(axis=1) == len(apart) - 1
        of_masks = isinstance(family, MaskQueries)
        ranking = BoxRanking(per_query=family.best_only) if of_masks else family.ranking
        return {
            "queries": {
                "size": list(self.size),
                "mean": prepared.mean.flatten().tolist(),
                "std": prepared.std.flatten().tolist(),
                "channels": "rgb",
                "boxes": "those of the masks"
                if of_masks
                else "centre x, centre y, width, height, in shares of the image",
                "model_type": family.config["model_type"],
                "softmax": of_masks or ranking.per_query,
                "per_query": ranking.per_query,
                "most": ranking.most,
                "rows": None if self.model.chosen is None else list(self.model.chosen),
                "raster": list(family.raster) if of_masks and family.raster is not None else None,
                "cut_at_image": of_masks and family.cut_at_image,
                "score_thr": self.model.score_thr,
                "learned_together": (~alone).tolist(),
            },
            "score": believed_from(self.model),
        }

    def aligned(self, wanted, outputs):
        """Queries that begin at the best places of an encoder come in the order of these: of places that score nearly
        the same, either may be the first."""
        if isinstance(self.model.family, MaskQueries):
            return outputs
        aligned = [np.empty_like(each) for each in outputs]
        for image in range(len(outputs[0])):
            of_model, of_graph = (np.concatenate([each[image] for each in of[:2]], axis=1) for of in (wanted, outputs))
            _, places = linear_sum_assignment(cdist(of_model, of_graph, "chebyshev"))
            for new, each in zip(aligned, outputs, strict=True):
                new[image] = each[image][places]
        return aligned

    def answer(self, outputs, size, whole, facts):
        return boxes.boxes_of_queries(outputs, whole, facts["queries"])

    def same(self, sample: Any, answer) -> tuple[float, float]:
        """Boxes of either that have one of the other of their name, in its place, with its score and its outline."""
        model = PredictedBoxes.of(sample).without_rivals(rivals(self.model))
        corners, scores, labels, masks = answer
        near = np.abs(model.boxes[:, None] - corners[None]).max(axis=2, initial=0) <= SAME_PLACE
        near &= np.abs(model.scores[:, None] - scores[None]) <= SAME_SCORE
        near &= model.labels[:, None] == labels[None]
        if masks is not None and near.any():
            of_model, of_graph = model.outlines or [], masks.tolist()
            alike = coco_masks().iou(of_model, of_graph, [False] * len(masks)) >= SAME_OUTLINE
            near &= alike | np.array([[one == other for other in of_graph] for one in of_model])  # empty ones too
        return float(near.any(axis=0).sum() + near.any(axis=1).sum()), float(sum(near.shape))
