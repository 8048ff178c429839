"""ZLaP: labels are propagated from the texts over a graph of the images' nearest neighbours.

Take it without labels where all images to be classified are at hand and all classes occur among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport, option
from ...core.data import nearest_rows
from ._propagation import normalised_graph, propagated
from ._together import SAME, TOGETHER, check_together

TOLERANCE = 1e-6
TRANSDUCTIVE, INDUCTIVE, SPARSE = SETUPS = ("transductive", "inductive", "sparse-inductive")


@dataclass(eq=False, kw_only=True)
class Zlap(Adapter):
    """Label Propagation for Zero-shot Classification with Vision-Language Models (Stojnic, Kalantidis and Tolias, 2024,
    arXiv 2404.04072).

    The nodes of a graph are the C class texts and the Q unlabelled images. Each image has edges to its k nearest
    images, itself among them, and to its k nearest texts:

        image to image   max(cosine, 0)
        image to text    max(cosine, 0)^gamma, as cosines of images with texts lie closer together

    With E the matrix of these weights, A = E + E^T without its diagonal and D its sums of rows, the scores of all
    unlabelled images are the rows of the images in the first C columns of

        P = (I - alpha D^-1/2 A D^-1/2)^-1

    Any other image (and with `setup="inductive"` every image) gets y P, where y holds the weights of the edges that it
    would have: to its k nearest unlabelled images and its k nearest texts. With `setup="sparse-inductive"` a row of P
    keeps only its largest number. So no answer depends on the batch. P is (C + Q, C) and all that prediction needs
    besides the features; it is found by conjugate gradients. Neither (Q, Q) nor (Q, C, D) numbers are ever held.

    No label is used and nothing is tuned. The method assumes that images of a class lie near each other and that all
    the classes occur among the unlabelled images. Logits are the logarithms of the paper's scores: a softmax gives each
    class its share of them.

    Where it differs from the released code: with `scale_similarities` the weights of other images, which as released
    are clipped at 0 and then scaled, are not below 0 either (released: one below the graph's smallest is negative).

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no unlabelled images, or of another width; several labels per image.

    Example:
        >>> adapter = build_adapter("zlap")
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels())
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    assumes: ClassVar[str] = "every class occurs, about equally often"
    differs: ClassVar[str] = (
        "with `scale_similarities` weights of images outside the graph are never negative (released: negative if a "
        "cosine is below the smallest of the graph); logits are the logarithms of the released scores"
    )
    needs: ClassVar[frozenset[str]] = TOGETHER
    transductive: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("text", "queries", "propagated", "lowest", "highest")

    n_neighbors: int = option(5, "k, nearest images and nearest texts that an image has edges to", low=1, high=100_000)
    gamma: float = option(5.0, "power of the cosines of images with texts", above=0, high=100)
    alpha: float = option(0.3, "how far labels spread along edges", low=0, below=1)
    scale_similarities: bool = option(
        False, "first scale the graph's cosines to the range from 0 to 1, as for InMaP's classifiers"
    )
    setup: str = option(
        TRANSDUCTIVE,
        "transductive, or each image by its own edges; sparse: nodes give only their largest score",
        choices=SETUPS,
    )
    iterations: int = option(50, "limit on the steps of the solver", low=1, high=100_000)

    _check_support = check_together

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.queries = classifier.weights, unlabeled.unit
        classes, device = len(self.text), self.queries.device
        cosines, index = self._neighbours(self.queries)
        self.lowest, self.highest = 0.0, 1.0
        if self.scale_similarities:
            self.lowest, self.highest = map(float, torch.cat([each.flatten() for each in cosines]).aminmax())
        nodes = classes + torch.arange(len(self.queries), device=device)
        columns = torch.cat([index[0] + classes, index[1]], dim=1)  # (Q, k images + k texts)
        graph = normalised_graph(
            nodes[:, None].expand_as(columns).flatten(),
            columns.flatten(),
            self._weights(cosines).flatten(),
            classes + len(self.queries),
        )
        self.propagated = propagated(graph, classes, self.alpha, self.iterations, TOLERANCE)
        moved = self.propagated[classes:].argmax(dim=1) != classifier.logits(self.queries).argmax(dim=1)
        note = f"{len(self.queries)} unlabelled images in one graph; {int(moved.sum())} left the class their texts gave"
        return FitReport(self.name, notes=[note])

    def _logits(self, batch: Batch) -> Tensor:
        return self.scores(batch.unit).clamp_min(torch.finfo(torch.float32).tiny).log()

    def scores(self, unit: Tensor) -> Tensor:
        """(B, C) scores, not below 0.

        Args:
            unit: (B, D) unit rows.
        """
        classes = len(self.text)
        cosines, index = self._neighbours(unit)
        columns = torch.cat([index[0] + classes, index[1]], dim=1)
        weights = self._weights([each.clamp_min(0) for each in cosines])
        if self.setup == SPARSE:
            largest, best = self.propagated[columns].max(dim=2)  # (B, k images + k texts)
            return unit.new_zeros(len(unit), classes).scatter_add_(1, best, weights * largest)
        scores = F.embedding_bag(columns, self.propagated, mode="sum", per_sample_weights=weights)
        if self.setup == INDUCTIVE:
            return scores
        nearest_image = index[0][:, 0]
        known = (self.queries[nearest_image] - unit).abs().amax(dim=1) <= SAME
        return torch.where(known[:, None], self.propagated[classes + nearest_image], scores)

    def _neighbours(self, unit: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Cosines, and indices, of the nearest unlabelled images and of the nearest texts."""
        found = [nearest_rows(unit, keys, self.n_neighbors) for keys in (self.queries, self.text)]
        return tuple(zip(*found))

    def _weights(self, cosines: Sequence[Tensor]) -> Tensor:
        """(B, k images + k texts) weights of edges."""
        extent = self.highest - self.lowest or 1.0
        images, texts = (((each - self.lowest) / extent).clamp_min(0) for each in cosines)
        return torch.cat([images, texts**self.gamma], dim=1)
