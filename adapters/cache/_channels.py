"""APE's criterion in closed form: which channels of the shared space tell classes apart (arXiv 2304.01195)."""

from __future__ import annotations

from torch import Tensor

from ...core.contracts.adapter import require


def select_channels(criterion: Tensor, top_q: int) -> Tensor:
    """(Q,) int64 indices of the channels of largest criterion, the largest first."""
    require(1 <= top_q <= len(criterion), "top_q", top_q, f"give 1 to {len(criterion)}, the width of the features")
    return criterion.topk(top_q).indices


def channel_criterion(text: Tensor, w: tuple[float, float], keys: Tensor | None = None, values: Tensor | None = None):
    """-w[0] * inter-class similarity + w[1] * inter-class variance of each channel.

    Args:
        text: (C, D) class weights.
        w: how much similarity and variance count.
        keys: (N, D) image features, or None for text alone.
        values: (N, C) one-hot classes of the keys.

    Returns:
        (D,) float64.
    """
    similarity = channel_similarity(text, keys, values)
    return -w[0] * similarity + w[1] * text.double().var(dim=0)


def channel_similarity(text: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
    """Mean over ordered pairs of classes and over their samples (text and keys) of the products of a channel.

    The paper's sum over pairs of samples factors: with s_i the mean of class i's samples, it is
    ((sum_i s_i)^2 - sum_i s_i^2) / (C (C - 1)). That holds for unequal shots too.

    Returns:
        (D,) float64.
    """
    means = text.double()  # (C, D)
    if keys is not None:
        shots = values.double().sum(dim=0)[:, None]
        means = (means + values.double().T @ keys.double()) / (shots + 1)
    pairs = len(text) * (len(text) - 1)
    return (means.sum(dim=0).square() - means.square().sum(dim=0)) / pairs
