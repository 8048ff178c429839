"""Softmax cross-entropy over classes, what CoOp, Tip-Adapter-F and APE-T minimise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.errors import ConfigError
from ..contracts.loss import Loss


class CrossEntropy(Loss):
    """Mean cross-entropy of `logits` (B, C) and integer `labels` (B,).

    Args:
        label_smoothing: share of the target spread over all classes, 0 to below 1.

    Raises:
        ConfigError: label_smoothing is out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    def __init__(self, dims: Mapping[str, int] | None = None, label_smoothing: float = 0.0):
        super().__init__(dims)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"option label_smoothing={label_smoothing} is not usable; give 0 to below 1")
        self.label_smoothing = label_smoothing

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(out["logits"], out["labels"], label_smoothing=self.label_smoothing)}
