"""Base of methods that learn from bags: samples of many parts, with one label for all (multiple-instance learning)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, has, option
from ...core.training import epoch_batches, keep_best, label_loss, train_epochs

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, C) and labels -> their mean loss."""


@dataclass(eq=False, kw_only=True)
class BagHead(Adapter):
    """A network reads the parts of a sample as the tower gives them, in whatever number, and gives logits of the
    classes; class texts are not used. The weights of the epoch with the least loss on val are kept, without val those
    of the last epoch.

    Attributes:
        network: name -> tensor of the network.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"parts"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"parts"})
    reads_bags: ClassVar[bool] = True
    text_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("network",)

    weighting = has(ClassWeighting)
    network: dict[str, Tensor] = field(init=False, default_factory=dict, repr=False)

    lr: float = option(1e-4, "learning rate", above=0)
    weight_decay: float = option(1e-5, "weight decay, added to the gradient", low=0)
    epochs: int = option(200, "epochs, at most", low=1, high=100_000)
    patience: int | None = option(
        20, "epochs without a lower loss on val after which the training ends; none: never", low=1, high=100_000
    )
    bags_per_step: int = option(1, "bags whose mean gradient makes a step", low=1, high=100_000)
    most_parts: int | None = option(
        None,
        "parts of a bag to look at, drawn anew in each epoch, evenly spaced at prediction; none: all",
        low=1,
        high=10_000_000,
    )

    @abstractmethod
    def _network(self, width: int, classes: int) -> nn.Module:
        """A new network for parts D wide: bag (T, D) -> (C,) logits."""

    def _bag_loss(self, network: nn.Module, bag: Tensor, label: Tensor, criterion: Criterion) -> Tensor:
        """The loss of one bag.

        Args:
            label: (), or (C,) of several labels; on the CPU, where reading it stops no GPU.
            criterion: (1, C) logits and labels -> cross-entropy, or binary cross-entropy.
        """
        return criterion(network(bag)[None], label[None])

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
        """What lowers the rate by the loss on val, if anything does."""
        return None

    def _priors(self, labels: Tensor, classes: int) -> Tensor | None:
        """(C,) what the loss adds to logits, so that classes count alike."""
        return self.weighting.priors_of(labels, classes)

    def _order(self, support: FeatureSet, classes: int, seed: int) -> Callable[[int], Iterable[Tensor]]:
        """Epoch -> the bag of each step, (1,) int64 on the CPU, where reading it stops no GPU."""
        return epoch_batches(len(support), 1, seed)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        device, classes = support.features.device, len(classifier)
        loss = label_loss(support.multilabel, self._priors(support.labels, classes))

        def criterion(logits: Tensor, labels: Tensor) -> Tensor:
            return loss(logits, labels.to(logits.device))

        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            built = self._network(support.dim, classes).to(device).train()
            history, epoch = self._train(built, support, val, criterion, classes, seed)
        self._built = built.eval().requires_grad_(False)
        self.network = {name: value.detach() for name, value in self._built.state_dict().items()}
        trained = sum(parameter.numel() for parameter in built.parameters())
        on = "options: the last epoch" if val is None else f"val ({len(val)} images): the epoch"
        return FitReport(self.name, {"epoch": epoch}, on, history=history, trained_parameters=trained)

    def _train(
        self,
        network: nn.Module,
        support: FeatureSet,
        val: FeatureSet | None,
        criterion: Criterion,
        classes: int,
        seed: int,
    ) -> tuple[list[dict[str, float]], int]:
        """Train in place; the history, and the epoch that is kept."""
        bags, labels, parameters = self._bags(support), support.labels.cpu(), list(network.parameters())
        batches = self._order(support, classes, seed)
        optimizer = self._optimizer(parameters)
        scheduler = self._scheduler(optimizer)
        rates = ([optimizer.param_groups[0]["lr"]] * len(support) for _ in self.followed(range(self.epochs)))

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            row = int(index)
            return self._bag_loss(network, drawn_parts(bags[row], self.most_parts), labels[row], criterion)

        scores: list[float] = []

        def val_score() -> float:
            scores.append(-self._val_loss(network, val, criterion))
            if scheduler is not None:
                scheduler.step(-scores[-1])
            return scores[-1]

        epochs = train_epochs(optimizer, rates, batches, loss_of, accumulate=self.bags_per_step)
        if val is None:
            best, history = keep_best(epochs, parameters, None)
        else:
            best, history = keep_best(self._stopped(epochs, scores), parameters, val_score)
        return history, best

    def _bags(self, samples: FeatureSet | Batch) -> Sequence[Any]:
        """What the network reads of each sample: its parts (T, D), or a tuple of such."""
        return samples.bags

    @torch.no_grad()
    def _val_loss(self, network: nn.Module, val: FeatureSet, criterion: Criterion) -> float:
        """Mean loss of val's bags, by the criterion of the training."""
        network.eval()
        logits = torch.stack([network(spaced_parts(bag, self.most_parts)) for bag in self._bags(val)])
        network.train()
        return float(criterion(logits, val.labels))

    def _stopped(self, epochs: Iterable[Any], scores: list[float]) -> Iterator[Any]:
        """Epochs until none was better for `patience` of them.

        Args:
            scores: of the epochs so far, appended to after each.
        """
        for epoch in epochs:
            yield epoch
            since = scores[::-1].index(max(scores))
            if self.patience is not None and since >= self.patience and epoch.number > self._first_stop:
                return

    @property
    def _first_stop(self) -> int:
        """The last epoch, from 0, after which a training never ends."""
        return 0

    @property
    def _net(self) -> nn.Module:
        """The network, built of the saved weights where this process did not train it."""
        if (built := getattr(self, "_built", None)) is None:
            with torch.random.fork_rng(devices=[]):  # what it is made of is replaced
                built = self._network(self.dim_, len(self.class_names_))
            built.load_state_dict(self.network)
            device = next(iter(self.network.values())).device
            self._built = built = built.to(device).eval().requires_grad_(False)
        return built

    def bag_logits(self, bag: Tensor | tuple[Tensor, ...]) -> Tensor:
        return self._net(spaced_parts(bag, self.most_parts))

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        return torch.stack([self.bag_logits(bag) for bag in self._bags(batch)])

    def to(self, device) -> BagHead:
        super().to(device)
        self.network = {name: value.to(device) for name, value in self.network.items()}
        self._built = None
        return self


def drawn_parts(bag: Any, most: int | None) -> Any:
    """(T, D), or where there are more than `most` parts so many of them, drawn, in their order; of a tuple each."""
    if isinstance(bag, tuple):
        return tuple(drawn_parts(each, most) for each in bag)
    if most is None or len(bag) <= most:
        return bag
    return bag[torch.randperm(len(bag))[:most].sort().values.to(bag.device)]


def spaced_parts(bag: Any, most: int | None) -> Any:
    """(T, D), or where there are more than `most` parts so many of them, evenly spaced; of a tuple each. It holds for
    any T where it is traced."""
    if isinstance(bag, tuple):
        return tuple(spaced_parts(each, most) for each in bag)
    count = bag.shape[0]
    if most is None or (not isinstance(count, Tensor) and count <= most):
        return bag
    count = torch.as_tensor(count)
    kept = count.clamp(max=most)
    step = (count - 1).double() / (kept - 1).clamp(min=1)
    return bag[(torch.arange(kept, device=bag.device) * step).round().long()]


def weighted_sum(scores: Tensor, instances: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of a bag: (T, K) scores and (T, D) -> (K, T) weights with sums of 1, and (K, D)."""
    weights = F.softmax(scores.T, dim=1)
    return weights, weights @ instances


def speaking_parts(weights: Tensor, instances: Tensor, rows: Tensor, compared: bool = True) -> Tensor:
    """(C, T) shares, with sums of 1, of the parts in what speaks for each class: a branch that attends to a part may do
    so because this speaks for another class.

    A part adds e_ck = a_ck w_c . (h_k - mean of h) to the logit of class c, which is that of the average part and the
    sum of these over parts ("Additive MIL", Javed et al. 2022, arXiv 2206.01794, counted from the average part). What
    it speaks for a class is e_ck above the mean over classes where only one is right, or 0 if it is below.

    Args:
        weights: (K, T) attention, K = C or 1. instances: (T, W). rows: (C, W) of the linear layer on their means.
        compared: whether only one class is right.
    """
    evidence = weights * (rows @ instances.T - (rows @ instances.mean(dim=0))[:, None])  # (C, T)
    spoken = ((evidence - evidence.mean(dim=0)) if compared else evidence).clamp(min=0)
    total = spoken.sum(dim=1, keepdim=True)
    return torch.where(total > 0, spoken / total.clamp(min=torch.finfo(total.dtype).tiny), weights)
