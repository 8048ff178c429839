"""Fine-tuning of whole towers, or of their last layers, on labelled images or pairs.

Take it for images unlike anything the towers know, where there are many of them and a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.contracts import Backbone, ClassWeighting, has, option
from ...core.training import TowerAdapter, TowerLayers


@dataclass(eq=False, kw_only=True)
class Full(TowerAdapter):
    """Fine-tuning of both towers.

    Goyal et al., Finetune like you pretrain: Improved finetuning of zero-shot vision models (FLYP), 2022,
    arXiv 2212.00638.

    Everything is trained, the logit scale too, with the class prompts as the text. The default is cross-entropy over
    all classes, with the prompts encoded anew in each step, which suits few classes and small batches; `loss="clip"` is
    FLYP's own, the contrastive loss between the images of a batch and a prompt of each one's class, drawn in turn.

    Learning rate, optimiser, weight decay and cosine are those that FLYP publishes for ImageNet, the 20 epochs those of
    its few-shot sets. A batch of 32 (published: 512, or the whole set in few-shot) and a warm-up over a tenth of the
    steps (published: 500 steps, none in few-shot) are ours, for sets of a few images per class. Only tensors that
    changed are saved.

    For the last layers, 1 is what comes after the blocks, 2 the last block as well.

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs. Without a text tower a vector per class is learned in place of its text; see `TowerAdapter`.

    Example:
        >>> adapter = build_adapter("full", last=1, epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked on which tensors change; its contrastive loss, FLYP's, is checked against an explicit "
        "computation on a batch. Batch size and warm-up are set for few images (released: 512, 500 steps)"
    )

    can: ClassVar[frozenset[str]] = TowerAdapter.can | {"channels"}
    text_free: ClassVar[bool] = True

    weighting = has(ClassWeighting)
    last: int | None = option(None, "train only this many last layers of each tower; none: all", low=1, high=1000)

    def _choose(self, backbone: Backbone) -> list[str]:
        TowerLayers(backbone).set_trainable(last=self.last)
        return []
