"""The part of features that lies in the batch's first principal components, with a gradient that stays finite."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def primary_components(features: Tensor, count: int) -> Tensor:
    """Features (N, D) as their `count` first principal components about the mean of the batch give them back, (N, D).

    With at most `count` components in all, as in a batch of up to count + 1 rows, they come back as they are.

    The gradient is that of the projection onto the components, which depends on gaps between the components that are
    kept and those that are not; equal ones among the kept, where the gradient of a singular value decomposition is
    infinite, do no harm. Where a kept and a dropped one are equal the projection is not defined, and counts as fixed.
    """
    rows, width = features.shape
    if count >= min(rows - 1, width):
        return features
    mean = features.mean(dim=0)
    return mean + _Projected.apply(features - mean, count)


class _Projected(torch.autograd.Function):
    """Y = X P, with P the projection onto the first eigenvectors of X^T X, found in float64: it squares X."""

    @staticmethod
    def forward(ctx, centred: Tensor, count: int) -> Tensor:
        exact = centred.double()
        sizes, vectors = torch.linalg.eigh(exact.T @ exact)  # (D,) ascending, (D, D)
        sizes, vectors = sizes.flip(0), vectors.flip(1)
        ctx.count = count
        ctx.save_for_backward(centred, vectors, sizes)
        return (exact @ vectors[:, :count] @ vectors[:, :count].T).to(centred.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        given, vectors, sizes = ctx.saved_tensors
        centred, exact = given.double(), gradient.double()
        kept, dropped = vectors[:, : ctx.count], vectors[:, ctx.count :]  # (D, K), (D, R)
        on_kept, on_dropped = centred @ kept, centred @ dropped  # (N, K), (N, R)
        mixed = on_kept.T @ (exact @ dropped) + (exact @ kept).T @ on_dropped  # (K, R)
        mixed = mixed * _inverse_gaps(sizes, ctx.count)
        turned = on_kept @ mixed @ dropped.T + on_dropped @ mixed.T @ kept.T  # (N, D)
        return (exact @ kept @ kept.T + turned).to(gradient.dtype), None


def _inverse_gaps(sizes: Tensor, count: int) -> Tensor:
    """1 / (kept - dropped) of all pairs (K, R); towards 0 where they are equal within rounding."""
    gaps = sizes[:count, None] - sizes[None, count:]
    blur = torch.finfo(sizes.dtype).eps * sizes[0]
    return gaps / (gaps.square() + blur.square()).clamp(min=torch.finfo(sizes.dtype).tiny)
