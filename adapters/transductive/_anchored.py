"""StatA's mixture: one Gaussian per class, each with a variance of its own and held near its text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ._mixture import EMPTY, FLOOR, QueryImages, mixture_assignments


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian per class, each with a diagonal covariance of its own.

    Args:
        means: (C, D) unit rows.
        variances: (C, D).
    """

    means: Tensor
    variances: Tensor

    def log_likelihood(self, features: Tensor, centre: Tensor) -> Tensor:
        """(N, C) log densities, up to a number that is the same for all classes.

        Args:
            features: (N, D).
            centre: (D,) near the features and the means: what all have in common would only cost precision.
        """
        centred, means = features - centre, self.means - centre
        scaled = means / self.variances
        log_volumes = self.variances.log().sum(dim=1)  # (C,)
        own = (means * scaled).sum(dim=1) + log_volumes - log_volumes.mean()  # (C,)
        squares = torch.addmm(own, centred.square(), self.variances.reciprocal().T)
        return torch.addmm(squares, centred, scaled.T, beta=-0.5)


@dataclass(frozen=True)
class Anchor:
    """What the text says of each class: where the mixture begins, and what it is held near.

    Args:
        means: (C, D) unit rows of the text.
        variance: (D,) how far images lie from the text of their class, the same for all classes.
    """

    means: Tensor
    variance: Tensor

    @classmethod
    def of(cls, features: Tensor, z: Tensor, text: Tensor) -> Anchor:
        """The variance is the mean of (x - t_c)^2 over all images, each class weighted by its assignment.

        Args:
            features: (Q, D) unit rows.
            z: (Q, C) assignments, rows that sum to 1.
            text: (C, D) unit rows.
        """
        centre = features.mean(dim=0)
        centred, means = features - centre, text - centre
        sums = z.T @ centred / len(z)  # (C, D)
        spread = centred.square().mean(dim=0) - 2 * (means * sums).sum(dim=0) + z.mean(dim=0) @ means.square()
        return cls(text, spread.clamp_min(FLOOR / text.shape[1]))

    @property
    def gaussians(self) -> Gaussians:
        """The mixture to begin with."""
        return Gaussians(self.means, self.variance.expand_as(self.means))

    def with_images(self, features: Tensor, z: Tensor, strength: float, soft_counts: bool) -> tuple[Gaussians, Tensor]:
        """The mixture of the images assigned to each class, the fewer they are the nearer to the anchor.

        A class to which no image is assigned is the anchor, whatever is left of its assignments in float32.

        Args:
            features: (Q, D) unit rows.
            z: (Q, C) assignments, rows that sum to 1.
            strength: alpha; n images weigh n / (alpha + n).
            soft_counts: n is the sum of a class's assignments, else the number of images that are most of all of it.

        Returns:
            the mixture, and (C,) how much the images of each class weigh.
        """
        mass = z.sum(dim=0)  # (C,)
        counts = mass if soft_counts else z.argmax(dim=1).bincount(minlength=z.shape[1]).to(z.dtype)
        held = (counts > 0) & (mass > EMPTY)
        weight = torch.where(held, counts / (strength + counts).clamp_min(EMPTY), 0.0)
        b, share = weight[:, None], mass.clamp_min(EMPTY)[:, None]  # (C, 1)
        centre = features.mean(dim=0)
        centred = features - centre
        sums = z.T @ centred / share  # (C, D)
        means = F.normalize(b * F.normalize(sums + centre, dim=1) + (1 - b) * self.means, dim=1)
        means = torch.where(held[:, None], means, self.means)
        near = means - centre
        spread = (z.T @ centred.square() / share - 2 * near * sums + near.square()).clamp_min(0)  # about the new means
        variances = b * spread + (1 - b) * (self.variance + (self.means - means).square())
        variances = torch.where(held[:, None], variances, self.variance)
        return Gaussians(means, variances.clamp_min(FLOOR / means.shape[1])), weight


@dataclass(frozen=True)
class Settings:
    """How StatA is solved; see the options of `stat-a`."""

    strength: float
    soft_counts: bool
    iterations: int
    inner_iterations: int
    temperature: float


@dataclass(frozen=True)
class Anchored:
    """A solution.

    Args:
        log_assignments: (Q, C) log z, finite where z is 0 in float32.
        gaussians: the mixture.
        weights: (C,) how much the images of each class weighed against the anchor.
    """

    log_assignments: Tensor
    gaussians: Gaussians
    weights: Tensor


def solve_anchored(queries: QueryImages, z: Tensor, anchor: Anchor, settings: Settings) -> Anchored:
    """`iterations` times assignments, then the mixture; at the end assignments once more.

    Args:
        queries: what is classified.
        z: (Q, C) assignments to start from.
        anchor: what the text says.
    """
    gaussians, weights, centre = anchor.gaussians, z.new_zeros(z.shape[1]), queries.features.mean(dim=0)

    def assigned(z: Tensor, gaussians: Gaussians) -> Tensor:
        likelihood = gaussians.log_likelihood(queries.features, centre)
        return mixture_assignments(queries, likelihood, z, settings.inner_iterations, settings.temperature)

    for _ in range(settings.iterations):
        z = assigned(z, gaussians).exp()
        gaussians, weights = anchor.with_images(queries.features, z, settings.strength, settings.soft_counts)
    return Anchored(assigned(z, gaussians), gaussians, weights)
