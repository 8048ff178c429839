"""Symmetric InfoNCE, what most contrastive losses are built of; with one partner a row it never holds the N x N matrix.

With one partner a row, the loss is made of three vectors: the log-sum-exp of each row and of each column of the
logits, and their diagonal. They are computed from blocks of rows, and so is their gradient, from the same blocks made
anew: four matrix products in all, where the whole matrix and its transpose take six. Of several ranks each makes the
blocks of its own rows; what a column sums up over ranks is two vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..runtime.ranks import ONE, Ranks
from ._groups import further_partners
from ._products import add_product, product

ENTRIES = 1 << 22
"""Entries of one block on a CPU: 16 MiB in float32, large enough for matrix products to run at full speed."""
GPU_SHARE = 1 / 32
"""Share of a GPU's memory that one block takes in float32: mostly all rows of a rank at once, in a few kernels."""


def info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    targets: Tensor | None = None,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    ranks: Ranks = ONE,
    products: str = "fp32",
    labels: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of picking the partner among all, from a to b and from b to a, halved.

    Args:
        a: (n, D), this rank's rows.
        b: (n, D); (M, D) where there are targets.
        scale: what the products are multiplied by, 1 / temperature.
        targets: (N, M) weights of the right answers, 0 or more, at least one above 0 in each row and column; each
            direction brings its own rows to a sum of 1. The matrix is held then, by one rank. None: row i belongs to
            row i.
        bias: added to all logits. A softmax does not see it; its gradient is 0.
        label_smoothing: without targets, share of the target spread over all N answers.
        ranks: that hold the rows.
        products: "fp32" or "bf16", without targets.
        labels: (n,) of this rank's rows, without targets: the answers of a row are all of its label, evenly. One below
            0 stands for itself.
    """
    if targets is not None:
        logits = scale * a @ b.T  # (N, M)
        return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets.T)) / 2
    rows, columns, positives = log_sums(a, b, scale, ranks, products)  # (n,) each
    if labels is not None:
        # As many of a label are on both sides: averaged over the batch, both directions have one answer.
        others, sizes = further_partners(b, labels, ranks)  # (n, D), (n,)
        positives = (positives + scale * (a * others).sum(dim=1)) / sizes
    if bias is not None:
        rows, columns, positives = rows + bias, columns + bias, positives + bias
    answer = (1 - label_smoothing) * positives.mean()
    if label_smoothing:  # the mean of all N x N logits
        everywhere = scale * (ranks.average(a.mean(dim=0)) @ ranks.average(b.mean(dim=0)))
        answer = answer + label_smoothing * (everywhere if bias is None else everywhere + bias)
    return ranks.average((rows.mean() + columns.mean()) / 2 - answer)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy with `targets`, whose rows are brought to a sum of 1."""
    return F.cross_entropy(logits, targets / targets.sum(dim=1, keepdim=True))


def log_sums(
    a: Tensor, b: Tensor, scale: Tensor | float, ranks: Ranks = ONE, products: str = "fp32"
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of the rows and of the columns of `scale * a @ b.T`, and its diagonal, in memory of O(N D).

    Args:
        a: (n, D), this rank's rows.
        b: (n, D), this rank's columns; logits are those of its rows with the columns of all ranks.
        scale: a factor; differentiable where it is a tensor.
        ranks: that hold rows and columns.
        products: "fp32" or "bf16".

    Returns:
        (n,) each: of this rank's rows, of its columns, and of both.
    """
    return _LogSums.apply(a, b, torch.as_tensor(scale, dtype=a.dtype, device=a.device), ranks, products)


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, scale: Tensor, ranks: Ranks, products: str):
        b, own = ranks.gather(b), ranks.own(len(b))  # (N, D)
        rows, positives = a.new_empty(len(a)), a.new_empty(len(a))
        top, total = a.new_full((len(b),), -torch.inf), a.new_zeros(len(b))  # of the columns, so far
        for part in row_blocks(a, b):
            logits = product(scale * a[part], b.T, products)  # (rows of the block, N)
            rows[part] = logits.logsumexp(dim=1)
            positives[part] = logits.diagonal(own.start + part.start)
            higher = torch.maximum(top, logits.amax(dim=0))
            total = total * (top - higher).exp() + logits.sub_(higher).exp_().sum(dim=0)
            top = higher
        if ranks.size > 1:
            higher = ranks.highest(top)
            top, total = higher, ranks.sum(total * (top - higher).exp())
        columns = top + total.log()
        ctx.save_for_backward(a, b, scale, rows, columns)
        ctx.ranks, ctx.own, ctx.products = ranks, own, products
        return rows, columns[own], positives

    @staticmethod
    @once_differentiable
    def backward(ctx, of_rows: Tensor, of_columns: Tensor, of_positives: Tensor):
        a, b, scale, rows, columns = ctx.saved_tensors
        of_columns = ctx.ranks.gather(of_columns)  # (N,)
        by_a, by_b, by_scale = torch.empty_like(a), torch.zeros_like(b), torch.zeros_like(scale)
        for part in row_blocks(a, b):
            logits = product(scale * a[part], b.T, ctx.products)
            gradient = (logits - rows[part, None]).exp_().mul_(of_rows[part, None])
            gradient.addcmul_(logits.sub_(columns).exp_(), of_columns)
            gradient.diagonal(ctx.own.start + part.start).add_(of_positives[part])
            by_a[part] = product(gradient, b, ctx.products)
            add_product(by_b, gradient.T, a[part], ctx.products)
            by_scale += (by_a[part] * a[part]).sum()
        return by_a.mul_(scale), ctx.ranks.scatter_sum(by_b.mul_(scale)), by_scale, None, None


def row_blocks(a: Tensor, b: Tensor) -> Iterator[slice]:
    """Slices of the rows of a, each of which makes a block with all rows of b that the device takes at once."""
    height = max(1, _entries_on(a.device) // max(1, len(b)))
    for start in range(0, len(a), height):
        yield slice(start, min(start + height, len(a)))


def _entries_on(device: torch.device) -> int:
    if device.type != "cuda":
        return ENTRIES
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(ENTRIES, int(GPU_SHARE * memory) // torch.float32.itemsize)
