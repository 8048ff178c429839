"""Queries by text, by image, or by both."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..contracts.errors import ConfigError


def mixed(text: Tensor | None, image: Tensor | None, weight: float = 0.5) -> Tensor:
    """The query of a text, an image, or both: "like this picture, but at night".

    Both are brought to unit length, added by weight, and the sum to unit length again: the mean direction.

    Args:
        text: (D,) feature, or None.
        image: (D,) feature, or None.
        weight: share of the text where there are both, 0..1.

    Returns:
        (D,) unit.

    Raises:
        ConfigError: neither is given, or the weight is outside 0..1.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"--weight {weight}: give the text's share, from 0 (image only) to 1 (text only)")
    if text is None and image is None:
        raise ConfigError("nothing to search for: give a text, --image FILE, or both")
    if text is None or image is None:
        return F.normalize((image if text is None else text).float(), dim=-1)
    both = weight * F.normalize(text.float(), dim=-1) + (1 - weight) * F.normalize(image.float(), dim=-1)
    return F.normalize(both, dim=-1)
