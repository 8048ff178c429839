"""The contrastive loss of CLIP, in memory that does not grow with the square of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..contracts.adapter import require
from ..contracts.loss import Loss
from ._info_nce import info_nce


class Clip(Loss):
    """Each image picks its caption among the batch's, each caption its image: the mean of both cross-entropies.

    Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020. The N x N matrix of
    logits is made in blocks, so that memory grows with N alone; value and gradient are those of the whole matrix.
    `logit_bias` is added where the model has one; a softmax does not see it.

    Args:
        label_smoothing: share of the target spread over the batch, 0 to below 1 (0 in CLIP, 0.1 in Long-CLIP).

    Raises:
        ConfigError: label_smoothing is out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = (1.0, 100.0)

    def __init__(self, dims: Mapping[str, int] | None = None, label_smoothing: float = 0.0):
        super().__init__(dims)
        require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "give 0 to below 1")
        self.label_smoothing = float(label_smoothing)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        loss = info_nce(
            out["image_features"],
            out["text_features"],
            out["logit_scale"],
            bias=out.get("logit_bias"),
            label_smoothing=self.label_smoothing,
        )
        return {"loss": loss}
