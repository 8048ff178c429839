"""Fine-tuning of whole towers, or of their last layers, on labelled images or pairs."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.contracts.adapter import require
from ...core.contracts.backbone import Backbone
from ...core.training.layers import set_trainable
from ._towers import TowerAdapter


@dataclass(eq=False, kw_only=True)
class Full(TowerAdapter):
    """Fine-tuning of both towers.

    Goyal et al., Finetune like you pretrain: Improved finetuning of zero-shot vision models (FLYP), 2022,
    arXiv 2212.00638.

    Everything trains, the logit scale too, with the class prompts as the text. By default by cross-entropy over all
    classes, the prompts encoded anew in each step, which suits few classes and small batches; `loss="clip"` is FLYP's
    own, the contrastive loss between the images of a batch and a prompt of each one's class, drawn in turn.

    Learning rate, optimiser, weight decay and cosine are those that FLYP publishes for ImageNet, the 20 epochs those of
    its few-shot sets. A batch of 32 (published: 512, or the whole set in few-shot) and a warm-up over a tenth of the
    steps (published: 500 steps, none in few-shot) are ours, for sets of a few images a class. Only tensors that changed
    are saved.

    Args:
        last: train only so many of each tower's last layers: 1 is what comes after the blocks, 2 the last block too;
            None trains all.
    """

    last: int | None = None

    def __post_init__(self):
        super().__post_init__()
        require(self.last is None or self.last >= 1, "last", self.last, "give 1 or more layers, or None for all")

    def _choose(self, backbone: Backbone) -> list[str]:
        set_trainable(backbone, last=self.last)
        return []
