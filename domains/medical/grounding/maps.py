"""The map of a phrase over an image: its similarity with each patch, smoothed, in the pixels of the whole image.

"Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing" (Boecking et al., 2022, arXiv
2204.09817): cosines of patches and phrase, a Gaussian filter over the grid of patches, and no value where the tower's
crop does not reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.errors import CapabilityError

SIGMA = 1.5
"""Of the Gaussian filter, in patches."""
NEAREST, BILINEAR = INTERPOLATIONS = ("nearest", "bilinear")


def smoothed(grid: Tensor, sigma: float = SIGMA) -> Tensor:
    """(h, w) after a Gaussian filter, the grid reflected at its border.

    Args:
        sigma: in patches; 0 for no filter.
    """
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(grid.cpu().numpy(), sigma))


@dataclass(frozen=True)
class Region:
    """The part of an image that a tower sees, in pixels of the whole image.

    Args:
        height, width: of the whole image.
        top, left, rows, columns: of the part.
    """

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int

    @classmethod
    def cropped(cls, size: tuple[int, int], resize: int | None = None, crop: int | None = None) -> Region:
        """The square in the middle that is left of an image (height, width) whose shorter side is brought to `resize`
        pixels, of which `crop` are kept; None where there is no such step. Of an odd margin the smaller part is above
        and on the left."""
        height, width = size
        if crop is None:
            return cls(height, width, 0, 0, height, width)
        side = crop if resize is None else int(crop * min(size) / resize)
        return cls(height, width, (height - side) // 2, (width - side) // 2, side, side)

    @classmethod
    def seen(cls, transform: Mapping[str, Any], size: tuple[int, int]) -> Region:
        """What a backbone's own preprocessing leaves of an image (height, width).

        Args:
            transform: its `spec`.

        Raises:
            CapabilityError: it is of another kind, so that patches have no known place.
        """
        if transform.get("transform") != "clip":
            raise CapabilityError(
                f"the preprocessing '{transform.get('transform')}' does not say which part of an image it keeps; use a "
                "backbone with the preprocessing of CLIP"
            )
        side = transform["image_size"]
        rows, columns = side if isinstance(side, (list, tuple)) else (side, side)
        resize = transform.get("resize") or min(rows, columns)
        if transform["mode"] == "shortest" and rows == columns:
            return cls.cropped(size, resize, rows)
        height, width = size
        kept = min(rows, columns) / resize
        if transform["mode"] == "squash":
            part = int(height * kept), int(width * kept)
        else:  # the image covers (rows, columns), its proportions kept
            scale = max(rows / height, columns / width) / kept
            part = min(height, int(rows / scale)), min(width, int(columns / scale))
        return cls(height, width, (height - part[0]) // 2, (width - part[1]) // 2, *part)

    def spread(self, grid: Tensor, interpolation: str = NEAREST) -> Tensor:
        """(h, w) of the patches -> (height, width) of the whole image, NaN where the tower sees nothing."""
        align = None if interpolation == NEAREST else False
        part = F.interpolate(grid[None, None], (self.rows, self.columns), mode=interpolation, align_corners=align)
        below, right = self.height - self.top - self.rows, self.width - self.left - self.columns
        return F.pad(part[0, 0], (self.left, right, self.top, below), value=torch.nan)


def phrase_cosines(patches: Tensor, phrase: Tensor, grid: Sequence[int]) -> Tensor:
    """(P, D) features of patches and (D,) of a phrase -> (h, w) cosines."""
    return (F.normalize(patches, dim=-1) @ F.normalize(phrase, dim=-1)).unflatten(0, tuple(grid))


def phrase_feature(raw: Tensor) -> Tensor:
    """(T, D) projections of several wordings of one phrase, not brought to length 1 -> (D,) unit, of their mean."""
    return F.normalize(raw.mean(dim=0), dim=-1)


def unit_range(heat: Tensor) -> Tensor:
    """A map with its lowest value at 0 and its highest at 1, NaN where it was; of a flat map all 0."""
    known = heat[heat.isfinite()]
    low, high = known.min(), known.max()
    return (heat - low) / (high - low if high > low else 1.0)


def for_eyes(heat: Tensor) -> np.ndarray:
    """(H, W) float32 in 0..1, 0 where nothing is known."""
    return unit_range(heat).nan_to_num(0.0).float().numpy()
