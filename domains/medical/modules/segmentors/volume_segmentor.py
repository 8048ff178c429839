"""A network of volumes with its loss: Dice and cross-entropy at every resolution that it gives scores of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .....registry import MODELS
from ...segmenting import CLASSES

ALL_MIRRORS = ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))


@MODELS.register_module()
class VolumeSegmentor(BaseModel):
    """One network, or the members of an ensemble whose scores are averaged.

    The loss is the sum of MONAI's soft Dice loss, without the background, and cross-entropy; of regions, each of which
    has a sigmoid, binary cross-entropy. Scores of coarser resolutions count half as much from one to the next (MONAI's
    `DeepSupervisionLoss`).

    Args:
        network: config of a registered network.
        kind: of scores, "classes" or "regions".
        members: how many networks there are.
        mirrored: average the scores of all eight mirrored views of a window.

    Class attributes:
        steered: whether texts of structures may be given (`ask_for`).
    """

    steered: ClassVar[bool] = False

    def __init__(
        self, network: Mapping[str, Any], kind: str = CLASSES, members: int = 1, mirrored: bool = False, **options: Any
    ):
        super().__init__(**options)
        from monai.losses.dice import DiceCELoss, DiceLoss
        from monai.losses.ds_loss import DeepSupervisionLoss

        self.networks = nn.ModuleList(MODELS.build(dict(network)) for _ in range(members))
        self.kind, self.mirrored = kind, mirrored
        if kind == CLASSES:
            whole = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        else:
            whole = _DiceAndBinary(DiceLoss(sigmoid=True))
        self.criterion = DeepSupervisionLoss(whole)

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, annotated: Tensor | None = None, mode: str = "tensor"
    ):
        """Scores (B, K, z, y, x) of patches, or in training {"loss"}.

        Args:
            inputs: (B, C, z, y, x).
            labels: (B, 1, z, y, x) classes, or (B, K, z, y, x) of regions.
            annotated: (B, K) whether the structure was outlined; here all are.
        """
        if mode == "loss":
            assert labels is not None
            return {"loss": self.criterion(_each_resolution(self.networks[0](inputs)), labels.float())}
        members = [lambda x, n=network: _each_resolution(n(x))[0] for network in self.networks]
        return over_views(members, inputs, self.mirrored)


def over_views(members: Sequence[Callable[[Tensor], Tensor]], inputs: Tensor, mirrored: bool) -> Tensor:
    """The mean of the scores of several networks and, where it is asked for, of the eight mirrored views."""
    axes = ALL_MIRRORS if mirrored else ALL_MIRRORS[:1]
    total: Tensor | int = 0
    for member in members:
        for flipped in axes:
            found = member(inputs.flip(flipped) if flipped else inputs)
            total = total + (found.flip(flipped) if flipped else found)
    return total / (len(axes) * len(members))


class _DiceAndBinary(nn.Module):
    """The sum of a Dice loss and binary cross-entropy."""

    def __init__(self, dice: nn.Module):
        super().__init__()
        self.dice = dice

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        return self.dice(scores, labels) + binary_cross_entropy_with_logits(scores, labels)


def _each_resolution(scores: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The finest first; DynUNet stacks them in training."""
    if isinstance(scores, torch.Tensor):
        return list(scores.unbind(dim=1)) if scores.ndim == 6 else [scores]
    return list(scores)
