"""CLAM: attention over a bag, which also learns from its most and least attended instances.

Take it for slides as `abmil`, where the instances that decide matter as much as the answer; it learns for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import FeatureSet, option
from ...core.training import GatedAttention
from ._bag_head import BagHead, Criterion, speaking_parts, weighted_sum

WIDTH = 512
ATTENTION = {"small": 256, "big": 384}
CE, SVM = "ce", "svm"


class ClamBag(nn.Module):
    """(T, D) -> (C,) logits; `read` also gives the attention and the instances.

    Args:
        classes: C. width: of the instances behind the first layer. hidden: of the attention.
        branches: an attention for each class, in place of one for all.
        dropout: in a training.
    """

    def __init__(self, inputs: int, classes: int, width: int, hidden: int, branches: bool, dropout: float):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout))
        self.classes, self.branches = classes, branches
        self.attention = GatedAttention(width, hidden, classes if branches else 1, dropout=dropout)
        self.classifier = nn.Linear(width, classes)
        self.instance_classifiers = nn.Linear(width, 2 * classes)  # two rows of each class

    def forward(self, bag: Tensor) -> Tensor:
        return self.read(bag)[0]

    def read(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (C,), attention (C, T) with sums of 1, and instances (T, W)."""
        instances = self.embed(bag)
        weights, pooled = weighted_sum(self.attention(instances), instances)
        if not self.branches:
            return self.classifier(pooled[0]), weights.expand(self.classes, -1), instances
        return (pooled * self.classifier.weight).sum(dim=1) + self.classifier.bias, weights, instances

    def instance_scores(
        self, weights: Tensor, instances: Tensor, label: int, count: int, subtyping: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """(n, 2) scores and (n,) targets of the `count` most attended instances of the true class, which are to show
        it, and the least attended, which are not; with `subtyping`, for each other class, of its most attended, which
        are not to show it. In the order of the classes.

        Args:
            weights: (C, T). instances: (T, W), as `read` gives them.
        """
        count, made = min(count, len(instances)), []
        for number in range(self.classes) if subtyping else (label,):
            top = instances[weights[number].topk(count).indices]
            if number == label:
                bottom = instances[(-weights[number]).topk(count).indices]
                targets = torch.arange(2 * count, device=top.device) < count
                made.append((self.shows(torch.cat([top, bottom]), number), targets.long()))
            else:
                made.append((self.shows(top, number), torch.zeros(count, dtype=torch.int64, device=top.device)))
        return made

    def shows(self, instances: Tensor, number: int) -> Tensor:
        """(n, 2) scores of instances (n, W) not showing a class, and showing it."""
        rows, layer = slice(2 * number, 2 * number + 2), self.instance_classifiers
        return F.linear(instances, layer.weight[rows], layer.bias[rows])

    def instance_loss(
        self,
        weights: Tensor,
        instances: Tensor,
        label: int,
        count: int,
        subtyping: bool,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The sum over classes of a loss of `instance_scores`; with `subtyping` divided by C."""
        made = self.instance_scores(weights, instances, label, count, subtyping)
        total = torch.stack([loss(scores, targets) for scores, targets in made]).sum()
        return total / self.classes if subtyping else total


def smooth_svm(scores: Tensor, targets: Tensor, tau: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Mean smooth top-1 SVM loss of (n, K) scores: tau log sum_j exp((s_j + alpha [j != y] - s_y) / tau) ("Smooth Loss
    Functions for Deep Top-k Classification", Berrada, Zisserman and Kumar 2018, arXiv 1802.07595)."""
    margins = alpha * (1 - F.one_hot(targets, scores.shape[1]).to(scores))
    apart = scores + margins - scores.gather(1, targets[:, None])
    return tau * torch.logsumexp(apart / tau, dim=1).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {CE: F.cross_entropy, SVM: smooth_svm}


@dataclass(eq=False, kw_only=True)
class Clam(BagHead):
    """Data-efficient and weakly supervised computational pathology on whole-slide images (Lu et al., 2021, Nature
    Biomedical Engineering 5, arXiv 2004.09666).

    h = ReLU(Linear(x)) of 512 units, a gated attention (one for all classes, or with `branches` one for each) and a
    linear layer. A 2-way classifier for each class learns that the `instances` most attended parts of a bag show its
    class and the least attended do not; with `subtyping`, that the most attended of other classes do not show these.
    The loss is `bag_weight` times that of the bag and the rest times that of the instances. Adam, one bag a step, at
    most 200 epochs, ended after epoch 50 where 20 epochs did not lower the loss on val.

    Settings are those of the authors' README (rate 2e-4, smooth SVM); their code's own are 1e-4 and `instance_loss=ce`.
    The README draws each class as often (`balanced_sampling`), in place of which `class_weight` weighs the classes.
    A bag with fewer parts than `instances` gives all it has, where the released code fails.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: samples without parts, or with several labels.

    Example:
        >>> adapter = build_adapter("clam", epochs=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "a bag with fewer parts than it draws gives all it has, where the released code fails; bags are drawn once per "
        "epoch, where the README's command draws each class as often (`balanced_sampling`)"
    )

    lr: float = 2e-4
    min_epochs: int = option(50, "the training does not end before this epoch", low=0, high=100_000)
    branches: bool = option(False, "an attention for each class (CLAM-MB), in place of one for all (CLAM-SB)")
    size: str = option("small", "of the attention: small 256, big 384", choices=tuple(ATTENTION))
    dropout: float = option(0.25, "dropout in the training", low=0, below=1)
    instances: int = option(8, "most and least attended parts that are learned from", low=1, high=1_000_000)
    bag_weight: float = option(0.7, "share of the bag's loss; the rest is that of the parts", low=0, high=1)
    instance_loss: str = option(SVM, "loss of the parts: smooth SVM, or cross-entropy", choices=tuple(LOSSES))
    subtyping: bool = option(False, "classes exclude each other: also learn that parts do not show the others")
    balanced_sampling: bool = option(False, "draw bags with replacement, each class as often")

    @property
    def _first_stop(self) -> int:
        return self.min_epochs

    def _network(self, width: int, classes: int) -> nn.Module:
        return ClamBag(width, classes, WIDTH, ATTENTION[self.size], self.branches, self.dropout)

    def _bag_loss(self, network: ClamBag, bag: Tensor, label: Tensor, criterion: Criterion) -> Tensor:
        logits, weights, instances = network.read(bag)
        of_bag = criterion(logits[None], label[None])
        if self.bag_weight == 1:
            return of_bag
        how = (self.instances, self.subtyping, LOSSES[self.instance_loss])
        of_parts = network.instance_loss(weights, instances, int(label), *how)
        return self.bag_weight * of_bag + (1 - self.bag_weight) * of_parts

    @torch.no_grad()
    def attention(self, bag: Tensor) -> Tensor:
        self.check_fitted()
        weights = self._net.read(bag)[1]
        return weights if self.branches else weights[:1]

    @torch.no_grad()
    def deciding(self, bag: Tensor) -> Tensor:
        self.check_fitted()
        _, weights, instances = self._net.read(bag)
        return speaking_parts(weights, instances, self._net.classifier.weight)

    def _priors(self, labels: Tensor, classes: int) -> Tensor | None:
        return None if self.balanced_sampling else super()._priors(labels, classes)  # each class is drawn as often

    def _order(self, support: FeatureSet, classes: int, seed: int) -> Callable[[int], Iterable[Tensor]]:
        if not self.balanced_sampling:
            return super()._order(support, classes, seed)
        labels = support.labels.cpu()
        weights = 1 / labels.bincount(minlength=classes).double()[labels]

        def balanced(epoch: int) -> Iterable[Tensor]:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            return weights.multinomial(len(labels), replacement=True, generator=generator).split(1)

        return balanced
