"""The widths that heads of losses are built with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..contracts.backbone import Backbone


@torch.no_grad()
def dims_of(
    backbone: Backbone,
    num_samples: int,
    classes: Sequence | None = None,
    teacher: Backbone | None = None,
) -> dict[str, int]:
    """Name -> width; what a backbone does not have is left out."""
    dims = {
        "embed_dim": backbone.embed_dim,
        "context_length": backbone.context_length,
        "num_samples": num_samples,
    }
    if classes is not None:
        dims["num_classes"] = len(classes)
    if "hidden" in backbone.capabilities:
        side = backbone.image_size
        dims["image_width"] = backbone.hidden(torch.zeros(1, 3, side, side)).shape[-1]
    if "prompt" in backbone.capabilities:
        words = backbone.embed_tokens(backbone.tokenize(["a"]))
        dims["text_width"] = words.shape[-1]
        dims["vocab_size"] = backbone.vocab_size
    if teacher is not None:
        dims["teacher_dim"] = teacher.embed_dim
        if "hidden" in teacher.capabilities:
            side = teacher.image_size
            dims["teacher_width"] = teacher.hidden(torch.zeros(1, 3, side, side)).shape[-1]
    return dims
