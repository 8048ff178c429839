"""WiSE-FT: weights between those of the zero-shot model and those of the fine-tuned one.

Take it after training whole towers, where images like those of the towers' own training matter too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import (
    Backbone,
    Batch,
    ClassWeighting,
    FeatureSet,
    FitReport,
    RandomCrops,
    TrainingImages,
    has,
    option,
)
from ...core.data import Selection, selection_split
from ...core.errors import CapabilityError, ConfigError
from ...core.training import Remembered, TowerAdapter, TrainingResult, TrainingTask
from ._changes import (
    DEFAULT_ALPHA,
    HEAD,
    Weights,
    best_interpolation,
    fisher_information,
    interpolated,
    trained_parts,
)
from ._linear_head import LinearHead, fisher_of_head, train_head
from ._one_way import ONE_WAY

LR, HEAD_LR = 3e-5, 1e-3
WARMUP = 500
SHARE_OF_WARMUP = 0.1


@dataclass
class _Fit:
    """What a fit is about, while it runs.

    Attributes:
        head: in training; it starts as the zero-shot classifier.
        start: the zero-shot classifier's.
        choice: words, alpha and score, once there are any.
    """

    head: LinearHead
    start: LinearHead
    images: TrainingImages | None
    seed: int
    choice: tuple[str, float, float | None] | None = None


@dataclass(eq=False, kw_only=True)
class WiseFt(TowerAdapter):
    """Weight-space ensemble of the zero-shot and the fine-tuned model.

    Wortsman et al., Robust fine-tuning of zero-shot models, 2021, arXiv 2109.01903.

    The image tower and a linear head over its unit features are fine-tuned by cross-entropy; the head's weights start
    as the logit scale times the class texts and are not normalised, its bias starts at 0. Then every weight of both is

        (1 - alpha) zero-shot + alpha fine-tuned

    with alpha the best of 0, 0.1, ... 1 on the val images (in a tie the one nearest to 0.5), or 0.5 without val. The
    text tower and the logit scale are not trained. AdamW at 3e-5 with weight decay 0.1 on all that trains, 10 epochs, a
    linear warm-up, a cosine to 0 over the steps, gradients clipped to a norm of 1; the last weights are kept. A batch
    has 512 images, 32 of them at a time. Only tensors that changed are saved.

    `freeze_encoder` is the linear version: only the head is trained, on features of the images as they are, and only it
    is interpolated; no image is read. Without val alpha is then chosen on floor(K/4) images per class held out of the
    support, by a first training on the rest.

    Where it differs from the released code: alpha is chosen on val, which the released code leaves to its caller; the
    head starts at the logit bias where the backbone has one (SigLIP), and its rate follows a logit scale other than
    100. Several labels per image: binary cross-entropy, and the head starts from the difference to the negative
    prompts.

    With `freeze_encoder` options about images and towers have no effect. `fisher` estimates the Fisher information of
    every weight at both ends, by which the two are then weighted (released: 10 passes, as one of two ways).

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Raises:
        ConfigError: an option is out of range, or smoothing of several labels.
        CapabilityError: pairs in place of classes, or other classes than those of the head.

    Example:
        >>> adapter = build_adapter("wise-ft", alpha=0.5, epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "alpha is chosen on val (the released code leaves the choice to its caller); the head starts at the logit "
        "bias, if there is one. The fixture covers the linear version, with its training loop rewritten for features; "
        "the tower version is checked against an explicit loop"
    )
    can: ClassVar[frozenset[str]] = frozenset({"channels"})
    state: ClassVar[tuple[str, ...]] = ("changed", "prefix", "head", "head_bias")
    default_epochs: ClassVar[int] = 10

    fixed: ClassVar = ONE_WAY
    crops = has(RandomCrops, published_crop=(0.9, 1.0))
    weighting = has(ClassWeighting)

    # no option: the head has its own start
    prompts_a_class: ClassVar[None] = None

    batch_size: int = 512
    micro_batch_size: int | None = 32
    lr: float | None = option(None, "peak learning rate; none: 3e-5, or 1e-3 with freeze_encoder", above=0)
    weight_decay: float = 0.1
    warmup: float = option(
        WARMUP, "warm-up steps, at most a tenth of all; below 1: their share of all", low=0, high=10_000_000
    )
    clip_grad: float | None = 1.0
    alpha: float | None = option(None, "share of the fine-tuned weights; none: chosen on val", low=0, high=1)
    freeze_encoder: bool = option(False, "train and interpolate the head alone")
    fisher: int = option(
        0, "passes over the images to weigh weights by their Fisher information; 0: no weighing", low=0, high=100_000
    )
    label_smoothing: float = option(
        0.0, "share of the target spread over all classes, for one label per image", low=0, below=1
    )

    def __post_init__(self):
        super().__post_init__()
        self._steps_an_epoch, self._now = 1, None
        if self.freeze_encoder:
            self.needs = frozenset({"features"})

    # the settings of the training

    def _epochs(self, steps: int, shots: int) -> int:
        self._steps_an_epoch = steps
        return super()._epochs(steps, shots)

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        settings = {"lr": self._rate, "warmup": self._rise(epochs * self._steps_an_epoch), "decayed": "all"}
        return {**super()._settings_of_method(epochs), **settings}

    @property
    def _rate(self) -> float:
        return self.lr if self.lr is not None else HEAD_LR if self.freeze_encoder else LR

    def _rise(self, steps: int) -> float:
        """A share, or a count."""
        return self.warmup if self.warmup < 1 else min(int(self.warmup), max(1, round(SHARE_OF_WARMUP * steps)))

    # the fit

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        if self.label_smoothing and self.multilabel_:
            raise ConfigError("option label_smoothing: needs one label per image, and these have several; omit it")
        head = LinearHead.of(classifier)
        self._now = _Fit(head, copy.deepcopy(head).requires_grad_(False), resources.get("images"), seed)
        if self.freeze_encoder:
            self._made = backbone
            return self._fit_head(support, val)
        given = {"val": val, "unlabeled": unlabeled, "backbone": backbone, "resources": resources, "seed": seed}
        report = super()._fit(support, classifier, **given)
        self._now = None
        return report

    def _choose(self, backbone: Backbone) -> list[str]:
        for parameter in trained_parts(backbone, self._now.head).values():
            parameter.requires_grad_(True)
        return []

    def _completed(self, task: TrainingTask, base: Backbone, images: TrainingImages | None) -> TrainingTask:
        smoothed = {"cross-entropy": {"label_smoothing": self.label_smoothing}} if self.label_smoothing else {}
        return replace(task, class_scores=self._now.head, loss_options=smoothed)

    @torch.no_grad()
    def _learned(self, trained: Backbone, base: Backbone) -> dict[str, Tensor]:
        """Choose alpha and put the weights in between into the towers and the head."""
        now = self._now
        start = _weights(base, now.start.to(base.device))
        end = {name: value.clone() for name, value in _weights(trained, now.head).items()}
        images = replace(now.images, load=Remembered(now.images.load))  # they are looked at once for each alpha

        def put(weights: Weights) -> None:
            trained.put_tensors({name: value for name, value in weights.items() if not name.startswith(HEAD)})
            _put_head(now.head, weights)

        def fisher(weights: Weights) -> Weights:
            put(weights)
            return fisher_information(trained, now.head, images, self.fisher, now.seed, self.multilabel_)

        fishers = (fisher(start), fisher(end)) if self.fisher else None

        def score(alpha: float) -> float:
            put(interpolated(start, end, alpha, fishers))
            return self._val_score(now.head, trained, images)

        self._decide(score if images.val else None, f"val ({len(images.val)} images)")
        put(interpolated(start, end, now.choice[1], fishers))
        return super()._learned(trained, base)

    def _decide(self, score: Callable[[float], float] | None, words: str) -> None:
        """Note which alpha, on what it was chosen, and its score."""
        if self.alpha is not None:
            self._now.choice = ("given as options", self.alpha, None)
        elif score is None:
            self._now.choice = ("published choice without val", DEFAULT_ALPHA, None)
        else:
            self._now.choice = (words, *best_interpolation(score))

    def _report(self, done: TrainingResult, settings, notes: list[str]) -> FitReport:
        report = super()._report(done, settings, notes)
        words, alpha, score = self._now.choice
        count = report.trained_parameters + sum(parameter.numel() for parameter in self._now.head.parameters())
        chosen = {**report.chosen, "trained parameters": count, "alpha": alpha}
        decided = {"chosen": chosen, "chosen_on": words, "val_score": score, "trained_parameters": count}
        return replace(report, **decided, notes=[*report.notes, *_few(done.steps)])

    # the linear version

    def _fit_head(self, support: FeatureSet, val: FeatureSet | None) -> FitReport:
        now = self._now
        selection = Selection(support, None, "") if self.alpha is not None else selection_split(support, val, now.seed)
        head, history = self._train_head(selection.train)
        between = self._between(head, selection.train)

        def score(alpha: float) -> float:
            return self.weighting.val_score(between(alpha)(selection.val.unit), selection.val.labels)

        self._decide(None if selection.val is None else score, selection.words)
        words, alpha, reached = now.choice
        if selection.held_out:
            history = [{**row, "refit": 0} for row in history]
            head, again = self._train_head(support)
            between, history = self._between(head, support), history + [{**row, "refit": 1} for row in again]
        self.changed, self.prefix = {}, None
        self._keep(between(alpha))
        self._now = None
        count = sum(parameter.numel() for parameter in head.parameters())
        epochs = self.epochs or self.default_epochs
        steps = epochs * math.ceil(len(support) / self.batch_size)
        chosen = {"epochs": epochs, "steps": steps, "lr": self._rate, "alpha": alpha}
        return FitReport(self.name, chosen, words, reached, history, _few(steps), count)

    def _train_head(self, support: FeatureSet) -> tuple[LinearHead, list[dict[str, float]]]:
        head = copy.deepcopy(self._now.head)
        return head, train_head(
            head,
            support.unit,
            support.targets,
            epochs=self.epochs or self.default_epochs,
            batch_size=self.batch_size,
            lr=self._rate,
            weight_decay=self.weight_decay,
            rise=self._rise,
            clip_grad=self.clip_grad,
            label_smoothing=self.label_smoothing,
            priors=self.weighting.priors_of(support.labels, len(head.bias)),
            seed=self._now.seed,
        )

    def _between(self, head: LinearHead, support: FeatureSet) -> Callable[[float], LinearHead]:
        """alpha -> the head between the zero-shot one and this one."""
        now, fishers = self._now, None
        if self.fisher:
            drawn = (self.fisher, now.seed, self.multilabel_)
            fishers = tuple(fisher_of_head(end, support.unit, *drawn) for end in (now.start, head))
        ends = [{HEAD + name: value.detach() for name, value in end.named_parameters()} for end in (now.start, head)]

        def between(alpha: float) -> LinearHead:
            made = copy.deepcopy(now.start)
            _put_head(made, interpolated(*ends, alpha, fishers))
            return made

        return between

    # what was learned

    def adapted(self, backbone: Backbone) -> Backbone:
        return backbone if self.freeze_encoder else super().adapted(backbone)

    def _name_classes(self, towers: Backbone, prompts, negative) -> None:
        """The head names them."""
        self._keep(self._now.head)

    def _keep(self, head: LinearHead) -> None:
        self.head, self.head_bias = head.weight.detach().clone(), head.bias.detach().clone()

    def _logits(self, batch: Batch) -> Tensor:
        unit = self._unit(batch)
        return F.linear(unit, self.head.to(unit.device), self.head_bias.to(unit.device))

    def for_classes(self, backbone: Backbone, class_names, classifier=None) -> TowerAdapter:
        raise CapabilityError(f"adapter '{self.name}' learned a head of its own classes, which cannot name others")

    def fit_pairs(self, source, backbone: Backbone, **options) -> FitReport:
        raise CapabilityError(f"adapter '{self.name}' learns a head of classes, and pairs have none; use full")


def _few(steps: int) -> list[str]:
    """A sentence where the published number of epochs is not much."""
    if steps >= WARMUP:
        return []
    return [
        f"{steps} steps are few for this method, published for large sets with a warm-up of {WARMUP} steps; give "
        "more epochs"
    ]


def _weights(backbone: Backbone, head: LinearHead) -> Weights:
    """All that is interpolated."""
    return {name: parameter.detach() for name, parameter in trained_parts(backbone, head).items()}


@torch.no_grad()
def _put_head(head: LinearHead, weights: Weights) -> None:
    for name, parameter in head.named_parameters():
        parameter.copy_(weights[HEAD + name])
