"""Bipartite matching of predicted to true boxes, and the losses of the pairs.

End-to-End Object Detection with Transformers, 2020, arXiv 2005.12872 (the matching, L1 and GIoU); Deformable DETR,
2020, arXiv 2010.04159 (the sigmoid focal class term); Simple Open-Vocabulary Object Detection with Vision Transformers,
2022, arXiv 2205.06230 (several labels per box, each image normalised by itself), whose weights are the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.utils import reduce_mean
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from .....core.errors import ConfigError
from .....registry import MODELS

NORMALISATIONS = ("per_example", "global")
L1_FORMATS = ("xyxy", "cxcywh")


@dataclass
class BoxTargets:
    """The true boxes of one image.

    Args:
        boxes: (n, 4) centre, width and height, in shares of the image's sides.
        labels: (n, Q) of 0 and 1: which of Q queries each box answers.
    """

    boxes: Tensor
    labels: Tensor

    @classmethod
    def of(cls, boxes: Tensor, indices: Tensor, count: int) -> BoxTargets:
        """Of boxes with one label each: (n,) indices of Q = `count` queries."""
        return cls(boxes, F.one_hot(indices, count).to(boxes))


@MODELS.register_module()
class MatchingLoss(nn.Module):
    """Each true box is given the prediction that fits it best, one to one; the others are to find nothing.

    The cost of a pair, and its loss, has three parts: sigmoid focal loss of the classes, L1 and generalised IoU of the
    boxes. A cost is what the pair's class term adds over that of a prediction without a box.

    Args:
        class_cost, bbox_cost, giou_cost: weights of the parts in the cost.
        class_weight, bbox_weight, giou_weight: and in the loss.
        alpha, gamma: of the focal loss: weight of the positives, exponent of 1 - p.
        normalisation: "per_example" divides each image's sums by its own labels or boxes and takes the mean over the
            images, "global" divides the sums of all images on all processes by theirs.
        l1_format: "xyxy" takes the loss's L1 of corners (OWL-ViT), "cxcywh" of centres and sizes (DETR); the cost's is
            of centres and sizes.

    Raises:
        ConfigError: an option is not usable.
    """

    def __init__(
        self,
        class_cost: float = 1.0,
        bbox_cost: float = 1.0,
        giou_cost: float = 1.0,
        class_weight: float = 1.0,
        bbox_weight: float = 1.0,
        giou_weight: float = 1.0,
        alpha: float = 0.3,
        gamma: float = 2.0,
        normalisation: str = "per_example",
        l1_format: str = "xyxy",
    ):
        super().__init__()
        if not (class_cost or bbox_cost or giou_cost):
            raise ConfigError("MatchingLoss: all costs are 0, so no pair is better than another; give a cost above 0")
        for option, value, known in (
            ("normalisation", normalisation, NORMALISATIONS),
            ("l1_format", l1_format, L1_FORMATS),
        ):
            if value not in known:
                raise ConfigError(f"MatchingLoss: {option}='{value}' is not known; give {' or '.join(known)}")
        self.class_cost, self.bbox_cost, self.giou_cost = class_cost, bbox_cost, giou_cost
        self.weights = {"loss_class": class_weight, "loss_bbox": bbox_weight, "loss_giou": giou_weight}
        self.alpha, self.gamma = alpha, gamma
        self.normalisation, self.l1_format = normalisation, l1_format

    def forward(self, logits: Tensor, boxes: Tensor, targets: Sequence[BoxTargets]) -> dict[str, Tensor]:
        """The weighted parts, scalars: "loss_class", "loss_bbox", "loss_giou".

        Args:
            logits: (B, N, Q) of Q queries.
            boxes: (B, N, 4) centre, width and height in 0..1.
            targets: of the B images.
        """
        return {name: self.weights[name] * value for name, value in self.parts(logits, boxes, targets).items()}

    def parts(self, logits: Tensor, boxes: Tensor, targets: Sequence[BoxTargets]) -> dict[str, Tensor]:
        """The parts without their weights."""
        logits, boxes = logits.float(), boxes.float()
        pairs = self.match(logits, boxes, targets)
        images = [self._image(*given) for given in zip(logits, boxes, targets, pairs)]
        sums = torch.stack([image for image, _ in images])  # (B, 3)
        counts = sums.new_tensor([count for _, count in images])  # (B, 3)
        if self.normalisation == "per_example":
            means = (sums / counts.clamp(min=1)).mean(dim=0)
        else:
            means = sums.sum(dim=0) / reduce_mean(counts.sum(dim=0)).clamp(min=1)
        return dict(zip(self.weights, means))

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, targets: Sequence[BoxTargets]) -> list[tuple[Tensor, Tensor]]:
        """Of each image the predictions that were given a true box, in ascending order, and those boxes: (m,) each."""
        pairs = []
        for image_logits, image_boxes, target in zip(logits.float(), boxes.float(), targets):
            cost = self.cost(image_logits, image_boxes, target)
            assignment = linear_sum_assignment(cost.cpu().numpy())
            pairs.append(tuple(torch.as_tensor(index, device=logits.device) for index in assignment))
        return pairs

    def cost(self, logits: Tensor, boxes: Tensor, target: BoxTargets) -> Tensor:
        """(N, Q) logits and (N, 4) boxes of one image -> (N, n). What is not a number costs more than all else."""
        gains = self._focal(logits, 1) - self._focal(logits, 0)  # (N, Q)
        cost = self.class_cost * gains @ target.labels.float().T
        cost = cost + self.bbox_cost * torch.cdist(boxes, target.boxes.float(), p=1)
        cost = cost - self.giou_cost * generalized_box_iou(_corners(boxes), _corners(target.boxes.float()))
        worst = torch.finfo(torch.float32).max
        return cost.nan_to_num(nan=worst, posinf=worst, neginf=worst)

    def _image(self, logits, boxes, target: BoxTargets, pair) -> tuple[Tensor, list[float]]:
        """(3,) sums of one image, and by how much each is to be divided."""
        predicted, true = pair
        wanted = torch.zeros_like(logits)
        wanted[predicted] = target.labels[true].to(wanted)
        paired, goal = boxes[predicted], target.boxes[true].float()  # (m, 4)
        corners, goal_corners = _corners(paired), _corners(goal)
        first, second = (corners, goal_corners) if self.l1_format == "xyxy" else (paired, goal)
        sums = (
            self._focal(logits, wanted).sum(),
            F.l1_loss(first, second, reduction="sum"),
            generalized_box_iou_loss(corners, goal_corners, reduction="sum"),
        )
        return torch.stack(sums), [float(wanted.sum()), float(len(true)), float(len(true))]

    def _focal(self, logits: Tensor, wanted: Tensor | int) -> Tensor:
        """Sigmoid focal loss of each logit, where 1 or 0 is wanted."""
        wanted = torch.full_like(logits, wanted) if isinstance(wanted, int) else wanted
        chance = logits.sigmoid()
        missed = torch.where(wanted > 0, 1 - chance, chance)
        weight = torch.where(wanted > 0, self.alpha, 1 - self.alpha)
        return weight * missed**self.gamma * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")
