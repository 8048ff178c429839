"""Symmetric InfoNCE, what most contrastive losses are built of; with one partner a row it never holds the N x N matrix.

With one partner a row, the loss is made of three vectors: the log-sum-exp of each row and of each column of the
logits, and their diagonal. They are computed from blocks of rows, and so is their gradient, from the same blocks made
anew: four matrix products in all, where the whole matrix and its transpose take six.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ENTRIES = 1 << 22
"""Entries of one block: 16 MiB in float32, large enough for matrix products to run at full speed."""


def info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    targets: Tensor | None = None,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of picking the partner among all, from a to b and from b to a, halved.

    Args:
        a: (N, D).
        b: (M, D); M = N where the partners are the equal rows.
        scale: what the products are multiplied by, 1 / temperature.
        targets: (N, M) weights of the right answers, 0 or more, at least one above 0 in each row and column; each
            direction brings its own rows to a sum of 1. The matrix is held then. None: row i belongs to row i.
        bias: added to all logits. A softmax does not see it; its gradient is 0.
        label_smoothing: without targets, share of the target spread over all N answers.
    """
    if targets is not None:
        logits = scale * a @ b.T  # (N, M)
        return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets.T)) / 2
    rows, columns, positives = log_sums(a, b, scale)  # (N,) each
    if bias is not None:
        rows, columns, positives = rows + bias, columns + bias, positives + bias
    answer = (1 - label_smoothing) * positives.mean()
    if label_smoothing:
        everywhere = scale * (a.mean(dim=0) @ b.mean(dim=0))  # the mean of all N x N logits
        answer = answer + label_smoothing * (everywhere if bias is None else everywhere + bias)
    return (rows.mean() + columns.mean()) / 2 - answer


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy with `targets`, whose rows are brought to a sum of 1."""
    return F.cross_entropy(logits, targets / targets.sum(dim=1, keepdim=True))


def log_sums(a: Tensor, b: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of the rows and of the columns of `scale * a @ b.T`, and its diagonal, in memory of O(N D).

    Args:
        a: (N, D).
        b: (N, D).
        scale: a factor; differentiable where it is a tensor.
    """
    return _LogSums.apply(a, b, torch.as_tensor(scale, dtype=a.dtype, device=a.device))


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, positives = a.new_empty(len(a)), a.new_empty(len(a))
        top, total = a.new_full((len(b),), -torch.inf), a.new_zeros(len(b))  # of the columns, so far
        for part in row_blocks(len(a), len(b)):
            logits = (scale * a[part]) @ b.T  # (rows of the block, N)
            rows[part] = logits.logsumexp(dim=1)
            positives[part] = logits.diagonal(part.start)
            higher = torch.maximum(top, logits.amax(dim=0))
            total = total * (top - higher).exp() + logits.sub_(higher).exp_().sum(dim=0)
            top = higher
        columns = top + total.log()
        ctx.save_for_backward(a, b, scale, rows, columns)
        return rows, columns, positives

    @staticmethod
    @once_differentiable
    def backward(ctx, of_rows: Tensor, of_columns: Tensor, of_positives: Tensor):
        a, b, scale, rows, columns = ctx.saved_tensors
        by_a, by_b, by_scale = torch.empty_like(a), torch.zeros_like(b), torch.zeros_like(scale)
        for part in row_blocks(len(a), len(b)):
            logits = (scale * a[part]) @ b.T
            gradient = (logits - rows[part, None]).exp_().mul_(of_rows[part, None])
            gradient.addcmul_(logits.sub_(columns).exp_(), of_columns)
            gradient.diagonal(part.start).add_(of_positives[part])
            by_a[part] = gradient @ b
            by_b.addmm_(gradient.T, a[part])
            by_scale += (by_a[part] * a[part]).sum()
        return by_a.mul_(scale), by_b.mul_(scale), by_scale


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of 0..rows, each of which makes a block of about `ENTRIES` entries with all columns."""
    height = max(1, ENTRIES // max(1, columns))
    for start in range(0, rows, height):
        yield slice(start, min(start + height, rows))
