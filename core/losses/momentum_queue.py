"""Cross-modal contrastive loss against queues of keys from a momentum teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import OWN_EQUATIONS, Loss
from ..contracts.options import option


@dataclass(eq=False, repr=False, kw_only=True)
class MomentumQueue(Loss):
    """Each image picks its caption's key among a queue of earlier captions' keys, each caption its image's likewise.

    BriVL of WenLan: Bridging Vision and Language by Large-Scale Multi-Modal Pre-Training, 2021, arXiv 2103.06561, which
    brings MoCo (Momentum Contrast for Unsupervised Visual Representation Learning, 2019, arXiv 1911.05722) to pairs.
    Keys come from the teacher, a moving average of the student. The positive of a sample is the teacher's key of the
    same sample; its negatives are only those in the queue, so their number does not depend on the batch.

    Queue size and momentum are those of the released configuration. It trains at a fixed temperature of 0.07, which is
    where CLIP's learnable `logit_scale` starts, and adds both directions up; here their mean is taken. Released queues
    take batches that divide their size; here any batch goes in, in its order, and wraps around. Queues start with
    random unit vectors, as released.

    Raises:
        CapabilityError: dims lacks embed_dim.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("momentum-queue", {"embed_dim": 4}, queue_size=16)
        >>> sorted(loss({**out, "teacher.image": torch.eye(4), "teacher.text": torch.eye(4)}))
        ['image_to_text', 'loss', 'text_to_image']
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "logit_scale", "teacher.image", "teacher.text"}
    )
    teacher: ClassVar[str | None] = "ema"
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = (1.0, 100.0)

    queue_size: int = option(9600, "keys that each of the two queues holds", low=1, high=1_000_000)
    momentum: float = option(0.99, "momentum of the teacher", low=0, high=1)

    def __post_init__(self):
        super().__post_init__()
        width = self.dim("embed_dim", "its queues")
        self.images, self.texts = FeatureQueue(self.queue_size, width), FeatureQueue(self.queue_size, width)
        self._seen: tuple[Tensor, Tensor] | None = None

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        images, texts = out["teacher.image"].detach(), out["teacher.text"].detach()
        self._seen = (images, texts)
        scale = out["logit_scale"]
        to_text = _contrast(out["image_features"], texts, self.texts.rows, scale)
        to_image = _contrast(out["text_features"], images, self.images.rows, scale)
        return {"loss": (to_text + to_image) / 2, "image_to_text": to_text, "text_to_image": to_image}

    def teacher_momentum(self, progress: float) -> float:
        """Share of itself that the teacher keeps in a step."""
        return self.momentum

    def after_step(self, model: nn.Module | None) -> None:
        """Puts the keys of the step in place of the oldest."""
        if self._seen is not None:
            self.images.push(self._seen[0])
            self.texts.push(self._seen[1])
            self._seen = None


def _contrast(queries: Tensor, keys: Tensor, negatives: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of each query's own key among itself and the negatives.

    Args:
        queries: (B, D).
        keys: (B, D), one per query.
        negatives: (K, D).
        scale: what the products are multiplied by.
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)  # (B, 1)
    # The copy is the backward pass's own, should the queue move before that.
    negative = queries @ negatives.to(queries, copy=True).T  # (B, K)
    logits = scale * torch.cat([positive, negative], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64, device=queries.device))


class FeatureQueue(nn.Module):
    """First in, first out; random unit rows until real ones have come.

    Args:
        size: rows it holds.
        width: of a row.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=-1))  # (size, D)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def nearest(self, features: Tensor, count: int = 1) -> Tensor:
        """(B, D) -> (B, count, D): the rows of highest cosine, the highest first, unit."""
        rows = F.normalize(self.rows.to(features.dtype), dim=-1)
        return rows[(F.normalize(features, dim=-1) @ rows.T).topk(count, dim=1).indices]

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Put (N, D) in place of the oldest rows, in their order."""
        size = len(self.rows)
        self.pointer += max(0, len(features) - size)  # rows that later ones would overwrite at once
        newest = features.detach()[-size:].to(self.rows)
        places = (self.pointer + torch.arange(len(newest), device=self.rows.device)) % size
        self.rows[places] = newest
        self.pointer.copy_((self.pointer + len(newest)) % size)
