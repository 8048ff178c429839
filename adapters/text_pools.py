"""Texts that methods search in, and sentences about classes, ready to be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..core.contracts import TextPool
from ..core.errors import DataError
from ..core.prompts import build_classifier


def unit_captions(pool: TextPool, features: Tensor, whose: str) -> Tensor:
    """(N, D) unit rows of captions, on the device of the features that they are compared with.

    Args:
        features: (M, D).
        whose: these are, in words.

    Raises:
        DataError: the pool is empty, or of another width.
    """
    if not len(pool):
        raise DataError("captions: the pool is empty; give a file with at least one caption")
    width = features.shape[1]
    if pool.features.shape[1] != width:
        widths = f"captions: features are {pool.features.shape[1]} wide, {whose} {width}"
        raise DataError(f"{widths}; both must come from one backbone")
    return F.normalize(pool.features.to(features.device).float(), dim=-1)


def encode_sentences(backbone, sentences: Sequence[Sequence[str]], class_names: Sequence[str]) -> tuple[Tensor, ...]:
    """C tensors (T_c, D), one unit row per sentence.

    Raises:
        DataError: another number of classes, or a class without a sentence.
    """
    if len(sentences) != len(class_names):
        raise DataError(f"descriptions of {len(sentences)} classes for {len(class_names)}; give one list per class")
    for name, of in zip(class_names, sentences, strict=True):
        if not of:
            raise DataError(f"descriptions: class '{name}' has none; add at least one sentence")
    numbered = {str(i): of for i, of in enumerate(sentences)}  # not by name: two classes may share one
    return build_classifier(backbone, list(numbered), (), descriptions=numbered).prototypes
