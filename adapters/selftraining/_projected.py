"""ReCLIP's label propagation: texts and images in the space of the differences between classes, and their graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.data import nearest_rows
from ..transductive._propagation import normalised_graph, propagated

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Spread:
    """What came of one propagation.

    Args:
        scores: (C + N, C) of the texts, then of the images.
        labels: (N,) the class of the largest score of each image.
        centroids: (C, D) unit means of the original features of all nodes of a class, its text where it has none.
    """

    scores: Tensor
    labels: Tensor
    centroids: Tensor


@dataclass(frozen=True)
class Propagation:
    """How labels spread; see the options of `reclip`."""

    n_neighbors: int
    alpha: float
    iterations: int

    def __call__(self, text: Tensor, features: Tensor, projection: Tensor) -> Spread:
        """Spread the classes of the texts over a graph of texts and images.

        Args:
            text: (C, D) unit rows.
            features: (N, D) unit rows.
            projection: (D, D).
        """
        classes = len(text)
        nodes = torch.cat([text, features])  # (C + N, D)
        places = F.normalize(nodes @ projection, dim=1)
        cosines, columns = nearest_rows(places, places, self.n_neighbors, skip_self=True)
        rows = torch.arange(len(nodes), device=nodes.device)[:, None].expand_as(columns)
        weights = (cosines + 1).clamp_min(0) / 2
        graph = normalised_graph(rows.flatten(), columns.flatten(), weights.flatten(), len(nodes))
        scores = propagated(graph, classes, self.alpha, self.iterations, TOLERANCE)
        labels = scores.argmax(dim=1)
        return Spread(scores, labels[classes:], prototypes(nodes, labels, text))


def projection_of(text: Tensor, cut: int) -> Tensor:
    """(D, D) onto the span of the left singular vectors 1 to `cut` - 1 of the (D, C) texts: the direction that all
    classes have most in common, number 0, is left out.

    Args:
        text: (C, D) unit rows.
    """
    basis = torch.linalg.svd(text.T.double(), full_matrices=False).U[:, 1:cut]
    return (basis @ basis.T).to(text.dtype)


def prototypes(features: Tensor, labels: Tensor, text: Tensor) -> Tensor:
    """(C, D) unit means of the images of each label; a class without images has its text.

    Args:
        features: (N, D). labels: (N,). text: (C, D).
    """
    sums = torch.zeros_like(text).index_add_(0, labels, features)
    held = labels.bincount(minlength=len(text)) > 0
    return F.normalize(torch.where(held[:, None], sums, text), dim=1)
