"""Parts of transformers' losses by layer, times the weights that its configuration has for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

LAYER = re.compile(r"(_\d+|_enc)$")


def weighed(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The parts that have a weight, of every layer ("loss_bbox", "loss_bbox_0", "loss_bbox_enc"), times it."""
    names = {part: LAYER.sub("", part) for part in parts}
    return {part: parts[part] * weights[name] for part, name in names.items() if name in weights}


def of_detr(config) -> dict[str, float]:
    """Weights of DETR and its kin."""
    return {"loss_ce": 1, "loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
