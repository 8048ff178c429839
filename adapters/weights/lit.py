"""LiT: one tower is locked, and the other is trained to match it.

Take it on thousands of pairs, where a good image tower is to keep its features and learn your words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.contracts import Backbone, option
from ...core.training import TowerAdapter, TowerLayers

TOWERS = ("image", "text")


@dataclass(eq=False, kw_only=True)
class Lit(TowerAdapter):
    """Locked-image tuning: the text tower learns to read out what the image tower sees.

    Zhai et al., LiT: Zero-Shot Transfer with Locked-image text Tuning, 2021, arXiv 2111.07991.

    The image tower stays the same bit for bit; the text tower and the logit scale are trained by the contrastive loss
    between images and texts: on labelled images, the prompts of the class of each, drawn in turn. Only tensors that
    changed are saved.

    Classes are not weighted: among the texts of a batch a class occurs as often as it has images, so that a rare one is
    not crowded out.

    The paper trains a text tower from scratch, with batches of 16,384 and a learning rate of 1e-3; here a pretrained
    one is tuned further, so the settings are those of `full`.

    For the last layers, 1 is what comes after the blocks, 2 the last block as well.

    Example:
        >>> adapter = build_adapter("lit", epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked that the locked tower stays the same bit for bit while the other tower and the logit "
        "scale change. The text tower starts pretrained (paper: from scratch), with the settings of `full`"
    )
    can: ClassVar[frozenset[str]] = TowerAdapter.can | {"channels"}
    default_loss: ClassVar[str] = "clip"

    lock: str = option("image", "the tower that stays frozen; text is the mirror image of LiT", choices=TOWERS)
    last: int | None = option(None, "train only this many last layers of the other tower; none: all", low=1, high=1000)

    def _choose(self, backbone: Backbone) -> list[str]:
        TowerLayers(backbone).set_trainable(lock=self.lock, last=self.last)
        return []
