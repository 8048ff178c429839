"""TransCLIP's block updates: assignments pulled by text, by a Gaussian mixture and by neighbours, then the mixture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ._neighbours import Links

EMPTY = 1e-30  # a class of less mass keeps its mean
FLOOR = 1e-7  # least variance, as a share of 1/D, the variance to begin with


@dataclass(frozen=True)
class GaussianMixture:
    """One Gaussian per class, all with one diagonal covariance.

    Args:
        means: (C, D) unit rows.
        variance: (D,).
    """

    means: Tensor
    variance: Tensor

    def log_likelihood(self, centred: Tensor, centre: Tensor) -> Tensor:
        """(N, C) log densities, up to a number that is the same for all classes.

        Args:
            centred: (N, D) features minus `centre`: the common part of all features would only cost precision.
            centre: (D,).
        """
        means = self.means - centre
        scaled = means / self.variance
        return torch.addmm(-0.5 * (means * scaled).sum(dim=1), centred, scaled.T)


@dataclass(frozen=True)
class QueryImages:
    """The images that are classified together.

    Args:
        features: (Q, D) unit rows.
        pull: (Q, C) what is added to log z and stays: lambda times the log of the text's predictions, and the labels of
            support neighbours.
        links: (Q, Q) weights of neighbours.
    """

    features: Tensor
    pull: Tensor
    links: Links


@dataclass(frozen=True)
class ShotImages:
    """Labelled images, whose assignments stay.

    Args:
        features: (S, D) unit rows.
        labels: (S, C) one-hot.
        weight: of their mean over S, beside that of the mean over queries, 1.
    """

    features: Tensor
    labels: Tensor
    weight: float


@dataclass(frozen=True)
class Solution:
    """Where the updates stand.

    Args:
        assignments: (Q, C) z, rows that sum to 1.
        mixture: the Gaussians.
        log_assignments: (Q, C) log z, finite where z is 0 in float32; None before the first update.
    """

    assignments: Tensor
    mixture: GaussianMixture
    log_assignments: Tensor | None = None


def first_mixture(features: Tensor, logits: Tensor, count: int, shots: ShotImages | None = None) -> GaussianMixture:
    """Means to begin with, and variance 1/D.

    A mean is the normalised sum of the class's shots, or without shots that of the `count` images the text is surest
    of, weighted with the text's prediction.

    Args:
        features: (Q, D) unit rows.
        logits: (Q, C) of the text.
    """
    top = _log_odds(logits).topk(min(count, len(logits)), dim=0).indices  # (M, C)
    weights = logits.log_softmax(dim=1).gather(0, top).softmax(dim=0)  # (M, C), also where no image has a text's class
    means = F.normalize((weights[:, :, None] * features[top]).sum(dim=0), dim=1)  # (C, D)
    if shots is not None:
        seen = shots.labels.sum(dim=0) > 0  # (C,)
        means = torch.where(seen[:, None], F.normalize(shots.labels.T @ shots.features, dim=1), means)
    return GaussianMixture(means, features.new_full((features.shape[1],), 1 / features.shape[1]))


def _log_odds(logits: Tensor) -> Tensor:
    """(Q, C) log(p / (1 - p)): ranks as p does, also where many p are 1 in float32."""
    log_p = logits.log_softmax(dim=1)
    odds = log_p - torch.log1p(-log_p.exp().clamp_max(0.75))  # only the largest p may be above 1/2
    top = logits.argmax(dim=1, keepdim=True)
    rest = logits.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    return odds.scatter(1, top, logits.gather(1, top) - rest)


def solve(
    queries: QueryImages,
    start: Solution,
    shots: ShotImages | None,
    *,
    iterations: int,
    inner_iterations: int,
    temperature: float,
) -> Solution:
    """`iterations` times assignments, then means, then variance; at the end assignments once more.

    Args:
        queries: what is classified.
        start: assignments and mixture to go on from.
        shots: labelled images, or None.
        inner_iterations: updates of assignments a time, each with the neighbours' assignments before it.
        temperature: what the log-likelihood is divided by.
    """
    sums = _Sums(queries.features, shots)
    z, mixture = start.assignments, start.mixture

    def assigned(z: Tensor, mixture: GaussianMixture) -> Tensor:
        return mixture_assignments(
            queries, mixture.log_likelihood(sums.centred, sums.centre), z, inner_iterations, temperature
        )

    for _ in range(iterations):
        z = assigned(z, mixture).exp()
        mixture = sums.mixture(z, mixture)
    log_z = assigned(z, mixture)
    return Solution(log_z.exp(), mixture, log_z)


def mixture_assignments(
    queries: QueryImages, log_likelihood: Tensor, z: Tensor, steps: int, temperature: float
) -> Tensor:
    """(Q, C) log z after some updates: the pull of text and support, the likelihood, and what the neighbours are.

    Args:
        log_likelihood: (Q, C), changed in place.
        z: (Q, C) to go on from.
        steps: updates, each with the neighbours' assignments before it.
        temperature: what the log-likelihood is divided by.
    """
    fixed = log_likelihood.div_(temperature).add_(queries.pull)
    for _ in range(steps - 1):
        z = queries.links.spread(z).add_(fixed).softmax(dim=1)
    return queries.links.spread(z).add_(fixed).log_softmax(dim=1)


class _Sums:
    """The mixture's weighted sums over queries and shots, from (Q, C) x (Q, D) products alone.

    sum_k sum_i z_ik (x_i - m_k)^2 = sum_i x_i^2 - 2 sum_k m_k sum_i z_ik x_i + sum_k m_k^2 sum_i z_ik, since rows of z
    sum to 1. All is taken about the mean of the queries, or float32 would lose small variances.
    """

    def __init__(self, features: Tensor, shots: ShotImages | None):
        self.centre = features.mean(dim=0)  # (D,)
        self.centred = features - self.centre  # (Q, D)
        self.squares = self.centred.square().mean(dim=0)  # (D,)
        self.total, self.shot_mass, self.shot_sums = 1.0, 0.0, 0.0
        if shots is not None:
            centred, share = shots.features - self.centre, shots.weight / len(shots.features)
            self.total += shots.weight
            self.shot_mass = share * shots.labels.sum(dim=0)  # (C,)
            self.shot_sums = share * (shots.labels.T @ centred)  # (C, D)
            self.squares = self.squares + share * centred.square().sum(dim=0)

    def mixture(self, z: Tensor, before: GaussianMixture) -> GaussianMixture:
        mass = z.mean(dim=0) + self.shot_mass  # (C,)
        sums = z.T @ self.centred / len(z) + self.shot_sums  # (C, D)
        means = F.normalize(sums / mass.clamp_min(EMPTY)[:, None] + self.centre, dim=1)
        means = torch.where((mass > EMPTY)[:, None], means, before.means)
        return GaussianMixture(means, self._variance(mass.double(), sums.double(), (means - self.centre).double()))

    def _variance(self, mass: Tensor, sums: Tensor, means: Tensor) -> Tensor:
        spread = self.squares - 2 * (means * sums).sum(dim=0) + (mass[:, None] * means.square()).sum(dim=0)  # (D,)
        return (spread / self.total).clamp_min(FLOOR / len(spread)).float()
