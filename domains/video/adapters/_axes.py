"""A network of frames on the few axes that they span, where features are wide and clips are few."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone

WIDE = 1024
"""Features up to this width, those of most CLIPs, are read as they are."""
CHANNELS = 64
"""Channels of an attention head in CLIP: networks are as wide as a multiple of them."""


def spanned_axes(frames: Tensor, mask: Tensor, texts: Tensor, multiple: int, whole: bool = False) -> Tensor | None:
    """Orthonormal axes of all that these frames and texts span, where they take at most half of the width.

    Args:
        frames: (N, T, D) with mask (N, T) bool.
        texts: (C, D).
        multiple: of what the number of axes is to be; what lacks is filled with zeros.
        whole: take up to as many frames and texts as there are channels, and of the axes those that float32 can tell
            from rounding (the rank of the rows).

    Returns:
        (D, W); None where features are at most `WIDE`, or what is spanned is not narrower by half.
    """
    width = frames.shape[-1]
    if width <= WIDE:
        return None
    rows = torch.cat([frames[mask], texts]).unique(dim=0)
    if len(rows) > (width if whole else width // 2):
        return None
    precision = torch.finfo(torch.float32 if whole else torch.float64).eps
    _, sizes, axes = torch.linalg.svd(F.normalize(rows.double(), dim=1).cpu(), full_matrices=False)
    rank = int((sizes > sizes[0] * width * precision).sum())
    axes = F.pad(axes[:rank].T.to(frames), (0, -rank % multiple))  # (D, W)
    return axes if axes.shape[1] < width else None


def starts_from_texts(backbone: Backbone | None, width: int) -> bool:
    """Whether the text tower may have blocks for features of this width to start from."""
    if backbone is None or not {"text_blocks", "prompt"} <= backbone.capabilities:
        return False
    return backbone.width("text") == width


class FeatureAxes(nn.Module):
    """Into the coordinates on W axes of features D wide, and back; what lies beside the axes goes past the network.

    Coordinates are scaled by the root of W / D, so that they are as large as those of the features themselves, and
    positions that start from N(0, 0.02^2) weigh as much.

    Args:
        axes: (D, W); None: features are their own coordinates.
    """

    def __init__(self, axes: Tensor | None):
        super().__init__()
        self.register_buffer("axes", axes, persistent=False)

    def enter(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., W)."""
        return features if self.axes is None else features @ self.axes * self._scale

    def leave(self, read: Tensor) -> Tensor:
        """(..., W) -> (..., D)."""
        return read if self.axes is None else read / self._scale @ self.axes.T

    def replaced(self, features: Tensor, read: Tensor) -> Tensor:
        """Features whose coordinates are now `read`; what lies beside the axes stays."""
        return read if self.axes is None else features + self.leave(read - self.enter(features))

    @property
    def gain(self) -> float:
        """What weights of linear layers start larger by, so that they give as much of W inputs as of D."""
        return 1.0 if self.axes is None else 1 / self._scale

    @property
    def _scale(self) -> float:
        return (self.axes.shape[1] / self.axes.shape[0]) ** 0.5
