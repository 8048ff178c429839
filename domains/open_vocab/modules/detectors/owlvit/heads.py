"""The heads of OWL-ViT on the patches of a vision transformer, and what goes into them.

Simple Open-Vocabulary Object Detection with Vision Transformers, 2022, arXiv 2205.06230; the head for objectness:
Scaling Open-Vocabulary Object Detection (OWLv2), 2023, arXiv 2306.09683. Modules are named as in transformers, so that
its checkpoints load.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from ...losses.matching import BoxTargets

EPS = 1e-6
BOX_BIAS_EPS = 1e-4
CLASS_INIT_STD = 1e-6


class ClassHead(nn.Module):
    """Each patch against each query: a cosine, shifted and scaled by what the patch says.

    Args:
        width: of the patches.
        query_dim: D of the queries.
        prior: chance that a patch answers a query, to begin with.
        masked_logit: of queries that are none; None takes the least number of the type, as transformers does.
    """

    def __init__(self, width: int, query_dim: int, prior: float = 0.01, masked_logit: float | None = -1e6):
        super().__init__()
        self.masked_logit = masked_logit
        self.dense0 = nn.Linear(width, query_dim)
        self.logit_shift, self.logit_scale = nn.Linear(width, 1), nn.Linear(width, 1)
        nn.init.normal_(self.dense0.weight, std=CLASS_INIT_STD)
        nn.init.zeros_(self.dense0.bias)
        _start(self.logit_shift)
        _start(self.logit_scale)
        nn.init.constant_(self.logit_shift.bias, math.log(prior) - math.log1p(-prior))

    def embed(self, patches: Tensor) -> Tensor:
        """(B, N, W) -> (B, N, D): what a query is compared with, not of unit length."""
        return self.dense0(patches)

    def forward(self, patches: Tensor, queries: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, N, Q).

        Args:
            patches: (B, N, W).
            queries: (Q, D), or (B, Q, D) where each image has its own.
            mask: (B, Q) bool, False for queries that are none.
        """
        cosines = _unit(self.embed(patches)) @ _unit(queries).to(patches.dtype).mT  # (B, N, Q)
        logits = (cosines + self.logit_shift(patches)) * (F.elu(self.logit_scale(patches)) + 1)
        if mask is None:
            return logits
        hidden = torch.finfo(logits.dtype).min if self.masked_logit is None else self.masked_logit
        return logits.float().masked_fill(~mask[:, None], hidden)


class PatchMLP(nn.Module):
    """Three layers on each patch, the last one zero to begin with. (B, N, W) -> (B, N, `out`)."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.dense0, self.dense1, self.dense2 = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)
        _start(self.dense0)
        _start(self.dense1)
        nn.init.zeros_(self.dense2.weight)
        nn.init.zeros_(self.dense2.bias)

    def forward(self, patches: Tensor) -> Tensor:
        return self.dense2(F.gelu(self.dense1(F.gelu(self.dense0(patches)))))


def box_bias(grid: tuple[int, int], kind: str = "both", device: torch.device | str = "cpu") -> Tensor:
    """(h * w, 4) logits of the boxes that patches of a grid (h, w) begin with: centre x, y, width, height.

    Args:
        kind: "both"; "location" for the centre alone, at the patch's lower right corner, as published; "size" for the
            size alone, that of a patch.
    """
    rows, columns = grid
    x = torch.arange(1, columns + 1, device=device) / columns
    y = torch.arange(1, rows + 1, device=device) / rows
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)  # (h * w, 2)
    sizes = torch.tensor([1 / columns, 1 / rows], device=device).expand_as(places)
    centres = _logit(places) if kind != "size" else torch.zeros_like(places)
    extents = _logit(sizes) if kind != "location" else torch.zeros_like(places)
    return torch.cat([centres, extents], dim=-1)


def most_typical(embeddings: Tensor, overlaps: Tensor) -> Tensor:
    """The patch whose embedding stands for a box, an index.

    Of the patches whose boxes overlap it nearly as well as the best one does (at least 0.8 of that), it is the one
    least like the mean of the whole image, which shows what is around.

    Args:
        embeddings: (N, D) of the image.
        overlaps: (N,) of each patch's box with the box in question.
    """
    near = (overlaps >= 0.8 * overlaps.max()).nonzero()[:, 0]
    if not len(near):  # negative overlaps: 0.8 of the best is more than the best
        near = overlaps.argmax()[None]
    likeness = embeddings[near] @ embeddings.mean(dim=0)
    return near[likeness.argmin()]


def _unit(rows: Tensor) -> Tensor:
    return rows / (rows.norm(dim=-1, keepdim=True) + EPS)


def _logit(shares: Tensor) -> Tensor:
    return torch.log(shares + BOX_BIAS_EPS) - torch.log1p(-shares + BOX_BIAS_EPS)


def _start(layer: nn.Linear) -> None:
    """As flax begins a dense layer, in whose framework the method was published."""
    nn.init.trunc_normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
    nn.init.zeros_(layer.bias)


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
