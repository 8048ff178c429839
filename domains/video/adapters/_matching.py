"""The loss of clips with texts, both ways, where several clips share the text of their class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def matching_loss(scores: Tensor, labels: Tensor, priors: Tensor | None = None) -> Tensor:
    """The mean cross-entropy of a clip with all classes, and of each class among the labels with the clips.

    Args:
        scores: (B, C) logits.
        labels: (B,).
        priors: (C,) log shares of the classes, added where a clip chooses a class, or None.
    """
    own = F.one_hot(labels, scores.shape[1]).T.to(scores)  # (C, B)
    counts = own.sum(dim=1, keepdim=True)
    wanted = own / counts.clamp(min=1)
    to_clip = -(wanted * scores.T.log_softmax(dim=1)).sum() / (counts > 0).sum()
    to_class = F.cross_entropy(scores if priors is None else scores + priors, labels)
    return (to_class + to_clip) / 2
