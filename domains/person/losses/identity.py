"""Classification of images and texts by person, over the people of the training set, with one classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Loss, RowLoss, option
from ....core.errors import CapabilityError
from ....core.runtime import Ranks

NOBODY = -1


def number_of_people(loss: Loss) -> int:
    """Of the training set, whose identities are numbered from 0.

    Raises:
        CapabilityError: it names none, or is read in a row.
    """
    if "num_labels" not in loss.dims:
        raise CapabilityError(
            f"{loss.title} names the people of the training set, and this set names none, or is read in a row; give "
            "a column 'identity', or omit the loss"
        )
    return loss.dim("num_labels", "its classifier of identities")


@dataclass(eq=False, repr=False, kw_only=True)
class IdentityLoss(RowLoss):
    """The mean of the cross-entropies of classifying the person from the image and from the text.

    The identity loss of "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval"
    (IRRA), 2023, arXiv 2303.12501, after "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", 2017,
    arXiv 1711.05535. One linear layer reads the features of both towers, not normalised; its weights start with a
    standard deviation of 0.001, its biases at 0. Samples with an identity below 0, which show nobody, are left out.

    Raises:
        CapabilityError: the set names no identities or is read in a row, or dims lacks embed_dim.

    Example:
        >>> import torch, vladapt
        >>> features = 4 * torch.eye(4)
        >>> loss = vladapt.build_loss("identity", {"embed_dim": 4, "num_labels": 3}, deviation=1e-9)
        >>> out = {"image_embedding": features, "text_embedding": features, "labels": torch.tensor([0, 1, 2, 2])}
        >>> round(float(loss(out)["loss"].detach()), 4)
        1.0986
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding", "text_embedding", "labels"})

    deviation: float = option(0.001, "standard deviation of the classifier's initial weights", above=0, high=10)

    def __post_init__(self):
        super().__post_init__()
        self.classifier = nn.Linear(self.dim("embed_dim", "its classifier of identities"), number_of_people(self))
        nn.init.normal_(self.classifier.weight, std=self.deviation)
        nn.init.zeros_(self.classifier.bias)

    def rate_of(self, name: str, head: float, bias: float | None) -> float:
        """That of heads for its biases, too, as IRRA has it."""
        return head

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        labels = out["labels"]
        named = ranks.total((labels > NOBODY).sum()).clamp(min=1)
        parts = {side: ranks.total(self._error(out[f"{side}_embedding"], labels)) / named for side in ("image", "text")}
        return {"loss": (parts["image"] + parts["text"]) / 2, **parts}

    def _error(self, features: Tensor, labels: Tensor) -> Tensor:
        """Summed over this rank's samples."""
        return F.cross_entropy(self.classifier(features), labels, ignore_index=NOBODY, reduction="sum")
