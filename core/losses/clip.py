"""The contrastive loss of CLIP, in memory that does not grow with the square of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import Ranks
from ._groups import same_label_option
from ._info_nce import info_nce
from ._products import products_option


@dataclass(eq=False, repr=False, kw_only=True)
class Clip(RowLoss):
    """Each image picks its caption among the batch's, each caption its image: the mean of both cross-entropies.

    Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020. The N x N matrix of
    logits is made in blocks, so that memory grows with N alone; value and gradient are those of the whole matrix. Each
    of W ranks computes the blocks of its own images.
    `logit_bias` is added if the model has one; it does not change a softmax.

    With `same_label` the target of a row is spread evenly over all of its label, as in UniCL (2022, arXiv 2204.03610):
    pictures and captions of one person are not negatives of each other. If no label occurs twice nothing changes.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("clip", label_smoothing=0.1)
        >>> round(loss(out)["loss"].item(), 3)
        0.75
    """

    differs: ClassVar[str] = (
        "none; the whole matrix of logits is never in memory. CoCa's losses in the same fixture are not included"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})
    of_products: ClassVar[bool] = True
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = (1.0, 100.0)

    label_smoothing: float = option(
        0.0, "share of the target spread over the batch (0 in CLIP, 0.1 in Long-CLIP)", low=0, below=1
    )
    same_label: bool = same_label_option()
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        if self.same_label:
            self.needs = self.needs | {"labels"}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        loss = info_nce(
            out["image_features"],
            out["text_features"],
            out["logit_scale"],
            bias=out.get("logit_bias"),
            label_smoothing=self.label_smoothing,
            ranks=ranks,
            products=self.products,
            labels=out["labels"] if self.same_label else None,
        )
        return {"loss": loss}
