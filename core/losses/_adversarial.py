"""Images attacked within the step that trains on them: what the losses that make image towers robust share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.images import height_and_width
from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..errors import CapabilityError
from ..features.extract import in_eval_mode
from ..robustness.pgd import LEVELS, NORMS, pgd

START = "pixels_attack_start"
ATTACKED = ("pixels", START)
"""Fields that attacked images are made of."""


@dataclass(eq=False, repr=False, kw_only=True)
class AdversarialLoss(RowLoss):
    """Base of losses on images that `pgd` attacks from a random start, in 0..1, by towers in eval mode; the text tower
    stays as it is."""

    frozen_towers: ClassVar[frozenset[str]] = frozenset({"text"})
    compiles: ClassVar[bool] = False  # a step has gradients of its own
    shards: ClassVar[bool] = False

    eps: float = option(
        4.0, "how far an image is changed: 255ths of a pixel, or by norm=l2 a length", above=0, high=255
    )
    step: float = option(1.0, "length of a step of the attack, in the same unit", above=0, high=255)
    steps: int = option(10, "steps of the attack", low=1, high=1000)
    norm: str = option("linf", "what bounds the change", choices=NORMS)

    def prepare(self, backbone: Backbone) -> None:
        if backbone.in_rows:
            raise CapabilityError(
                f"{self.title} attacks images of one size, and '{backbone.spec}' keeps their aspect ratio; omit "
                "#patches"
            )
        for name in ("mean", "std"):  # on the device once, and not in every step, which would wait for it
            values = torch.tensor(getattr(backbone, f"image_{name}"), device=backbone.device).view(-1, 1, 1)
            self.register_buffer(f"_{name}", values, persistent=False)

    def further_views(self, backbone: Backbone) -> dict[str, Callable[[Tensor], Tensor]]:
        shape = len(backbone.image_mean), *height_and_width(backbone.image_size)
        return {START: lambda pixels: 2 * torch.rand(shape) - 1}

    def attacked(self, batch: Mapping[str, Tensor], backbone: Backbone, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Attacked pixels as the towers take them.

        Args:
            batch: its pixels (B, 3, S, S), as the towers take them, and where the attack starts.
            loss_of: pixels as the towers take them -> losses (B,).
        """
        pixels = batch["pixels"]
        mean, std = (self.get_buffer(name).to(pixels.dtype) for name in ("_mean", "_std"))
        images, unit = (pixels * std + mean).clamp(0, 1), LEVELS if self.norm == "linf" else 1
        eps, step = self.eps / unit, self.step / unit
        how = {"eps": eps, "step": step, "steps": self.steps, "start": eps * batch[START].to(images), "norm": self.norm}
        with in_eval_mode(backbone.model):
            return (pgd(lambda at: loss_of((at - mean) / std), images, **how) - mean) / std


def in_full(values: Tensor) -> Tensor:
    """In float32 at least, whatever the precision of the towers."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
