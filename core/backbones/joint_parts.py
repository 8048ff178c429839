"""What lets an image tower see all parts of a sample at once: the frames of a clip, the slices of a volume.

It hangs on the model of a backbone, so that its weights are trained, checkpointed, moved and copied with the tower's.
Every pass over a sample with parts then goes through it, and an image is a sample of one part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..errors import CapabilityError


class JointParts(nn.Module, ABC):
    """Base of passes over samples with parts. It runs the blocks of the tower that it hangs on, and has beside them
    what passes between parts.

    Args:
        parts: how many of each sample it sees.

    Class attributes:
        rate: factor on the learning rate of its own weights.

    Attributes:
        gives_parts: whether it is asked for a vector of each part, for a head to read, and features of a sample are the
            mean of these.
    """

    rate: ClassVar[float] = 1.0
    gives_parts: bool = False

    def __init__(self, parts: int):
        super().__init__()
        self.parts = parts

    @abstractmethod
    def embed(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, T, 3, H, W), T = `parts` -> (B, D), not normalised."""

    def embed_parts(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, T, 3, H, W), T = `parts` -> (B, T, D), not normalised: each part as the others let it be seen.

        Raises:
            CapabilityError: it gives no more than one vector per sample.
        """
        raise CapabilityError(f"backbone '{backbone.spec}' gives one vector per sample here, and none of each part")

    def forward(self, backbone: Backbone, pixels: Tensor, parts: bool = False) -> Tensor:
        """(B, T, 3, H, W) -> (B, D), or of the `parts` (B, T, D), not normalised, of any T: see `chosen`."""
        return (self.embed_parts if parts else self.embed)(backbone, self.chosen(pixels, self.parts, dim=1))

    @staticmethod
    def chosen(parts: Tensor, count: int, dim: int = 0) -> Tensor:
        """As many as wanted along an axis of T, in their order: those at round(linspace(0, T - 1, count)), so that all
        stay where T = count, some come twice where there are fewer, and some are left out where there are more."""
        have = parts.shape[dim]
        if have == count:
            return parts
        places = torch.linspace(0, have - 1, count, dtype=torch.float64).round().long()
        return parts.index_select(dim, places.to(parts.device))

    def attach(self, backbone: Backbone) -> JointParts:
        """Let a backbone see the parts of a sample through this; see `Backbone.attach_joint`."""
        return backbone.attach_joint(self)
