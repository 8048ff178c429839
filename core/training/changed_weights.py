"""What a training changed of a model: taken out, put into another copy, named by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..errors import DataError


def changed_tensors(trained: Backbone, base: Backbone) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, of all parameters and buffers that differ, or that the base does not have."""
    before = base.model.state_dict()
    return {
        name: value.detach().cpu().clone()
        for name, value in trained.model.state_dict().items()
        if name not in before or not torch.equal(value, before[name])
    }


@torch.no_grad()
def put_tensors(backbone: Backbone, tensors: Mapping[str, Tensor], module: nn.Module | None = None) -> None:
    """Overwrite parameters and buffers of the model, or of one of its modules, in place.

    Raises:
        DataError: the model has no tensor of that name and shape; nothing is then changed.
    """
    current = (module or backbone.model).state_dict(keep_vars=True)
    for name, value in tensors.items():
        if name not in current or current[name].shape != value.shape:
            raise DataError(
                f"backbone '{backbone.spec}' has no weight '{name}' of shape {tuple(value.shape)}; fit again"
            )
    for name, value in tensors.items():
        current[name].copy_(value)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
