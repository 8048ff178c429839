"""The score on val that an epoch is chosen by, of towers in the middle of their training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ...core.contracts.backbone import Backbone
from ...core.contracts.domain import Item
from ...core.contracts.errors import DataError
from ...core.contracts.images import TrainingImages
from ...core.features.extract import AMP, cores
from ...core.metrics.selection import val_score
from ...core.runtime.distributed import all_gather_rows, rank, world_size
from ...core.training.class_scores import ClassScores
from ...core.training.outputs import image_features


def score_on_val(backbone: Backbone, images: TrainingImages, prompts, negative, size: int, amp: str | None) -> float:
    """`score_by` of the class prompts, as the text tower now reads them.

    Args:
        prompts, negative: as in `ClassScores`.
    """
    scores = ClassScores(backbone, prompts, negative).to(backbone.device)
    return score_by(scores, backbone, images, size, amp)


@torch.no_grad()
def score_by(scores: nn.Module, backbone: Backbone, images: TrainingImages, size: int, amp: str | None) -> float:
    """Accuracy on the val images, or macro AUROC where they have several labels; the same on all ranks.

    Args:
        scores: (B, D) unit image features -> (B, C).
        backbone: in eval mode.
        size: images at once.

    Raises:
        DataError: an image cannot be read, or no label has images with and without it.
    """
    own = list(images.val)[rank() :: world_size()]
    parts = [torch.zeros(0, len(images.prompts))]
    with ThreadPoolExecutor(cores()) as threads:
        for start in range(0, len(own), size):
            some = own[start : start + size]
            pixels = torch.stack(list(threads.map(lambda item: images.eval_transform(images.load(item)), some)))
            with torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None):
                unit = image_features(backbone, pixels.to(backbone.device))
            parts.append(scores(unit).cpu())
    logits = all_gather_rows(torch.cat(parts))
    in_order = [item for start in range(world_size()) for item in list(images.val)[start :: world_size()]]
    score = val_score(logits, labels_of(in_order))
    if math.isnan(score):
        raise DataError("the val images have no label that some show and some do not; use select='last'")
    return score


def labels_of(items: Sequence[Item]) -> Tensor:
    """(N,) int64, or (N, C) float where images have several labels."""
    return torch.tensor([item.class_label() for item in items])
