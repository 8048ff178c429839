"""ABMIL: a bag is the mean of its instances, weighted by an attention that is learned.

Take it first for slides and other bags with one label each: attention finds the few instances that decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import option
from ...core.training import GatedAttention
from ._bag_head import BagHead, Criterion, speaking_parts, weighted_sum

CLAMP = 1e-5
"""Probabilities lie as far from 0 and 1 in the loss of two classes."""


class AttentionBag(nn.Module):
    """(T, D) -> (C,): logits of the attention-weighted mean of the instances.

    Args:
        embed: width of a layer with ReLU before it, 0 for none.
        hidden, gated: of the attention.
        outputs: 1 for two classes, whose first has logit 0.
    """

    def __init__(self, width: int, embed: int, hidden: int, gated: bool, outputs: int):
        super().__init__()
        self.embed = nn.Linear(width, embed) if embed else None
        self.attention = GatedAttention(embed or width, hidden, gated=gated)
        self.classifier = nn.Linear(embed or width, outputs)

    def read(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention (1, T) with a sum of 1, the mean of the instances by it (1, W), and these (T, W)."""
        instances = bag if self.embed is None else F.relu(self.embed(bag))
        return (*weighted_sum(self.attention(instances), instances), instances)

    def forward(self, bag: Tensor) -> Tensor:
        return self.of_classes(self.classifier(self.read(bag)[1][0]))

    @staticmethod
    def of_classes(made: Tensor) -> Tensor:
        """Of one output for two classes, (1, ...), both, the first 0; others as they are."""
        return torch.cat([torch.zeros_like(made), made]) if len(made) == 1 else made


@dataclass(eq=False, kw_only=True)
class Abmil(BagHead):
    """Attention-based Deep Multiple Instance Learning (Ilse, Tomczak and Welling, 2018, arXiv 1802.04712).

    z = sum_k a_k h_k with a = softmax_k w^T (tanh(V h_k) * sigmoid(U h_k)) (`gated`; else w^T tanh(V h_k)), then a
    linear layer. Instances h_k are the parts of a sample (tiles of a slide, slices of a volume, frames of a clip)
    behind a layer of `embed` units with ReLU, the last of the authors' extractor. Two classes have one output and the
    Bernoulli likelihood, its probability clamped to [1e-5, 1 - 1e-5]; more have a softmax, several labels an output
    each. Adam, one bag a step, 20 epochs.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: samples without parts.

    Example:
        >>> adapter = build_adapter("abmil", epochs=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    multilabel: ClassVar[bool] = True
    differs: ClassVar[str] = (
        "the authors have two classes and train their extractor; here features are frozen, more classes have a "
        "softmax, and the epoch with the least loss on val is kept, where there is val; their script's default has no "
        "gate (`gated=false`)"
    )

    lr: float = 5e-4
    weight_decay: float = 1e-4
    epochs: int = 20
    patience: int | None = None
    hidden: int = option(128, "width of the attention", low=1, high=65_536)
    gated: bool = option(True, "gate the attention")
    embed: int = option(500, "units of a layer with ReLU before the attention; 0: none", low=0, high=65_536)

    def _network(self, width: int, classes: int) -> nn.Module:
        outputs = 1 if classes == 2 and not self.multilabel_ else classes
        return AttentionBag(width, self.embed, self.hidden, self.gated, outputs)

    def _bag_loss(self, network: nn.Module, bag: Tensor, label: Tensor, criterion: Criterion) -> Tensor:
        if network.classifier.out_features > 1 or label.ndim:
            return super()._bag_loss(network, bag, label, criterion)
        return bernoulli_loss(criterion, network(bag), label)

    @torch.no_grad()
    def attention(self, bag: Tensor) -> Tensor:
        self.check_fitted()
        return self._net.read(bag)[0]

    @torch.no_grad()
    def deciding(self, bag: Tensor) -> Tensor:
        self.check_fitted()
        weights, _, instances = self._net.read(bag)
        rows = self._net.of_classes(self._net.classifier.weight)
        return speaking_parts(weights, instances, rows, compared=not self.multilabel_)


def bernoulli_loss(criterion: Criterion, logits: Tensor, label: Tensor) -> Tensor:
    """Of two classes: as `criterion` has it, no probability of which lies beyond `CLAMP`, where the gradient is 0."""
    least, most = -torch.log(torch.tensor(1 - CLAMP)), -torch.log(torch.tensor(CLAMP))
    return criterion(logits[None], label[None]).clamp(float(least), float(most))
