"""The sigmoid loss of SigLIP, in memory that does not grow with the square of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..contracts.loss import Loss
from ..contracts.options import option
from ._info_nce import row_blocks


@dataclass(eq=False, repr=False, kw_only=True)
class Siglip(Loss):
    """Each pair of an image and a caption is a yes-or-no question of its own: do they belong together?

    Sigmoid Loss for Language Image Pre-Training, 2023, arXiv 2303.15343. Summed over all pairs, divided by the images.
    The N x N matrix of logits is made in blocks, so that memory grows with N alone.

    The bias is the model's `logit_bias` where it has one; else one that this loss owns and trains. A start of -10 keeps
    the many pairs that do not belong together from drowning the rest.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("siglip", init_bias=-5)
        >>> round(loss(out)["loss"].item(), 3)
        0.027
    """

    differs: ClassVar[str] = (
        "none; the matrix of logits is never held whole. CoCa's losses of the same fixture are not here"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})

    init_bias: float = option(-10.0, "where the loss's own bias starts", low=-1000, high=1000)

    def __post_init__(self):
        super().__post_init__()
        self.bias = nn.Parameter(torch.tensor(self.init_bias))

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        bias = out.get("logit_bias", self.bias)
        return {"loss": pairwise_sigmoid(out["image_features"], out["text_features"], out["logit_scale"], bias)}


def pairwise_sigmoid(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """-sum_ij log sigmoid(z_ij (scale a_i . b_j + bias)) / N with z = 1 for i = j, else -1, in memory of O(N D).

    Args:
        a: (N, D).
        b: (N, D).
        scale: scalar.
        bias: scalar.
    """
    scale, bias = scale.to(a), bias.to(a)
    if torch.is_grad_enabled() and any(given.requires_grad for given in (a, b, scale, bias)):
        return _PairwiseSigmoid.apply(a, b, scale, bias)
    total = a.new_zeros(())
    for part in row_blocks(len(a), len(b)):
        total += _of_block(_logits(a[part], b, scale, bias), part)
    return total / len(a)


class _PairwiseSigmoid(torch.autograd.Function):
    """A logit's gradient needs no other logit, so that value and gradient come from one walk over the blocks."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        total, by_scale, by_bias = (torch.zeros_like(scale) for _ in range(3))
        by_a, by_b = torch.empty_like(a), torch.zeros_like(b)
        for part in row_blocks(len(a), len(b)):
            logits = _logits(a[part], b, scale, bias)
            total += _of_block(logits, part)
            missed = -torch.sigmoid(-logits.diagonal(part.start))
            gradient = logits.sigmoid_()
            gradient.diagonal(part.start).copy_(missed)
            by_a[part] = gradient @ b
            by_b.addmm_(gradient.T, a[part])
            by_scale += (by_a[part] * a[part]).sum()
            by_bias += gradient.sum()
        each = 1 / len(a)
        ctx.save_for_backward(by_a.mul_(scale * each), by_b.mul_(scale * each), by_scale * each, by_bias * each)
        return total * each

    @staticmethod
    @once_differentiable
    def backward(ctx, of_loss: Tensor):
        return tuple(of_loss * gradient for gradient in ctx.saved_tensors)


def _logits(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return ((scale * a) @ b.T).add_(bias)  # (rows of the block, N)


def _of_block(logits: Tensor, part: slice) -> Tensor:
    """Sum of softplus(-z l): softplus(l) everywhere, less l where z is 1."""
    return -F.logsigmoid(-logits).sum() - logits.diagonal(part.start).sum()
