"""BoT: the strong baseline of re-identification, for any image tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, Loss, option
from ....core.errors import CapabilityError

EPS = 1e-5
"""Of the neck, as `nn.BatchNorm1d` has it."""
LEAST = 1e-12
"""Squared distances are not smaller, so that their root has a gradient."""


@dataclass(eq=False, repr=False, kw_only=True)
class Bot(Loss):
    """An identity classifier after BNNeck, and before it a triplet loss with hard mining and a centre per person.

    "Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (Luo et al. 2019, arXiv 1903.07071).
    The tower's features, not normalised, are pulled by the triplet loss of "In Defense of the
    Triplet Loss for Person Re-Identification" (Hermans et al. 2017, arXiv 1703.07737), which compares the farthest
    picture of the same person in the batch with the nearest of another, and to the centre of their person ("A
    Discriminative Feature Learning Approach for Deep Face Recognition", Wen et al., ECCV 2016). After a batch
    normalisation without bias, a linear layer without bias classifies the person, with label smoothing. Pictures are
    compared by the features after the normalisation. The text tower is not trained.

    Centres take gradient steps of their own, at the rate `center_rate`, as if the weight of their loss were 1.

    Batches must have several pictures of each person (`domains/person/samplers.py`).

    Raises:
        CapabilityError: dims lacks embed_dim or num_labels.

    Example:
        >>> import torch, vladapt
        >>> loss = vladapt.build_loss("bot", {"embed_dim": 4, "num_labels": 3})
        >>> out = {"image_embedding": torch.eye(4), "labels": torch.tensor([0, 0, 1, 2])}
        >>> sorted(loss(out))
        ['center', 'identity', 'loss', 'triplet']
    """

    differs: ClassVar[str] = (
        "the last stride of a ResNet stays as it is unless the task's `last_stride=1` sets the released one, and the "
        "tower's own batch normalisations keep their statistics. No fixture: checked against a literal transcription "
        "of the code and of two steps of its training"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding", "labels"})
    frozen_towers: ClassVar[frozenset[str]] = frozenset({"text"})
    finds: ClassVar[bool] = True

    margin: float | None = option(0.3, "margin of the triplet loss; none: a soft margin", low=0, high=1000)
    smoothing: float = option(0.1, "share of the target spread over all identities (label smoothing)", low=0, below=1)
    identity_weight: float = option(1.0, "weight of the identity loss", low=0, high=10_000)
    triplet_weight: float = option(1.0, "weight of the triplet loss; 0 leaves it out", low=0, high=10_000)
    center_weight: float = option(5e-4, "weight of the centre loss; 0 leaves it out", low=0, high=10_000)
    center_rate: float = option(0.5, "learning rate of the centres", low=0, high=100)
    momentum: float = option(0.1, "momentum of the neck's running statistics, the share of the batch", above=0, high=1)

    def __post_init__(self):
        super().__post_init__()
        width, people = self.dim("embed_dim", "its neck"), self.dim("num_labels", "its classifier of identities")
        self.neck = BNNeck(width, self.momentum)
        self.classifier = nn.Linear(width, people, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.register_buffer("centers", torch.randn(people, width))
        self._noted: tuple[Tensor, ...] | None = None

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        features, labels = out["image_embedding"], out["labels"]
        normed, mean, variance = self.neck.of_batch(features)
        parts = {
            "identity": F.cross_entropy(self.classifier(normed), labels, label_smoothing=self.smoothing),
            "triplet": hard_triplets(features, labels, self.margin),
            "center": squared_distance(features, self.centers[labels]).mean(),
        }
        self._noted = features.detach(), labels, mean.detach(), variance.detach()
        weights = (self.identity_weight, self.triplet_weight, self.center_weight)
        return {"loss": sum(weight * part for weight, part in zip(weights, parts.values())), **parts}

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """The neck's statistics, and a step of the centres down the mean squared distance to them."""
        if self._noted is None:
            return
        features, labels, mean, variance = self._noted
        self.neck.follow(mean, variance, len(features))
        step = 2 * self.center_rate / len(features)
        self.centers.index_add_(0, labels, step * (features - self.centers[labels]).to(self.centers))
        self._noted = None

    @property
    def found_dim(self) -> int:
        """Width of what pictures are compared by."""
        return self.dim("embed_dim", "its neck")

    def embed_image(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, D) unit: features behind the neck, by the statistics that it has kept."""
        return F.normalize(self.neck(backbone.encode_image(pixels, normalize=False)), dim=1)

    def embed_text(self, backbone: Backbone, tokens: Tensor) -> Tensor:
        """Nothing: behind the neck there are no texts.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError(
            "these towers were trained to find people by pictures, not by words (loss 'bot'); search with --image, or "
            "train with --task person-search"
        )

    def held_parameters(self) -> list[nn.Parameter]:
        return list(self.neck.parameters())


class BNNeck(nn.Module):
    """A batch normalisation without bias between what triplets compare and what names identities.

    `forward` takes features (N, D), not brought to length 1, by the statistics that training has kept.

    Args:
        width: D.
        momentum: share of a batch in the statistics that are kept.
    """

    def __init__(self, width: int, momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) as they are compared."""
        return F.batch_norm(features, self.mean, self.variance, self.weight, None, False, 0.0, EPS)

    def of_batch(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) by the batch's own statistics, and these: mean (D,) and biased variance (D,). Keeps nothing."""
        mean, variance = features.mean(dim=0), features.var(dim=0, unbiased=False)
        return (features - mean) * (variance + EPS).rsqrt() * self.weight, mean, variance

    def follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Keep a share of a batch's statistics; the variance that is kept is unbiased, as in `nn.BatchNorm1d`."""
        self.mean.lerp_(mean.to(self.mean), self.momentum)
        self.variance.lerp_((variance * count / max(1, count - 1)).to(self.variance), self.momentum)


def squared_distance(left: Tensor, right: Tensor) -> Tensor:
    """(N,) of rows (N, D), as the released code bounds it."""
    return (left - right).square().sum(dim=1).clamp(LEAST, 1 / LEAST)


def hard_triplets(features: Tensor, labels: Tensor, margin: float | None) -> Tensor:
    """The mean over the batch of max(0, margin + farthest of the same person - nearest of another).

    Args:
        features: (N, D); distances are Euclidean.
        labels: (N,).
        margin: None for log(1 + exp(farthest - nearest)).

    Returns:
        A scalar; 0 where the batch holds one person only.
    """
    squares = features.square().sum(dim=1)
    squared = squares[:, None] + squares - 2 * features @ features.T
    distance = squared.clamp(min=LEAST).sqrt()  # (N, N)
    same = labels[:, None] == labels
    farthest = distance.masked_fill(~same, -torch.inf).max(dim=1).values
    nearest = distance.masked_fill(same, torch.inf).min(dim=1).values
    if margin is None:
        return F.softplus(farthest - nearest).mean()
    return (margin + farthest - nearest).relu().mean()
