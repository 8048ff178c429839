"""Boxes of queries, as the image processors of transformers take them from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import box_convert


@dataclass(frozen=True)
class BoxRanking:
    """Which boxes a type gives of its queries.

    Args:
        per_query: a softmax per query, whose last class is no object, and the best class of each; otherwise a sigmoid
            per query and class, and the best of all these.
        most: boxes per image; None for as many as there are queries.
    """

    per_query: bool = False
    most: int | None = None

    def best(
        self, logits: Tensor, boxes: Tensor, sizes: Sequence[tuple[int, int]], chosen: Tensor | None = None
    ) -> list[InstanceData]:
        """Args, returns: as of `best_of_all`."""
        if self.per_query:
            return best_of_query(logits, boxes, sizes, chosen)
        return best_of_all(logits, boxes, sizes, self.most or logits.shape[1], chosen)


def best_of_all(
    logits: Tensor, boxes: Tensor, sizes: Sequence[tuple[int, int]], most: int, chosen: Tensor | None = None
) -> list[InstanceData]:
    """A sigmoid per query and class, and the best of all these (RT-DETR's and Deformable DETR's processors).

    Args:
        logits: (B, Q, C).
        boxes: (B, Q, 4) centre and size, shares of the image.
        sizes: (height, width) of each image.
        most: boxes per image.
        chosen: of `Family.found`.

    Returns:
        Per image bboxes (n, 4), scores (n,), labels (n,) and queries (n,), the surest first.
    """
    logits = logits if chosen is None else logits[..., chosen]
    scores, places = logits.sigmoid().flatten(1).topk(min(most, logits.shape[1] * logits.shape[2]), dim=1)
    queries, labels = places // logits.shape[2], places % logits.shape[2]
    corners = box_convert(boxes, "cxcywh", "xyxy").gather(1, queries[..., None].expand(-1, -1, 4))
    return _instances(corners, scores, labels, queries, sizes)


def best_of_query(
    logits: Tensor, boxes: Tensor, sizes: Sequence[tuple[int, int]], chosen: Tensor | None = None
) -> list[InstanceData]:
    """A softmax per query, whose last class is no object, and the best class of each query (DETR's processor).

    Args, returns: as of `best_of_all`, one box per query.
    """
    of_classes = logits.softmax(dim=-1)[..., :-1]
    scores, labels = (of_classes if chosen is None else of_classes[..., chosen]).max(dim=-1)
    queries = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return _instances(box_convert(boxes, "cxcywh", "xyxy"), scores, labels, queries, sizes)


def _instances(corners: Tensor, scores: Tensor, labels: Tensor, queries: Tensor, sizes) -> list[InstanceData]:
    pixels = corners.new_tensor([[width, height, width, height] for height, width in sizes])  # (B, 4)
    rows = zip(corners * pixels[:, None], scores, labels, queries, strict=True)
    return [InstanceData(bboxes=box, scores=score, labels=label, queries=query) for box, score, label, query in rows]
