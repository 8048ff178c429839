"""The sigmoid loss of SigLIP, in memory that does not grow with the square of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import ONE, Ranks
from ._groups import further_partners, same_label_option
from ._info_nce import row_blocks
from ._products import add_product, product, products_option


@dataclass(eq=False, repr=False, kw_only=True)
class Siglip(RowLoss):
    """Each pair of an image and a caption is a yes-or-no question of its own: do they belong together?

    Sigmoid Loss for Language Image Pre-Training, 2023, arXiv 2303.15343. Summed over all pairs, divided by the images.
    The N x N matrix of logits is made in blocks, so that memory grows with N alone. Of W ranks each keeps its images,
    while the captions of all go round from rank to rank, with their gradients so far.

    The bias is the model's `logit_bias` where it has one; else one that this loss owns and trains. A start of -10 keeps
    the many pairs that do not belong together from drowning the rest.

    With `same_label` each image belongs together with all captions of its label, as pictures and captions of one person
    do. Where no label occurs twice nothing changes.

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

    init_bias: float = option(-10.0, "initial value of the loss's own bias", low=-1000, high=1000)
    same_label: bool = same_label_option()
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        if self.same_label:
            self.needs = self.needs | {"labels"}
        self.bias = nn.Parameter(torch.tensor(self.init_bias))

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        image, text, bias = out["image_features"], out["text_features"], out.get("logit_bias", self.bias)
        loss = pairwise_sigmoid(image, text, out["logit_scale"], bias, ranks, self.products)
        if self.same_label:
            loss = loss - further_logits(image, text, out["logit_scale"], bias, out["labels"], ranks)
        return {"loss": loss}


def pairwise_sigmoid(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, ranks: Ranks = ONE, products: str = "fp32"
) -> Tensor:
    """-sum_ij log sigmoid(z_ij (scale a_i . b_j + bias)) / N with z = 1 for i = j, else -1, in memory of O(n D).

    Args:
        a: (n, D), this rank's rows of N.
        b: (n, D).
        scale: scalar.
        bias: scalar.
        ranks: that hold the rows.
        products: "fp32" or "bf16".
    """
    scale, bias = scale.to(a), bias.to(a)
    if torch.is_grad_enabled() and any(given.requires_grad for given in (a, b, scale, bias)):
        return ranks.average(_PairwiseSigmoid.apply(a, b, scale, bias, ranks, products))
    total = a.new_zeros(())
    for step in range(ranks.size):
        for part in row_blocks(a, b):
            total += _of_block(_logits(a[part], b, scale, bias, products), part if step == 0 else None)
        if step + 1 < ranks.size:
            (b,) = ranks.pass_on(b)
    return ranks.average(total / len(a))


def further_logits(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, labels: Tensor, ranks: Ranks = ONE) -> Tensor:
    """The logits of pairs of one label that are no partners, summed over all pairs, over N: what a pair costs less that
    belongs together, since softplus(l) - l = softplus(-l).

    Args:
        labels: (n,) of this rank's rows; one below 0 is that of nothing else.
    """
    others, sizes = further_partners(b, labels, ranks)  # (n, D), (n,)
    return ranks.average((scale * (a * others).sum(dim=1) + bias * (sizes - 1)).mean())


class _PairwiseSigmoid(torch.autograd.Function):
    """Sum over pairs of this rank's rows, over n. A logit's gradient needs no other logit, so that value and gradient
    come from one walk over the blocks."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, ranks: Ranks, products: str) -> Tensor:
        total, by_scale, by_bias = (torch.zeros_like(scale) for _ in range(3))
        by_a, by_b = torch.zeros_like(a), torch.zeros_like(b)
        for step in range(ranks.size):  # with the columns of the rank `step` after this one
            for part in row_blocks(a, b):
                logits = _logits(a[part], b, scale, bias, products)
                total += _of_block(logits, part if step == 0 else None)
                gradient = _of_logits(logits, part if step == 0 else None)
                add_product(by_a[part], gradient, b, products)
                add_product(by_b, gradient.T, a[part], products)
                by_bias += gradient.sum()
            if step + 1 < ranks.size:
                b, by_b = ranks.pass_on(b, by_b)
        if ranks.size > 1:
            (by_b,) = ranks.pass_on(by_b)  # home
        for part in row_blocks(a, b):
            by_scale += (by_a[part] * a[part]).sum()
        each = 1 / len(a)
        ctx.save_for_backward(by_a.mul_(scale * each), by_b.mul_(scale * each), by_scale * each, by_bias * each)
        return total * each

    @staticmethod
    @once_differentiable
    def backward(ctx, of_loss: Tensor):
        return *(of_loss * gradient for gradient in ctx.saved_tensors), None, None


def _logits(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, products: str) -> Tensor:
    return product(scale * a, b.T, products).add_(bias)  # (rows of the block, n)


def _of_block(logits: Tensor, pairs: slice | None) -> Tensor:
    """Sum of softplus(-z l): softplus(l) everywhere, less l where z is 1.

    Args:
        pairs: the rows' places among the columns that they belong to; None where they belong to none.
    """
    everywhere = -F.logsigmoid(-logits).sum()
    return everywhere if pairs is None else everywhere - logits.diagonal(pairs.start).sum()


def _of_logits(logits: Tensor, pairs: slice | None) -> Tensor:
    """The gradient of `_of_block`, in place of the logits."""
    if pairs is None:
        return logits.sigmoid_()
    missed = -torch.sigmoid(-logits.diagonal(pairs.start))
    gradient = logits.sigmoid_()
    gradient.diagonal(pairs.start).copy_(missed)
    return gradient
