"""What the boxes of an image mean to OWL-ViT: shares of a square, labels among the queries of the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ..losses.matching import BoxTargets


def box_targets(boxes: Tensor, labels: Tensor, queries: Tensor, side: tuple[int, int]) -> BoxTargets:
    """Boxes whose class is among the queries, as shares.

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        labels: (n,) classes.
        queries: (Q,) classes.
        side: (height, width) of what the model sees, padding included.
    """
    answers = labels[:, None] == queries[None]  # (n, Q)
    asked = answers.any(dim=1)
    height, width = side
    shares = boxes[asked] / boxes.new_tensor([width, height, width, height])
    return BoxTargets(box_convert(shares, "xyxy", "cxcywh"), answers[asked].to(boxes.dtype))


def merge_overlapping(targets: BoxTargets, threshold: float) -> BoxTargets:
    """Boxes that overlap by `threshold` or more (IoU) become one with the labels of both, the nearest pair first.

    One of the two boxes is taken, at random. Where things are labelled several times, in words of several kinds, a
    prediction would else be right for one label and wrong for the other.
    """
    boxes, labels = targets.boxes, targets.labels
    while len(boxes) > 1:
        corners = box_convert(boxes, "cxcywh", "xyxy")
        overlaps = box_iou(corners, corners).fill_diagonal_(0)
        if overlaps.max() < threshold:
            break
        first, second = sorted(divmod(int(overlaps.argmax()), len(boxes)))
        taken = (first, second)[int(torch.randint(2, ()))]
        kept = torch.arange(len(boxes), device=boxes.device) != second
        boxes, labels = boxes.clone(), labels.clone()
        boxes[first], labels[first] = boxes[taken], torch.maximum(labels[first], labels[second])
        boxes, labels = boxes[kept], labels[kept]
    return BoxTargets(boxes, labels)
