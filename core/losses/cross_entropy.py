"""Softmax cross-entropy over classes, the baseline: what CoOp, Tip-Adapter-F and APE-T minimise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import OWN_EQUATIONS, Loss
from ..contracts.options import option


@dataclass(eq=False, repr=False, kw_only=True)
class CrossEntropy(Loss):
    """Mean cross-entropy of `logits` (B, C) and integer `labels` (B,), or the share of each class (B, C) in a sample
    that is mixed of several.

    Where the method gives `class_priors` (C,), they are added to the logits, so that each class counts alike: the logit
    adjustment of Menon et al. (Long-tail learning via logit adjustment, 2020, arXiv 2007.07314).

    Example:
        >>> import torch, vladapt
        >>> out = {"logits": torch.tensor([[2.0, 0.0], [0.0, 2.0]]), "labels": torch.tensor([0, 1])}
        >>> loss = vladapt.build_loss("cross-entropy", label_smoothing=0.1)
        >>> round(loss(out)["loss"].item(), 3)
        0.227
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    label_smoothing: float = option(0.0, "share of the target spread over all classes", low=0, below=1)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        logits, priors = out["logits"], out.get("class_priors")
        logits = logits if priors is None else logits + priors
        return {"loss": F.cross_entropy(logits, out["labels"], label_smoothing=self.label_smoothing)}
