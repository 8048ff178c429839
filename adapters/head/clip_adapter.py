"""CLIP-Adapter: a learned bottleneck on image features, blended with the features themselves.

Take it to compare with papers, many of which have it as their baseline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, Ties, TrainingViews, has, option
from ...core.data import Selection, selection_split
from ...core.metrics import best_setting
from ...core.training import label_loss, views_of_training
from ..dassl_options import dassl_batch_size, dassl_epochs, dassl_warmup
from ._text_rows import Frame, frame_of

RATIO = 0.2
RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The paper searches the ratio over 0 to 1 on each set; in steps of 0.2."""
EPOCHS_FROM_SHOTS = ((8, 200), (2, 100), (1, 50))
"""CoOp's, which the released code says to follow."""


@dataclass(eq=False, kw_only=True)
class ClipAdapter(Adapter):
    """CLIP-Adapter: Better Vision-Language Models with Feature Adapters (Gao et al., 2021, arXiv 2110.04544).

    f' = ratio A(f) + (1 - ratio) f with A(f) = ReLU(W2 ReLU(W1 f)), no biases, W1 (D/4, D), W2 (D, D/4); logits =
    s f'/|f'| W^T. Only W1 and W2 are trained, from torch's usual init of a linear layer, by SGD on the cross-entropy
    with Dassl's warm-up and cosine; the weights of the last step are kept. This is the paper's visual adapter; the
    released code has no other.

    The paper searches the ratio for each set; the released code has 0.2, the default here. `ratio=None` trains one
    head for each of 0, 0.2, ... 1, all from the same start and side by side, and takes the best on val; without val, on
    floor(K/4) images per class held out of the support, then trains again on all; with fewer than 4 shots it is 0.2.

    A has no biases, so A(c f) = c A(f): the length of f changes neither logits nor gradients, and features without
    their norms serve as well. Unit features are used.

    Where it differs from the released code: its width is not fixed to RN50's 1024. The released code augments anew in
    every epoch, as `fresh_views` does; by default epoch e takes stored view e modulo `views`, or the image itself where
    there are no views.

    Several labels per image: binary cross-entropy, each label's logit relative to its negative prompts; without them to
    the backbone's logit bias, or else to the label's mean zero-shot score over the support.

    Classes with unequal numbers of images count alike (`class_weight`), and among settings that score alike on val the
    middle one is taken (`ties`); published are "none" and "published". With equal classes only ties differ.

    Resources:
        batch_order: (epochs, N) int64, the order of the whole support in each epoch instead of a seeded shuffle.
        images: `TrainingImages`, with `fresh_views`.

    Raises:
        ConfigError: an option out of range.

    Example:
        >>> adapter = build_adapter("clip-adapter", ratio=0.4, epochs=10)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "any width (released: only that of RN50); by default 10 stored augmented views in turn instead of new ones "
        "(`fresh_views`); `ratio=None` searches the ratio on val, which the released code does not do"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("down", "up", "ratio_", "text", "logit_scale", "offset", "negative")
    trained: ClassVar[tuple[str, ...]] = ("down", "up")

    pool = has(TrainingViews, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)
    choice = has(Ties)
    ratio: float | None = option(
        RATIO, "share of the adapted feature, 0 being zero-shot; none to search it", low=0, high=1
    )
    reduction: int = option(4, "width of the features over that of the bottleneck", low=1, high=1_048_576)
    lr: float = option(2e-3, "peak learning rate", above=0)
    epochs: int | None = option(None, "epochs; none: the published number for the shots", low=1, high=100_000)
    batch_size: int = dassl_batch_size(32)
    momentum: float = option(0.9, "momentum of SGD", low=0, below=1)
    weight_decay: float = option(5e-4, "weight decay of SGD", low=0)
    warmup: str | None = dassl_warmup()

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        frame = frame_of(classifier, support)
        self.text, self.logit_scale = classifier.weights, frame.logit_scale
        self.offset, self.negative = frame.offset, frame.negative
        epochs = self.epochs or next(epochs for least, epochs in EPOCHS_FROM_SHOTS if support.shots >= least)
        selection = self._selection(support, val, epochs, seed)
        ratios = RATIOS if selection.val is not None else (RATIO if self.ratio is None else float(self.ratio),)
        order = resources.get("batch_order")
        train = partial(self._train, views=views_of_training(self.pool, support, backbone, resources, seed))

        heads, history = train(selection.train, ratios, epochs, seed, None if selection.held_out else order)
        best, score = self._best(selection, heads)
        history = history[best]
        if selection.held_out:
            first = [{**row, "refit": 0} for row in history]
            heads, second = train(support, ratios[best : best + 1], epochs, seed, order)
            history, ratios, best = first + [{**row, "refit": 1} for row in second[0]], ratios[best : best + 1], 0
        self.down, self.up, self.ratio_ = heads.down[best], heads.up[best], ratios[best]
        chosen = {"ratio": self.ratio_, "epochs": epochs}
        return FitReport(self.name, chosen, selection.words, score, history, notes=[self.pool.views_note(support)])

    def _selection(self, support: FeatureSet, val: FeatureSet | None, epochs: int, seed: int) -> Selection:
        if self.ratio is None:
            return selection_split(support, val, seed)
        words = f"published settings for {support.shots} shots" if self.epochs is None else "given as options"
        return Selection(support, None, words)

    def _train(
        self, support, ratios, epochs: int, seed: int, order, views
    ) -> tuple[_Heads, list[list[dict[str, float]]]]:
        """A head for each ratio, and the history of each."""
        heads = _Heads.fresh(support.dim, self.reduction, ratios, seed, support.features.device)
        optimizer = torch.optim.SGD([heads.down, heads.up], self.lr, self.momentum, weight_decay=self.weight_decay)
        criterion = label_loss(support.multilabel, self.weighting.priors_of(support.labels, len(self.text)))

        def loss_of(unit: Tensor, labels: Tensor) -> Tensor:
            return torch.stack([criterion(logits, labels) for logits in self._scores(heads.adapt(unit))])  # (R,)

        training = dassl_epochs(
            optimizer, support, loss_of, epochs, seed,
            batch_size=self.batch_size, warmup=self.warmup, views=views, order=order,
        )  # fmt: skip
        rows = [[epoch.row(head=head) for head in range(len(ratios))] for epoch in training]
        history = [list(of_head) for of_head in zip(*rows)]
        return heads.detached(), history

    def _best(self, selection: Selection, heads: _Heads) -> tuple[int, float | None]:
        """The first head of the best score on val."""
        if selection.val is None:
            return 0, None
        adapted, labels = self._scores(heads.adapt(selection.val.unit)), selection.val.labels
        scores = [self.weighting.val_score(logits, labels) for logits in adapted]
        best = best_setting(np.array(scores), self.choice.ties)[0]
        return best, scores[best]

    def _scores(self, adapted: Tensor) -> Tensor:
        """(..., B, D) unit features -> (..., B, C)."""
        return Frame(self.logit_scale, self.offset, self.negative).logits(adapted, self.text)

    def _logits(self, batch: Batch) -> Tensor:
        return self._scores(adapt(batch.unit, self.down, self.up, self.ratio_))


def adapt(features: Tensor, down: Tensor, up: Tensor, ratio: float | Tensor) -> Tensor:
    """Unit blends (..., B, D) of (B, D) features and what a bottleneck makes of them.

    Args:
        features: (B, D).
        down: (..., D/4, D).
        up: (..., D, D/4).
        ratio: share of the bottleneck's output, (..., 1, 1) where there are several.
    """
    made = F.relu(F.relu(features @ down.mT) @ up.mT)  # (..., B, D)
    return F.normalize(ratio * made + (1 - ratio) * features, dim=-1)


@dataclass
class _Heads:
    """R bottlenecks, (R, H, D) and (R, D, H), each with its ratio (R, 1, 1)."""

    down: Tensor
    up: Tensor
    ratio: Tensor

    @classmethod
    def fresh(cls, dim: int, reduction: int, ratios, seed: int, device) -> _Heads:
        """All from the same start, so that they differ by their ratio alone."""
        generator = torch.Generator().manual_seed(seed)
        hidden = max(1, dim // reduction)
        layers = []
        for shape in ((hidden, dim), (dim, hidden)):
            weight = torch.nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)
            layers.append(weight.to(device).expand(len(ratios), *shape).clone().requires_grad_())
        return cls(*layers, torch.tensor(ratios, device=device)[:, None, None])

    def adapt(self, unit: Tensor) -> Tensor:
        """(B, D) -> (R, B, D)."""
        return adapt(unit, self.down, self.up, self.ratio)

    def detached(self) -> _Heads:
        return _Heads(self.down.detach(), self.up.detach(), self.ratio)
