"""TaskRes: a residual learned on top of the text features.

Take it for the best few-shot numbers on frozen features; it chooses nothing on validation images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FitReport, TrainingViews, has, option
from ...core.training import label_loss, views_of_training
from ..dassl_options import dassl_batch_size, dassl_epochs, dassl_warmup
from ..published_sets import SETS, preset_option
from ._text_rows import Frame, frame_of, normalised_rows, text_base

EPOCHS_FROM_SHOTS = ((8, 200), (1, 100))


@dataclass(eq=False, kw_only=True)
class Taskres(Adapter):
    """Task Residual for Tuning Vision-Language Models (Yu et al., 2023, arXiv 2211.10277).

    t' = t + alpha r, logits = s x (t'/|t'|)^T. t (C, D) are the text features as the tower gives them, a mean over a
    class's texts; the residual r (C, D) starts at 0 and is all that is trained: Adam on the cross-entropy, Dassl's
    warm-up and cosine; that of the last step is kept, and nothing is chosen on val. With alpha 0 it is zero-shot on t.
    This is the paper's TaskRes on the regular base; an enhanced base is another text tower, and so another backbone.

    Where it differs from the released code: float32. The released code augments anew in every epoch, as `fresh_views`
    does; by default epoch e takes stored view e modulo `views`, or the image itself where there are no views. How far a
    step turns t depends on its length: where the text features have unit length (a features file, some towers), t is
    the unit classifier scaled to length 10, about that of CLIP's, for which the rate was published.

    Several labels per image: binary cross-entropy, each label's logit relative to its negative prompts, which stay as
    they are; without them to the backbone's logit bias, or else to the label's mean zero-shot score over the support.

    Published are alpha 0.5 (1 for Flowers102), a rate of 2e-3 (2e-4 for ImageNet), and 200 epochs from 8 shots on, else
    100.

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Resources:
        batch_order: (epochs, N) int64, the order of samples in each epoch instead of a seeded shuffle.
        images: `TrainingImages`, with `fresh_views`.

    Raises:
        ConfigError: an option out of range.

    Example:
        >>> adapter = build_adapter("taskres", epochs=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "float32; by default 10 stored augmented views in turn instead of new ones (`fresh_views`); if the norms of "
        "text features are unknown (a features file), they are set to 10, about CLIP's"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("base", "residual", "logit_scale", "offset", "negative")
    trained: ClassVar[tuple[str, ...]] = ("residual",)

    pool = has(TrainingViews, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)
    presets: ClassVar[tuple[str, ...]] = SETS
    preset: str | None = preset_option()
    alpha: float | None = option(None, "weight of the residual; none: 0.5, or the preset's", low=0)
    lr: float | None = option(None, "peak learning rate; none: 2e-3, or the preset's", above=0)
    epochs: int | None = option(None, "epochs; none: the published number for the shots", low=1, high=100_000)
    batch_size: int = dassl_batch_size(256)
    weight_decay: float = option(5e-4, "weight decay of Adam, added to the gradient as in Dassl", low=0)
    warmup: str | None = dassl_warmup()

    @property
    def alpha_(self) -> float:
        """The weight of the residual: Flowers102 has another."""
        return self.alpha if self.alpha is not None else 1.0 if self.preset == "oxford_flowers" else 0.5

    @property
    def _lr(self) -> float:
        return self.lr if self.lr is not None else 2e-4 if self.preset == "imagenet" else 2e-3

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        frame = frame_of(classifier, support)
        self.logit_scale, self.offset, self.negative = frame.logit_scale, frame.offset, frame.negative
        self.base, notes = text_base(classifier)
        epochs = self.epochs or next(epochs for least, epochs in EPOCHS_FROM_SHOTS if support.shots >= least)
        views = views_of_training(self.pool, support, backbone, resources, seed)
        history = self._train(support, views, epochs, resources.get("batch_order"), seed)
        return FitReport(
            self.name,
            chosen={"alpha": self.alpha_, "epochs": epochs},
            chosen_on="options" if self.epochs else f"published settings for {support.shots} shots",
            history=history,
            notes=[self.pool.views_note(support), *notes],
        )

    def _train(self, support, views, epochs: int, order: Tensor | None, seed: int) -> list[dict[str, float]]:
        self.residual = torch.zeros_like(self.base).requires_grad_()
        optimizer = torch.optim.Adam([self.residual], lr=self._lr, weight_decay=self.weight_decay)
        criterion = label_loss(support.multilabel, self.weighting.priors_of(support.labels, len(self.base)))

        def loss_of(unit: Tensor, labels: Tensor) -> Tensor:
            return criterion(self._scores(unit), labels)

        training = dassl_epochs(
            optimizer, support, loss_of, epochs, seed,
            batch_size=self.batch_size, warmup=self.warmup, views=views, order=order,
        )  # fmt: skip
        history = [epoch.row() for epoch in training]
        self.residual = self.residual.detach()
        return history

    def _scores(self, unit: Tensor) -> Tensor:
        rows = normalised_rows(self.base + self.alpha_ * self.residual)  # (C, D)
        return Frame(self.logit_scale, self.offset, self.negative).logits(unit, rows)

    def _logits(self, batch: Batch) -> Tensor:
        return self._scores(batch.unit)
