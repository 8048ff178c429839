"""A sigmoid per label, the baseline for data sets with several labels per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import OWN_EQUATIONS, Loss
from ..contracts.options import option


@dataclass(eq=False, repr=False, kw_only=True)
class BinaryCrossEntropy(Loss):
    """Mean binary cross-entropy of `logits` (B, C) and `labels` (B, C) in 0..1; NaN marks an unknown label, left out.

    Example:
        >>> import torch, vladapt
        >>> out = {"logits": torch.tensor([[0.0, 2.0]]), "labels": torch.tensor([[1.0, float("nan")]])}
        >>> loss = vladapt.build_loss("binary-cross-entropy", pos_weight=2)
        >>> round(loss(out)["loss"].item(), 3)
        1.386
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    pos_weight: float = option(1.0, "factor on the positive term, for rare findings", low=0, high=1_000_000)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        logits, labels = out["logits"], out["labels"]
        known = ~torch.isnan(labels)
        weight = logits.new_tensor(self.pos_weight)
        per_label = F.binary_cross_entropy_with_logits(
            logits, torch.nan_to_num(labels), pos_weight=weight, reduction="none"
        )
        return {"loss": (per_label * known).sum() / known.sum().clamp(min=1)}
