"""Cross-modal linear probe: a linear head trained on images, and on the class prompts as if they were images too.

Take it for the best few-shot numbers where minutes do not matter: it trains a grid of 12 settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import (
    Adapter,
    Batch,
    ClassWeighting,
    FeatureSet,
    FitReport,
    StoredViews,
    TextClassifier,
    Ties,
    has,
    option,
)
from ...core.data import Selection, selection_split
from ...core.metrics import best_setting
from ...core.training import LearningRates, train_epochs
from ._class_texts import classifier_texts
from ._text_rows import has_lengths, normalised_rows
from .real_linear import endless_batches

RATES, DECAYS, BATCH_SIZES = (1e-3, 1e-4), (0.0, 1e-2, 1e-4), (8, 32)
"""The published grid, in the order of its loops."""
WARMUP_RATE = 1e-5
FUSED = ("cpu", "cuda")
"""Devices on which torch updates a weight in one pass over memory."""


@dataclass(eq=False, kw_only=True)
class CrossModal(Adapter):
    """Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models (Lin, Yu, Kuang, Pathak and
    Ramanan, 2023, arXiv 2301.06267), the linear probe.

    logits = s x W^T with x a unit feature and s the logit scale; W (C, D) starts as the zero-shot weights (the unit
    mean of the text features as the tower gives them) and is not normalised. Half of each batch is images, half
    prompts: every prompt of every class is one more sample of it. Both halves are shuffled by themselves. Plain
    cross-entropy, AdamW, a linear warm-up over 50 steps, then a cosine that starts after it and ends as many steps
    early.

    Published, and the default with val: rates 1e-3 and 1e-4, decays 0, 1e-2 and 1e-4, batches of 8 and 32, 12,800 steps
    each; val is scored after step 1 and every 100 steps from there; each training keeps its first best step, and the
    first best point of the grid is taken. The last 99 steps are never candidates. Batches of which half is not smaller
    than the data set are left out of the grid; where all would be, 8 stays, and a smaller set is taken whole. Without
    val the choice is made on images held out of the support; the head is then trained on all of it for as many steps.
    With too few shots for that, 1e-3, 1e-2 and 8 are used, and the last step.

    `trained_share=0.5` is the paper's WiSE-FT row, half the trained head and half the zero-shot one; `prompts=False`
    its uni-modal probe. Its partial fine-tuning and its adapter are not included.

    Classes with unequal numbers of images count alike (`class_weight`): logits are adjusted by the shares of the
    classes among images and prompts together. Among points of the grid that score alike the middle one is taken
    (`ties`). Published are "none" and "published". With equal classes only ties differ.

    Raises:
        ConfigError: an option is out of range.

    Example:
        >>> adapter = build_adapter("cross-modal", iterations=40, eval_every=10)
        >>> report = adapter.fit(support, classifier, val=val)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the logit scale is the model's (released: 100, CLIP's); the first augmented view replaces the flipped image; "
        "test accuracy is never computed (released: at each point of the grid). Without val the grid is searched on "
        "held-out images"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    state: ClassVar[tuple[str, ...]] = ("weights", "logit_scale", "logit_bias")

    pool = has(StoredViews)
    weighting = has(ClassWeighting)
    choice = has(Ties)
    lr: float | None = option(None, "peak learning rate of AdamW; none to search it", above=0)
    weight_decay: float | None = option(None, "weight decay of AdamW; none to search it", low=0)
    batch_size: int | None = option(
        None, "images and prompts per step, half each; none to search it", low=2, high=1_048_576
    )
    iterations: int = option(12_800, "steps of a training", low=1, high=10_000_000)
    stop: int | None = option(
        None, "step at which training stops early; none: chosen on val, else never", low=1, high=10_000_000
    )
    warmup: int = option(50, "steps of the warm-up, before the cosine", low=0, high=10_000_000)
    eval_every: int = option(100, "steps between evaluations on val", low=1, high=10_000_000)
    prompts: bool = option(True, "learn from prompts as well as from images; no: batches of images alone")
    init: str = option("zero-shot", "what the head starts from", choices=("zero-shot", "random"))
    trained_share: float = option(
        1.0, "share of the trained head, the rest being zero-shot; 0.5 is the WiSE-FT row", low=0, high=1
    )
    views: int = option(1, "augmented views to learn from besides each image, where there are any", low=0, high=1000)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias or 0.0
        zero_shot = _zero_shot(classifier)
        start = zero_shot if self.init == "zero-shot" else _random(zero_shot, seed)
        selection = self._selection(support, val, seed)
        samples = self._samples(selection.train, classifier)
        axes = self._axes(samples, searched=selection.val is not None)
        point, run = self._best(samples, start, axes, selection.val, seed)
        history = run.history
        if selection.held_out:
            everything, axes = self._samples(support, classifier), {name: (value,) for name, value in point.items()}
            again = self._best(everything, start, axes, None, seed, stop=run.step + 1)[1]
            history = [{**row, "refit": 0} for row in history] + [{**row, "refit": 1} for row in again.history]
            run = _Run(again.head, run.step, run.score)
        self.weights = self.trained_share * run.head + (1 - self.trained_share) * zero_shot  # (C, D)
        notes = [self.pool.views_note(support), *samples.note]
        chosen = {**point, "step": run.step}
        return FitReport(self.name, chosen, selection.words, run.score, history, notes, start.numel())

    def settled(self, report: FitReport) -> dict[str, Any]:
        return {**super().settled(report), "stop": report.chosen["step"] + 1}

    def _selection(self, support: FeatureSet, val: FeatureSet | None, seed: int) -> Selection:
        if None in (self.lr, self.weight_decay, self.batch_size, self.stop):
            return selection_split(support, val, seed)
        return Selection(support, None, "given as options")

    def _samples(self, support: FeatureSet, classifier: TextClassifier) -> _Samples:
        images, labels = support.unit, support.labels
        if self.pool.views and support.views is not None:
            further = normalised_rows(support.views[:, : self.pool.views].float()).transpose(0, 1)  # (V, N, D)
            images, labels = torch.cat([images, *further]), labels.repeat(1 + len(further))
        if not self.prompts:
            return _Samples(images, labels, images[:0], labels[:0], len(classifier))
        texts = classifier_texts(classifier)
        return _Samples(images, labels, texts.prompts, texts.classes, len(classifier))

    def _axes(self, samples: _Samples, searched: bool) -> dict[str, tuple[float, ...]]:
        """The grid, each axis with the values to try; without val one of each."""
        published = self.choice.ties == "published"
        sizes = [size for size in BATCH_SIZES if samples.smallest > (size // 2 if self.prompts else size)]
        grid = {"lr": RATES, "weight_decay": DECAYS, "batch_size": tuple(sizes or BATCH_SIZES[:1])}
        if not searched:
            grid = {"lr": (1e-3,), "weight_decay": (1e-2,), "batch_size": BATCH_SIZES[:1]}
        given = {name: (value,) for name in grid if (value := getattr(self, name)) is not None}
        return {name: given.get(name, axis if published else tuple(sorted(axis))) for name, axis in grid.items()}

    def _best(
        self, samples: _Samples, start: Tensor, axes, val: FeatureSet | None, seed: int, stop: int | None = None
    ) -> tuple[dict[str, float], _Run]:
        """The best point of the grid, and its training."""
        rates, decays, sizes = axes.values()
        runs = [
            [self._train(samples, start, rate, decays, size, val, seed, stop) for size in sizes] for rate in rates
        ]  # rates, sizes, decays
        scores = np.array([[[run.score or 0.0 for run in row] for row in rows] for rows in runs])
        r, d, b = best_setting(scores.swapaxes(1, 2), self.choice.ties)  # in the order of the published loops
        return {"lr": rates[r], "weight_decay": decays[d], "batch_size": sizes[b]}, runs[r][b][d]

    def _train(
        self, samples: _Samples, start: Tensor, rate: float, decays, size: int, val, seed: int, stop: int | None
    ) -> list[_Run]:
        """A head for each decay, trained side by side on the same batches; without val their last step is kept."""
        heads = [start.clone().requires_grad_() for _ in decays]
        groups = [{"params": [head], "weight_decay": decay} for head, decay in zip(heads, decays)]
        unequal = self.weighting.class_weights(samples.labels, samples.num_classes) is not None
        priors = samples.log_priors() if unequal else None
        batches, count = self._batches(samples, size, seed), len(heads)

        def loss_of(part: int, batch: tuple[Tensor, Tensor]) -> Tensor:
            features, labels = samples.at(*batch)
            logits = (self.logit_scale * features @ torch.cat(heads).T).view(len(labels), count, -1)  # (B, H, C)
            logits = logits if priors is None else logits + priors
            losses = F.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(-1, count), reduction="none")
            return losses.mean(dim=0)  # (H,)

        parts, runs, steps = self._parts(rate, val is not None, stop), [_Run(start) for _ in heads], 0
        optimizer = torch.optim.AdamW(groups, lr=rate, fused=start.device.type in FUSED)
        for part in train_epochs(optimizer, parts, lambda part: batches, loss_of):
            steps += len(part.rates)
            for number, (run, head) in enumerate(zip(runs, heads)):
                run.history.append({**part.row(head=number), "lr": part.rates[-1], "step": steps - 1})
                if val is None:
                    run.head, run.step = head.detach(), steps - 1
                else:
                    run.look(head.detach(), steps - 1, self.weighting.val_score(val.unit @ head.detach().T, val.labels))
        return runs

    def _parts(self, rate: float, looked_at: bool, stop: int | None) -> list[list[float]]:
        """The rate of each step, cut where val is looked at: after step 0 and each so many steps. What comes after the
        last look is left out, and so is what comes after so many steps."""
        kind = "linear" if self.warmup else None
        rates = LearningRates.dassl(
            rate, self.iterations, warmup=kind, warmup_epochs=self.warmup, warmup_lr=WARMUP_RATE
        )
        rates = rates[: stop or self.stop]
        ends = [0, *range(1, len(rates) + 1, self.eval_every)]
        if not looked_at and ends[-1] < len(rates):
            ends.append(len(rates))
        return [rates[start:end] for start, end in pairwise(ends)]

    def _batches(self, samples: _Samples, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices of images and of prompts, half each, without end."""
        half, device = max(1, size // 2), samples.images.device
        images = endless_batches(len(samples.images), half if self.prompts else size, 2 * seed, device)
        if not self.prompts:
            return ((index, index[:0]) for index in images)
        return zip(images, endless_batches(len(samples.texts), half, 2 * seed + 1, device))

    def _logits(self, batch: Batch) -> Tensor:
        return self.logit_scale * batch.unit @ self.weights.T + self.logit_bias


@dataclass(frozen=True)
class _Samples:
    """Unit rows of images (M, D) and of prompts (P, D), and of which of the C classes each is."""

    images: Tensor
    labels: Tensor
    texts: Tensor
    classes: Tensor
    num_classes: int

    @property
    def smallest(self) -> int:
        """The size of the smaller set."""
        return min(len(self.images), len(self.texts)) if len(self.texts) else len(self.images)

    @property
    def note(self) -> list[str]:
        return [f"learned from {len(self.texts)} prompts as well"] if len(self.texts) else []

    def at(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) and (B,)."""
        features = torch.cat([self.images[image], self.texts[text]])
        return features, torch.cat([self.labels[image], self.classes[text]])

    def log_priors(self) -> Tensor:
        """(C,) log shares of the classes in a batch."""
        shares = [torch.bincount(of, minlength=self.num_classes) for of in (self.labels, self.classes) if len(of)]
        mean = torch.stack([counts / counts.sum() for counts in shares]).mean(dim=0)
        return mean.clamp(min=mean[mean > 0].min()).log()


@dataclass
class _Run:
    """A training: the head that is kept, after which step (from 0), its val score, and the history."""

    head: Tensor
    step: int = 0
    score: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def look(self, head: Tensor, step: int, score: float) -> None:
        """Keep the head if it is better than all before."""
        self.history[-1]["val_score"] = score
        if self.score is None or score > self.score:
            self.head, self.step, self.score = head.clone(), step, score


def _zero_shot(classifier: TextClassifier) -> Tensor:
    """(C, D) unit means of text features as the tower gives them; of unit ones where their lengths are gone."""
    return normalised_rows(classifier.unnormalized.float()) if has_lengths(classifier) else classifier.weights


def _random(like: Tensor, seed: int) -> Tensor:
    """As a linear layer starts, seeded."""
    drawn = torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))
    return ((2 * drawn - 1) / like.shape[1] ** 0.5).to(like.device)
