"""CLAP: a linear probe that starts from the text and is kept near it by a penalty per class.

Take it for the best few-shot numbers on frozen features without validation images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, StoredViews, has, option, require
from ...core.training import LearningRates, epoch_batches, label_loss, train_epochs
from ..dassl_options import dassl_warmup
from ._text_rows import REFERENCE_LENGTH, Frame, frame_of, normalised_rows, relative_scale, text_base

CONSTRAINTS = ("l2", "cosine", "none")
MULTIPLIERS = ("zero-shot", "corrected", "constant", "balanced")
INITS = ("zero-shot", "random")


@dataclass(eq=False, kw_only=True)
class Clap(Adapter):
    """CLass-Adaptive linear Probe, of A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models
    (Silva-Rodriguez et al., 2024, arXiv 2312.12730).

    logits = s x (w_c/|w_c|); the prototypes w (C, D) start from the text features t as the tower gives them and are
    trained by SGD on cross-entropy + (1/C) sum_c lambda_c |w_c - t_c|^2. lambda_c is the mean zero-shot probability of
    class c over its training samples, set before training: a class that the text knows well is kept near the text.
    Hyper-parameters are the same for every set, nothing is chosen on val, and the prototypes of the last step are kept.
    `constraint="none"` is the paper's ZS-LP.

    Training samples are all `views` of all N images as rows, V N of them. An epoch permutes them all and takes as many
    batches as N images make, floor(N / batch_size); with fewer images than a batch, one batch of rows.

    Where it differs from the released code: `adaptive` measures the distance that `constraint` names (there always l2);
    lambda comes from the zero-shot classifier even with `init="random"` (there from the random one); a class without
    samples gets the mean lambda of the others (there NaN). Published rates and penalties assume text features as long
    as CLIP's and its logit scale of 100: where text features have unit length (a features file, some towers), t is the
    unit classifier scaled to length 10 sqrt(s/100), at which a step turns the prototypes as far, and the penalty weighs
    as much against cross-entropy, as with CLIP.

    Several labels per image (not in the paper): binary cross-entropy, sigmoid instead of softmax, lambda_c over the
    images known to have label c; each label's logit is relative to its negative prompts, without them to the backbone's
    logit bias, or else to the label's mean zero-shot score over the support.

    `multipliers` says what lambda is: "zero-shot" as above; "corrected", these times C over their sum; "constant",
    their mean for every class; "balanced", 1 for every class. `adaptive` is the augmented Lagrangian's outer step after
    each epoch: lambda <- max(0, lambda + rho h), rho <- h, with h_c the distance and rho 0 at first. The constraint
    "l2" is squared, "cosine" is 1 - cosine. `init="random"` (normal, variance 2 / D) is the usual linear probe.

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Resources:
        batch_order: (epochs, V N) int64, the order of rows in each epoch instead of a seeded shuffle; row v N + n is
            view v of image n.

    Raises:
        ConfigError: an option out of range, or one that a constraint of "none" leaves without effect.

    Example:
        >>> adapter = build_adapter("clap", epochs=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "a class without samples gets the mean multiplier of the others (released: NaN); the multiplier comes from "
        "zero-shot even where prototypes start at random; `adaptive` follows the chosen distance (released: always "
        "l2). The comparison uses the fixture's learning rates, which are not those of a full training run"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("prototypes", "penalties", "logit_scale", "offset", "negative")
    trained: ClassVar[tuple[str, ...]] = ("prototypes",)

    pool = has(StoredViews, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)
    views: int = 20
    constraint: str = option("l2", "distance of prototypes and text that is penalised", choices=CONSTRAINTS)
    multipliers: str = option("zero-shot", "multiplier of the penalty of each class", choices=MULTIPLIERS)
    adaptive: bool = option(False, "update the multipliers after each epoch, as in an augmented Lagrangian")
    init: str = option("zero-shot", "what the prototypes start from", choices=INITS)
    lr: float = option(0.1, "peak learning rate", above=0)
    epochs: int = option(300, "epochs; 300 are published", low=1, high=100_000)
    batch_size: int = option(256, "rows per step", low=1, high=1_048_576)
    batches: int | None = option(None, "most steps per epoch; none: the published number", low=1, high=1_048_576)
    momentum: float = option(0.9, "momentum of SGD", low=0, below=1)
    weight_decay: float = option(0.0, "weight decay of SGD", low=0)
    warmup: str | None = dassl_warmup()

    def __post_init__(self):
        super().__post_init__()
        free = self.constraint == "none"
        wanted = 'constraint="none" has no penalty to weigh'
        require(not free or self.multipliers == "zero-shot", "multipliers", self.multipliers, wanted)
        require(not (free and self.adaptive), "adaptive", self.adaptive, wanted)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        frame = frame_of(classifier, support)
        self.logit_scale, self.offset, self.negative = frame.logit_scale, frame.offset, frame.negative
        base, notes = text_base(classifier, REFERENCE_LENGTH * math.sqrt(relative_scale(classifier)))
        unit, labels = training_rows(support, self.pool.views)
        self.penalties = self._penalties(frame.logits(unit, normalised_rows(base)), labels)
        self.prototypes = self._first(base, relative_scale(classifier), seed)
        history = self._train(unit, labels, base, len(support), resources.get("batch_order"), seed)
        return FitReport(self.name, history=history, notes=[self.pool.views_note(support), *notes])

    def _penalties(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(C,) lambda before training, from zero-shot logits of the training rows."""
        confidence = class_confidence(logits, labels)
        if self.constraint == "none":
            return torch.zeros_like(confidence)
        if self.multipliers == "balanced":
            return torch.ones_like(confidence)
        if self.multipliers == "constant":
            return confidence.mean().expand_as(confidence).clone()
        if self.multipliers == "corrected":
            return confidence / confidence.mean().clamp(min=torch.finfo(confidence.dtype).tiny)
        return confidence

    def _first(self, base: Tensor, scale: float, seed: int) -> Tensor:
        if self.init == "zero-shot":
            return base.clone()
        drawn = torch.randn(base.shape, generator=torch.Generator().manual_seed(seed))
        return (math.sqrt(2 * scale / base.shape[1]) * drawn).to(base.device)

    def _train(self, unit, labels, base: Tensor, images: int, order: Tensor | None, seed: int) -> list[dict]:
        self.prototypes.requires_grad_()
        optimizer = torch.optim.SGD([self.prototypes], self.lr, self.momentum, weight_decay=self.weight_decay)
        batches = epoch_batches(len(unit), self.batch_size, seed, order=order, device=unit.device)
        steps = self.batches or max(1, images // self.batch_size)
        rates = [[rate] * steps for rate in LearningRates.dassl(self.lr, self.epochs, warmup=self.warmup)]
        criterion = label_loss(labels.ndim == 2, self.weighting.priors_of(labels, len(base)))

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            return criterion(self._scores(unit[index]), labels[index]) + self._penalty(base)

        history, rho = [], torch.zeros_like(self.penalties)
        for epoch in train_epochs(optimizer, rates, batches, loss_of):
            history.append(epoch.row())
            if self.adaptive:
                rho = self._outer_step(base, rho)
                history[-1]["multiplier"] = float(self.penalties.mean())
        self.prototypes = self.prototypes.detach()
        return history

    def _penalty(self, base: Tensor) -> Tensor | float:
        return 0.0 if self.constraint == "none" else (self.penalties * self._distance(base)).mean()

    def _distance(self, base: Tensor) -> Tensor:
        """(C,) of each prototype from its text."""
        if self.constraint == "cosine":
            return 1 - F.cosine_similarity(self.prototypes, base, dim=-1)
        return (self.prototypes - base).square().sum(dim=-1)

    @torch.no_grad()
    def _outer_step(self, base: Tensor, rho: Tensor) -> Tensor:
        """New multipliers; the next rho."""
        distance = self._distance(base)
        self.penalties = (self.penalties + rho * distance).clamp(min=0)
        return distance

    def _scores(self, unit: Tensor) -> Tensor:
        return Frame(self.logit_scale, self.offset, self.negative).logits(unit, normalised_rows(self.prototypes))

    def _logits(self, batch: Batch) -> Tensor:
        return self._scores(batch.unit)


def training_rows(support: FeatureSet, views: int) -> tuple[Tensor, Tensor]:
    """Unit features (V N, D) and labels of all views of all images, view by view."""
    if not views or support.views is None:
        return support.unit, support.targets
    rows = support.views[:, :views].float().transpose(0, 1)  # (V, N, D)
    labels = support.targets.repeat(len(rows), *[1] * (support.labels.ndim - 1))
    return F.normalize(rows.flatten(0, 1), dim=-1), labels


def class_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """(C,) mean probability of a class over its own rows; the mean of the others where it has none.

    Args:
        logits: (R, C).
        labels: (R,) class indices, or (R, C) with NaN for unknown.
    """
    if labels.ndim == 1:
        probability, member = logits.softmax(dim=-1), F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    else:
        probability, member = logits.sigmoid(), (labels == 1).to(logits.dtype)
    counts = member.sum(dim=0)
    mean = (probability * member).sum(dim=0) / counts.clamp(min=1)
    seen = counts > 0
    return torch.where(seen, mean, mean.sum() / seen.sum().clamp(min=1))
