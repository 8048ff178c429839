"""One sigmoid a label, for sets with several labels an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import Loss


class BinaryCrossEntropy(Loss):
    """Mean binary cross-entropy of `logits` (B, C) and `labels` (B, C) in 0..1; NaN marks an unknown label, left out.

    Args:
        pos_weight: factor on the positive term, for rare findings.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    def __init__(self, dims: Mapping[str, int] | None = None, pos_weight: float = 1.0):
        super().__init__(dims)
        self.pos_weight = float(pos_weight)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        logits, labels = out["logits"], out["labels"]
        known = ~torch.isnan(labels)
        weight = logits.new_tensor(self.pos_weight)
        per_label = F.binary_cross_entropy_with_logits(
            logits, torch.nan_to_num(labels), pos_weight=weight, reduction="none"
        )
        return {"loss": (per_label * known).sum() / known.sum().clamp(min=1)}
