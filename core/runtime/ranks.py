"""The ranks that hold the rows of one batch, and what a loss asks of the others.

How gradients come about, here and nowhere else: every rank gives the loss of the global batch, and what is
differentiated is the sum of these W equal values. Each exchange has its adjoint: what is gathered gets back the sum of
what all ranks send to a row, what is summed gets back a sum. The gradient by a rank's own rows is thus W times that of
one process; that by a parameter (towers, heads, the logit scale) is a rank's share of W times it. Averaged over ranks,
as DistributedDataParallel does, both are the gradient of one process. The adjoints are exchanges too: all ranks have to
go through the backward pass, and with the same graph.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .process import holding


class Ranks:
    """One process, which holds all rows: every exchange gives back what it is given. Subclasses are several.

    A block (n, N) holds the scores of this rank's n rows with the columns of all ranks; what is right for row i of them
    is column `own(n).start + i`. What is done along rows needs no other rank. What is done down columns, each of which
    goes on over all ranks, is in the methods ending with `_down`: in one process it is torch's function on the
    transposed matrix; ranks exchange vectors of N numbers for it, and no more.

    Attributes:
        rank: number of this one, from 0.
        size: how many there are, W.
    """

    rank: int = 0
    size: int = 1

    def columns(self, rows: Tensor) -> Tensor:
        """(n, ...) of each rank -> (W n, ...), in the order of ranks, for a rank's own rows to be compared with.

        Each rank may do something else with it: in the backward pass the gradients of all ranks are summed.
        """
        return rows if self.size == 1 else _Columns.apply(rows, self)

    def whole(self, rows: Tensor) -> Tensor:
        """The same for a loss that all ranks compute alike: no gradient needs to be sent."""
        return rows if self.size == 1 else _Whole.apply(rows, self)

    def total(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        return value if self.size == 1 else _Total.apply(value, self)

    def average(self, value: Tensor) -> Tensor:
        """The mean over ranks: of their means over n rows each, the mean over all rows."""
        return value if self.size == 1 else self.total(value) / self.size

    def own(self, count: int) -> slice:
        """Where this rank's rows are among those of all.

        Args:
            count: rows of each rank.
        """
        return slice(self.rank * count, (self.rank + 1) * count)

    # Blocks of scores, (n, N).

    def own_pairs(self, scores: Tensor) -> Tensor:
        """(n,): which column is right for each row."""
        own = self.own(len(scores))
        return torch.arange(own.start, own.stop, device=scores.device)

    def is_own_pair(self, scores: Tensor) -> Tensor:
        """(n, N) bool: which column is right for each row."""
        return self.own_pairs(scores)[:, None] == torch.arange(scores.shape[1], device=scores.device)

    def cross_entropy_down(self, scores: Tensor) -> Tensor:
        """Cross-entropy of picking the partner of each of this rank's columns; averaged over ranks, its mean.

        Args:
            scores: (n, N).
        """
        if self.size == 1:
            return F.cross_entropy(scores.T, self.own_pairs(scores))
        return -self.log_softmax_down(scores).diagonal(self.own(len(scores)).start).mean()

    def soft_cross_entropy_down(self, scores: Tensor, target_scores: Tensor) -> Tensor:
        """Cross-entropy of each column's softmax with that of other scores as target; averaged over ranks, its mean."""
        if self.size == 1:
            return F.cross_entropy(scores.T, target_scores.T.softmax(dim=1))
        targets = self.log_softmax_down(target_scores).exp()
        return -(targets * self.log_softmax_down(scores)).sum() / len(scores)

    def log_softmax_down(self, scores: Tensor) -> Tensor:
        """(n, N): of each column over the rows of all ranks."""
        return scores.T.log_softmax(dim=1).T if self.size == 1 else _LogSoftmaxDown.apply(scores, self)

    def amax_down(self, scores: Tensor) -> Tensor:
        """(N,): the highest score of each column; equal ones share its gradient, as `torch.amax` has it."""
        return scores.amax(dim=0) if self.size == 1 else _AmaxDown.apply(scores, self)

    def argmax_down(self, scores: Tensor) -> Tensor:
        """(n,): the row, counted over all ranks, that has the highest score of each of this rank's columns."""
        own = self.own(len(scores))
        if self.size == 1:
            return scores.T.argmax(dim=1)
        top = self.highest(scores.amax(dim=0))  # (N,)
        row = torch.arange(own.start, own.stop, device=scores.device)[:, None]
        first = torch.where(scores == top, row, len(top)).amin(dim=0)
        return -self.highest(-first)[own]

    def mean_of_sums_down(self, block: Tensor) -> Tensor:
        """The sums of this rank's columns over the rows of all ranks, and their mean.

        Args:
            block: (n, N).
        """
        return self.total(block.sum(dim=0))[self.own(len(block))].mean()

    # Exchanges without a gradient: for the above, and for autograd functions with a backward pass of their own.

    def gather(self, rows: Tensor) -> Tensor:
        """(n, ...) -> (W n, ...)."""
        return rows

    def sum(self, value: Tensor) -> Tensor:
        """Of the values of all ranks."""
        return value

    def highest(self, value: Tensor) -> Tensor:
        """Of the values of all ranks, entry by entry."""
        return value

    def scatter_sum(self, columns: Tensor) -> Tensor:
        """(W n, ...) of each rank -> this rank's (n, ...) of their sum."""
        return columns

    def pass_on(self, *tensors: Tensor) -> list[Tensor]:
        """Give these to the rank before this one, in a ring; returns those of the rank after it."""
        return list(tensors)


ONE = Ranks()


class ProcessRanks(Ranks):
    """The processes of the default group of torch.distributed."""

    def __init__(self):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def gather(self, rows: Tensor) -> Tensor:
        carried = rows.contiguous()
        if carried.dtype == torch.bool:  # gloo and nccl gather no booleans
            carried = carried.to(torch.uint8)
        gathered = carried.new_empty(self.size * len(carried), *carried.shape[1:])
        dist.all_gather(list(gathered.chunk(self.size)), carried)
        return gathered.to(rows.dtype)

    def sum(self, value: Tensor) -> Tensor:
        return self._reduced(value, dist.ReduceOp.SUM)

    def highest(self, value: Tensor) -> Tensor:
        return self._reduced(value, dist.ReduceOp.MAX)

    def scatter_sum(self, columns: Tensor) -> Tensor:
        count = len(columns) // self.size
        if columns.device.type == "cpu":  # gloo has no reduce-scatter
            return self.sum(columns)[self.own(count)]
        mine = columns.new_empty(count, *columns.shape[1:])
        dist.reduce_scatter(mine, list(columns.contiguous().chunk(self.size)))
        return mine

    def pass_on(self, *tensors: Tensor) -> list[Tensor]:
        before, after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        received = [torch.empty_like(tensor) for tensor in tensors]
        sends = [dist.P2POp(dist.isend, tensor, before) for tensor in tensors]
        exchanges = sends + [dist.P2POp(dist.irecv, tensor, after) for tensor in received]
        for exchange in dist.batch_isend_irecv(exchanges):
            exchange.wait()
        return received

    def _reduced(self, value: Tensor, operation: dist.ReduceOp) -> Tensor:
        reduced = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(reduced, operation)
        return reduced


_acting: ContextVar[Ranks | None] = ContextVar("acting", default=None)


def present_ranks() -> Ranks:
    """Those of the group that this process has joined, or itself alone."""
    acting = _acting.get()
    if acting is not None:
        return acting
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return ProcessRanks() if several else ONE


def acting_as(ranks: Ranks) -> AbstractContextManager[None]:
    """Inside, in this thread, `present_ranks` are these."""
    return holding(_acting, ranks)


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return ctx.ranks.scatter_sum(gradient), None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.own = ranks, ranks.own(len(rows))
        return ranks.gather(rows)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient[ctx.own] * ctx.ranks.size, None  # the sum of equal gradients


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return ctx.ranks.sum(gradient), None


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
