"""MTA: the mode of an image's views in feature space, where views that agree weigh more.

Take it without labels, for single images of which crops agree; nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import option
from ._bags import ScoredInViews

SETTLED = 1e-6
"""Norm of a change below which an inner loop ends."""


@dataclass(eq=False, kw_only=True)
class Mta(ScoredInViews):
    """On the Test-Time Zero-Shot Generalization of Vision-Language Models: Do We Really Need Prompt Learning?
    (Zanella and Ben Ayed, 2024, arXiv 2405.02266).

    Each image gets V = 64 views f_p: itself, and 63 random crops, flipped at random. With A_pq = P_p.P_q the affinity
    of their predictions P = softmax(text logits) and h_p^2 half the mean of the squared distances of a view to the 30 %
    of the others nearest to it, the mode m (first the image itself) and the inlierness y of the views (first 1 / V) are
    found in turn, five times:

        K_p = exp(-|f_p - m|^2 / 2 h_p^2)
        y   = softmax((K + lambda_q A y) / lambda_y)        up to five times, until it stands still
        m   = unit(sum_p K_p y_p f_p), K anew               up to five times, until it stands still

    The mode is then classified by the texts. Nothing is learned, and no image depends on another.

    Where it differs from the released code: a view has at least one neighbour, so that fewer than 5 views work (there
    the result is NaN); crops are resized bicubically.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: several labels per image, or, at prediction, a batch without decoded images.

    Example:
        >>> adapter = build_adapter("mta", n_views=8)
        >>> report = adapter.fit(None, classifier, backbone=backbone)
        >>> adapter.logits(Batch(images=images)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "a view has at least one neighbour (released: not a number with fewer than 5 views); crops are resized "
        "bicubically (released: bilinear)"
    )

    lambda_y: float = option(0.2, "temperature of the inlierness of the views", above=0)
    lambda_q: float = option(4.0, "weight of the agreement of the views' predictions", low=0)
    neighbors: float = option(0.3, "share of the other views that a view's bandwidth is taken from", above=0, high=1)
    iterations: int = option(5, "rounds, and the limit on the steps of both their loops", low=1, high=10_000)

    def scored(self, bag: Tensor) -> Tensor:
        return self._scores(self.mode(bag)[0][None])[0]

    def mode(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The mode (D,) of the views (V, D), and their inlierness (V,)."""
        views, count = bag, len(bag)
        nearest = max(1, int(self.neighbors * (count - 1)))
        distances = torch.cdist(views, views, compute_mode="donot_use_mm_for_euclid_dist")
        squares = distances.sort(dim=1).values[:, 1 : nearest + 1].square()
        bandwidths = (0.5 * squares.mean(dim=1)).clamp_min(torch.finfo(views.dtype).tiny)  # (V,) h^2
        predicted = self._scores(views).softmax(dim=1)
        affinity = predicted @ predicted.T
        inlierness, mode = views.new_full((count,), 1 / count), views[0]
        for _ in range(self.iterations):
            density = _density(views, mode, bandwidths)
            for _ in range(self.iterations):
                before = inlierness
                inlierness = ((density + self.lambda_q * affinity @ before) / self.lambda_y).softmax(dim=0)
                if (inlierness - before).norm() < SETTLED:
                    break
            for _ in range(self.iterations):
                before = mode
                mode = F.normalize((_density(views, before, bandwidths) * inlierness) @ views, dim=0)
                if (mode - before).norm() < SETTLED:
                    break
        return mode, inlierness


def _density(views: Tensor, mode: Tensor, bandwidths: Tensor) -> Tensor:
    """(V,) Gaussian kernel of the distances to the mode."""
    return (-(views - mode).square().sum(dim=1) / (2 * bandwidths)).exp()
