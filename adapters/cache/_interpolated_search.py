"""The grid search of a large cache of keys of one class each, by accuracy: few betas are computed, no alpha is tried.

Class sums are smooth in beta, so they are computed at a dozen Chebyshev nodes and interpolated to the other betas, to
`TOLERANCE` of what each image's nearest key adds; and the alphas that make an image right are an interval, whose ends
are found without trying each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TOLERANCE, MOST_NODES = 1e-6, 256  # of interpolated sums
BETAS_AT_ONCE = 8


def sweep_interpolated(
    sums, queries: Tensor, labels: Tensor, zero_shot: Tensor, betas, alphas, weights: Tensor | None
) -> np.ndarray:
    """(B, A, G) accuracies of a large cache.

    With z zero-shot logits, k class sums and t the true class, an image is right where (z_c - z_t) / alpha < k_t - k_c
    for each other class c: 1 / alpha lies above the largest quotient of k_t - k_c and z_c - z_t of classes behind by
    zero-shot, and below the smallest of those ahead. Sums are relative to what the nearest key adds.

    Args:
        sums: `ClassSums` of the cache.
        queries: (V, D), of `labels` (V,) with (V, C) `zero_shot` logits; each counts as `weights` (V,) says.
    """
    right = torch.zeros(len(betas), len(alphas), sums.num_gammas, dtype=torch.double, device=queries.device)
    smallest, largest = torch.finfo(zero_shot.dtype).tiny, torch.finfo(zero_shot.dtype).max
    inverse = 1 / torch.tensor(alphas, dtype=zero_shot.dtype, device=queries.device).clamp(min=smallest)  # (A,)
    of_beta = torch.tensor(betas, dtype=zero_shot.dtype, device=queries.device)
    classes = torch.arange(sums.num_classes, device=queries.device)[:, None]  # (C, 1)
    for rows in torch.arange(len(queries), device=queries.device).split(sums.rows_in_cache()):
        affinity, truth, base = sums.affinity(queries[rows]), labels[rows][None], zero_shot[rows].T  # (S, V), (1, V)
        nearest = affinity.amax(dim=0)  # (V,)
        affinity -= nearest
        nodes, mixture = chebyshev(betas, -float(affinity.min()))  # (M,), (B, M)
        buffer = torch.empty_like(affinity)
        cache = torch.stack([sums.at(affinity, node, buffer) for node in nodes])  # (M, C, G, V)
        lead = cache.gather(1, truth[None, :, None].expand(len(cache), 1, *cache.shape[2:])) - cache
        ahead = base - base.gather(0, truth)  # (C, V)
        ahead[(ahead == 0) & (classes < truth)] = smallest  # of equal logits the first class is taken
        is_ahead = (ahead > 0)[:, None]  # (C, 1, V)
        factor = (-1 / ahead.abs().clamp(min=smallest))[:, None]
        below, above = factor.masked_fill(is_ahead, 0), -factor.masked_fill(~is_ahead, 0)
        none = torch.zeros_like(above).masked_fill(~is_ahead, torch.inf)
        start = 0
        for some in torch.from_numpy(mixture).to(lead).split(BETAS_AT_ONCE):
            leads = (some @ lead.flatten(1)).view(-1, *lead.shape[1:])  # (b, C, G, V)
            upper = torch.addcmul(none, leads, above).amin(dim=1)  # (b, G, V)
            lower = leads.mul_(below).amax(dim=1)
            end = start + len(some)
            relative = inverse[:, None, None, None] * torch.exp(-of_beta[start:end, None] * nearest)[:, None]
            relative.clamp_(max=largest)  # of an alpha of 0
            each = ((relative > lower) & (relative < upper)).double()  # (A, b, G, V)
            counts = each.sum(dim=-1) if weights is None else each @ weights[rows]  # (A, b, G)
            right[start:end] += counts.transpose(0, 1)
            start = end
    return right.cpu().numpy() / len(queries)


def chebyshev(points: Sequence[float], spread: float) -> tuple[list[float], np.ndarray]:
    """Nodes between the ends of some points, and by what mixture of values there exp(-s x) is told at the points.

    Args:
        points: B numbers of 0 or more.
        spread: the largest s.

    Returns:
        M nodes and (B, M) float64; for each s from 0 to `spread` the mixture errs by `TOLERANCE` at most. The Chebyshev
        coefficients of exp(-s x) are 2 I_k(s r) exp(-s m), with r half the range and m >= r its middle; interpolation
        at M nodes errs by twice those from M on (Trefethen, Approximation Theory and Approximation Practice, 2013).
    """
    from scipy.special import ive

    low, high = min(points), max(points)
    half, middle = (high - low) / 2, (high + low) / 2
    orders = np.arange(MOST_NODES)
    tails = 4 * ive(orders[:, None], half * np.linspace(0, spread, 16)).max(axis=1)[::-1].cumsum()[::-1]
    count = int(np.argmax(tails <= TOLERANCE)) if tails[-1] <= TOLERANCE else MOST_NODES
    angles = (np.arange(count) + 0.5) * np.pi / count
    place = np.arccos(np.clip((np.asarray(points) - middle) / (half or 1.0), -1, 1))  # (B,)
    harmonics = np.arange(1, count)
    mixture = (1 + 2 * np.cos(np.outer(place, harmonics)) @ np.cos(np.outer(harmonics, angles))) / count
    return (middle + half * np.cos(angles)).tolist(), mixture
