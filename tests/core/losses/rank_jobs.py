"""Jobs of one of several processes, which import this module by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vladapt import build_loss, load_backbone
from vladapt.core.testing.loss_steps import DIMS, example_outputs


def arithmetic_of(content: Mapping[str, Any], rank: int, size: int) -> dict[str, Any]:
    """Operations of matrix products in forward and backward pass on this rank's part of "count" rows of width "width".

    Args:
        content: "loss", "options", "count", "width".
    """
    loss = build_loss(content["loss"], DIMS, **content["options"])
    batch = example_outputs(loss.needs, 0, loss.outputs, B=content["count"] // size, D=content["width"])
    out = {name: leaf(value) for name, value in batch.items()}
    with FlopCounterMode(display=False) as counter:
        loss(out, 0.5)["loss"].backward()
    return {"operations": counter.get_total_flops()}


def leaf(value: Tensor) -> Tensor:
    return value.clone().requires_grad_() if value.is_floating_point() else value


def parts_of(content: Mapping[str, Any], rank: int, size: int) -> dict[str, Any]:
    """All values that the losses of an objective give for this rank's rows, and the gradients of its outputs.

    Args:
        content: "losses" (name -> weight), "batch" of all ranks, "shared" names.
    """
    from vladapt.core.training.objective import build_objective

    torch.manual_seed(0)
    objective = build_objective(content["losses"], DIMS)
    out = {}
    for name, value in content["batch"].items():
        count = len(value) // size if value.ndim else 0
        out[name] = leaf(value if name in content["shared"] else value[rank * count : (rank + 1) * count])
    values = objective(out, 0.5)
    values["loss"].backward()
    gradients = {name: value.grad / size for name, value in out.items() if value.grad is not None}
    return {"values": {name: value.detach() for name, value in values.items()}, "gradients": gradients}


def rows_of(content: Mapping[str, Any], rank: int, size: int) -> dict[str, Any]:
    """What a stored backbone makes of images.

    Args:
        content: "spec", "pixels".
    """
    backbone = load_backbone(content["spec"], device="cpu")
    return {"rows": backbone.encode_image(content["pixels"]), "has_text": backbone.has_text}
