"""What all cache models share: keys and values from the support, and the logits they add to zero-shot."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts.features import FeatureSet
from ...core.contracts.text import TextClassifier

CHUNK_ELEMENTS = 2**24  # of a (rows, N) block of affinities: 64 MiB
REFERENCE_SCALE = 100.0  # published alphas assume CLIP's logit scale


def cache_keys(support: FeatureSet, views: int) -> Tensor:
    """(N, D) unit keys: the mean over an image's first `views` raw view features, normalised once; else its feature."""
    if views and support.views is not None:
        return F.normalize(support.views[:, :views].float().mean(dim=1), dim=-1)
    return support.unit


def keys_note(support: FeatureSet, views: int) -> str:
    """What the keys are, in words, for `FitReport.notes`."""
    if views and support.views is not None:
        return f"cache keys are means of {min(views, support.views.shape[1])} augmented views an image"
    return "cache keys are features of the images as they are, without augmented views"


def cache_values(support: FeatureSet, num_classes: int) -> Tensor:
    """(N, C) one-hot or multi-hot rows; an unknown label counts as 0, a class without images is a column of zeros."""
    values = support.one_hot()
    return F.pad(values, (0, num_classes - values.shape[1])).to(support.features.device)


def training_images(support: FeatureSet, index: Tensor, views: int, epoch: int) -> Tensor:
    """(B, D) unit features of a batch: one augmented view an image, another one each epoch, where there are views."""
    if views and support.views is not None:
        return F.normalize(support.views[index, epoch % min(views, support.views.shape[1])].float(), dim=-1)
    return F.normalize(support.features[index], dim=-1)


def zero_shot_text(classifier: TextClassifier) -> tuple[Tensor, float]:
    """(C, D) rows and a bias, so that logit_scale * x @ rows.T + bias are the classifier's logits.

    With negative prompts (several labels an image) a row is the positive minus the negative prompt.
    """
    if classifier.negative is not None:
        return classifier.weights - classifier.negative, 0.0
    return classifier.weights, classifier.logit_bias or 0.0


def zero_shot_logits(unit: Tensor, text: Tensor, logit_scale: float, logit_bias: float) -> Tensor:
    """(B, C) logits of unit features without a cache."""
    return logit_scale * unit @ text.T + logit_bias


def cache_logits(queries: Tensor, keys: Tensor, values: Tensor, beta: float) -> Tensor:
    """exp(-beta (1 - queries keys^T)) values, in blocks of rows so that memory does not grow with B.

    Args:
        queries: (B, D) unit rows.
        keys: (N, D).
        values: (N, C).
        beta: sharpness.

    Returns:
        (B, C).
    """
    rows = max(1, CHUNK_ELEMENTS // max(1, len(keys)))
    return torch.cat([torch.exp(-beta * (1 - block @ keys.T)) @ values for block in queries.split(rows)])
