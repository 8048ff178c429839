"""Columns of a block of scores whose rows are those of one rank, while a column goes on over all ranks.

A block (n, N) holds the scores of this rank's n rows with the columns of all ranks; what is right for row i of them is
column `ranks.own(n).start + i`. What is done along rows needs no other rank. What is done down columns is here: in one
process it is torch's function on the transposed matrix; ranks exchange vectors of N numbers for it, and no more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..runtime.ranks import Ranks


def own_pairs(scores: Tensor, ranks: Ranks) -> Tensor:
    """(n,): which column is right for each row."""
    own = ranks.own(len(scores))
    return torch.arange(own.start, own.stop, device=scores.device)


def is_own_pair(scores: Tensor, ranks: Ranks) -> Tensor:
    """(n, N) bool: which column is right for each row."""
    return own_pairs(scores, ranks)[:, None] == torch.arange(scores.shape[1], device=scores.device)


def cross_entropy_down(scores: Tensor, ranks: Ranks) -> Tensor:
    """Cross-entropy of picking the partner of each of this rank's columns; averaged over ranks, its mean.

    Args:
        scores: (n, N).
    """
    if ranks.size == 1:
        return F.cross_entropy(scores.T, own_pairs(scores, ranks))
    return -log_softmax_down(scores, ranks).diagonal(ranks.own(len(scores)).start).mean()


def soft_cross_entropy_down(scores: Tensor, target_scores: Tensor, ranks: Ranks) -> Tensor:
    """Cross-entropy of each column's softmax with that of other scores as target; averaged over ranks, its mean."""
    if ranks.size == 1:
        return F.cross_entropy(scores.T, target_scores.T.softmax(dim=1))
    targets = log_softmax_down(target_scores, ranks).exp()
    return -(targets * log_softmax_down(scores, ranks)).sum() / len(scores)


def log_softmax_down(scores: Tensor, ranks: Ranks) -> Tensor:
    """(n, N): of each column over the rows of all ranks."""
    return scores.T.log_softmax(dim=1).T if ranks.size == 1 else _LogSoftmaxDown.apply(scores, ranks)


def amax_down(scores: Tensor, ranks: Ranks) -> Tensor:
    """(N,): the highest score of each column; equal ones share its gradient, as `torch.amax` has it."""
    return scores.amax(dim=0) if ranks.size == 1 else _AmaxDown.apply(scores, ranks)


def argmax_down(scores: Tensor, ranks: Ranks) -> Tensor:
    """(n,): the row, counted over all ranks, that has the highest score of each of this rank's columns."""
    own = ranks.own(len(scores))
    if ranks.size == 1:
        return scores.T.argmax(dim=1)
    top = ranks.highest(scores.amax(dim=0))  # (N,)
    row = torch.arange(own.start, own.stop, device=scores.device)[:, None]
    first = torch.where(scores == top, row, len(top)).amin(dim=0)
    return -ranks.highest(-first)[own]


def mean_of_sums_down(block: Tensor, ranks: Ranks) -> Tensor:
    """The sums of this rank's columns over the rows of all ranks, and their mean.

    Args:
        block: (n, N).
    """
    return ranks.total(block.sum(dim=0))[ranks.own(len(block))].mean()


class _LogSoftmaxDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, ranks: Ranks) -> Tensor:
        top = ranks.highest(scores.amax(dim=0))  # (N,)
        logs = scores - top
        logs -= ranks.sum(logs.exp().sum(dim=0)).log()
        ctx.save_for_backward(logs)
        ctx.ranks = ranks
        return logs

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (logs,) = ctx.saved_tensors
        return gradient - logs.exp() * ctx.ranks.sum(gradient.sum(dim=0)), None


class _AmaxDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, ranks: Ranks) -> Tensor:
        top = ranks.highest(scores.amax(dim=0))
        is_top = scores == top
        ctx.save_for_backward(is_top, ranks.sum(is_top.sum(dim=0)))
        ctx.ranks = ranks
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        is_top, shared_by = ctx.saved_tensors
        return is_top * (ctx.ranks.sum(gradient) / shared_by), None
