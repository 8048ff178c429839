"""TaskRes: a residual learned on top of the text features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts.adapter import Adapter, Batch, FitReport, require
from ...core.training.small_heads import dassl_epochs, label_loss, published_epochs
from ._training import Frame, check_training, frame_of, text_base, unit_rows, views_note

EPOCHS_FROM_SHOTS = ((8, 200), (1, 100))


@dataclass(eq=False, kw_only=True)
class Taskres(Adapter):
    """Task Residual for Tuning Vision-Language Models (Yu et al., 2023, arXiv 2211.10277).

    t' = t + alpha r, logits = s x (t'/|t'|)^T. t (C, D) are the text features as the tower gives them, a mean over a
    class's texts; the residual r (C, D) starts at 0 and is all that is trained: Adam on the cross-entropy, Dassl's
    warm-up and cosine; the last step's is kept, nothing is chosen on val. With alpha 0 it is zero-shot on t. This is
    the paper's TaskRes on the regular base; an enhanced base is another text tower, and so another backbone.

    Where it differs from the released code: float32. It augments anew every epoch; here epoch e takes view e modulo
    `views`, or the image itself where there are no views. How far a step turns t depends on its length: where the
    text features are unit (a features file, some towers), t is the unit classifier brought to length 10, about that of
    CLIP's, for which the rate was published.

    Several labels an image: binary cross-entropy, each label's logit relative to its negative prompts, which stay as
    they are; without them to the backbone's logit bias, or else to its mean zero-shot score over the support.

    Args:
        alpha: weight of the residual; published 0.5, and 1 for Flowers102.
        lr: peak learning rate; published 2e-3, and 2e-4 for ImageNet.
        epochs: None takes the published number for the shots of the support: 200 from 8 on, else 100.
        batch_size: an incomplete last batch is dropped where there is a full one.
        weight_decay: of Adam, added to the gradient (Dassl's default).
        warmup: "constant" (first epoch at 1e-5), "linear" or None.
        views: augmented views of each image to train on, where the support has them.

    Resources:
        batch_order: (epochs, N) int64, the order of samples in each epoch instead of a seeded shuffle.

    Raises:
        ConfigError: an option out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("base", "residual", "logit_scale", "offset", "negative")
    trained: ClassVar[tuple[str, ...]] = ("residual",)

    alpha: float = 0.5
    lr: float = 2e-3
    epochs: int | None = None
    batch_size: int = 256
    weight_decay: float = 5e-4
    warmup: str | None = "constant"
    views: int = 10

    def __post_init__(self):
        require(self.alpha >= 0, "alpha", self.alpha, "give 0 or more")
        check_training(self)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        frame = frame_of(classifier, support)
        self.logit_scale, self.offset, self.negative = frame.logit_scale, frame.offset, frame.negative
        self.base, notes = text_base(classifier)
        epochs = self.epochs or published_epochs(support.shots, EPOCHS_FROM_SHOTS)
        history = self._train(support, epochs, resources.get("batch_order"), seed)
        return FitReport(
            self.name,
            chosen={"alpha": self.alpha, "epochs": epochs},
            chosen_on="options" if self.epochs else f"published settings for {support.shots} shots",
            history=history,
            notes=[views_note(support, self.views), *notes],
        )

    def _train(self, support, epochs: int, order: Tensor | None, seed: int) -> list[dict[str, float]]:
        self.residual = torch.zeros_like(self.base).requires_grad_()
        optimizer = torch.optim.Adam([self.residual], lr=self.lr, weight_decay=self.weight_decay)
        criterion = label_loss(support.multilabel)

        def loss_of(unit: Tensor, labels: Tensor) -> Tensor:
            return criterion(self._scores(unit), labels)

        training = dassl_epochs(
            optimizer, support, loss_of, epochs, seed,
            batch_size=self.batch_size, warmup=self.warmup, views=self.views, order=order,
        )  # fmt: skip
        history = [epoch.row() for epoch in training]
        self.residual = self.residual.detach()
        return history

    def _scores(self, unit: Tensor) -> Tensor:
        rows = unit_rows(self.base + self.alpha * self.residual)  # (C, D)
        return Frame(self.logit_scale, self.offset, self.negative).logits(unit, rows)

    def _logits(self, batch: Batch) -> Tensor:
        return self._scores(batch.unit)
