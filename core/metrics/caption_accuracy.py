"""Naming the class of an image by what is said of images of each class: accuracy where pairs have labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def named_rightly(images: Tensor, texts: Tensor, image_of_text: Tensor, labels: Tensor) -> Tensor | None:
    """(N,) bool: whether an image's nearest class is its own.

    A class is the normalised mean of the unit features of its captions, each distinct one once, as a zero-shot
    classifier averages its prompts. All images of a class share its captions, so that a caption that fits several
    images, which makes retrieval by pairs too strict, does no harm here.

    Args:
        images: (N, D) unit.
        texts: (M, D) unit; equal texts have equal rows.
        image_of_text: (M,) int64, the image each text belongs to.
        labels: (N,) int64.

    Returns:
        None where there are fewer than two classes.
    """
    classes, own = labels.unique(return_inverse=True)  # (C,), (N,)
    if len(classes) < 2:
        return None
    class_of_text = own[image_of_text]
    distinct = torch.cat([class_of_text[:, None].to(texts.dtype), texts], dim=1).unique(dim=0)  # (M', 1 + D)
    sums = torch.zeros(len(classes), texts.shape[1], dtype=texts.dtype)
    sums.index_add_(0, distinct[:, 0].long(), distinct[:, 1:])
    return (images @ F.normalize(sums, dim=-1).T).argmax(dim=1) == own
