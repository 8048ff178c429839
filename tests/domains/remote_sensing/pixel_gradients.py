"""Gradients of small networks that answer for each pixel, of one batch whose parts have unequal numbers of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from vladapt.core.tasks import build_model
from vladapt.registry import MODELS

NORM = {"type": "GN", "num_groups": 2}
ENCODER = {"type": "mmseg.UNet", "in_channels": 3, "base_channels": 4, "norm_cfg": NORM}
WIDTHS = (64, 32, 16, 8, 4)
HEAD = {"type": "mmseg.FCNHead", "in_channels": 4, "in_index": 4, "channels": 4, "num_classes": 2, "num_convs": 1}
STATISTICS = {"mean": [0.5] * 3, "std": [0.2] * 3}
MODELS_OF = {
    "pixel-regression": {
        "type": "vladapt.PixelRegressor",
        "backbone": ENCODER,
        "decode_head": {**HEAD, "norm_cfg": NORM, "dropout_ratio": 0.0},
        "target_mean": 3.0,
        "target_std": 2.0,
        "scaled": True,
        **STATISTICS,
    },
    "change": {
        "type": "vladapt.ChangeSegmentor",
        "encoder": ENCODER,
        "in_channels": list(WIDTHS),
        "channels": 4,
        "change_weight": 3.0,
        **STATISTICS,
    },
}


def gradients_of(task: str, rows: slice) -> dict[str, Tensor]:
    """Of each weight, from some of four images."""
    torch.set_num_threads(1)
    MODELS.get("vladapt.PixelRegressor")  # imports what configs may name
    torch.manual_seed(0)
    model = build_model({"default_scope": "mmseg", "model": MODELS_OF[task]}, torch.device("cpu")).train()
    random = torch.Generator().manual_seed(1)
    pixels = torch.rand(4, 2, 3, 32, 32, generator=random)
    labels = (torch.rand(4, 32, 32, generator=random) < 0.3).long()
    labels[:2, :20] = 255  # the first half has fewer pixels
    batch = {"inputs": pixels, "labels": labels}
    if task == "pixel-regression":
        batch = {"inputs": pixels[:, 0], "target": 5 * pixels[:, 1, 0], "valid": labels != 255}
    losses = model(**{name: values[rows] for name, values in batch.items()}, mode="loss")
    sum(losses.values()).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
