"""Weights, gradients and optimiser states cut over processes (FSDP), for towers that no single device holds.

The whole model is one unit: its weights are gathered for a pass and let go after it, so that losses and outputs may
reach into the towers wherever they like.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError
from ..runtime.distributed import world_size


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with its weights cut over all processes, in place.

    Raises:
        ConfigError: a teacher moves with the model, which sharded weights do not serve.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if model.objective.teacher == "ema":
        raise ConfigError("parallel=fsdp: a teacher that follows the towers needs parallel=ddp")
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}  # FSDP cuts along an axis
    mesh = init_device_mesh(device.type, (world_size(),))
    fully_shard(model, mesh=mesh, ignored_params=scalars)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are cut over processes."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights, for passes that do not go through the model itself."""
    if not is_sharded(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def average_replicated(parameters: list[nn.Parameter]) -> None:
    """Average the gradients of what is not cut, as is done for what is; to be called before each step."""
    for parameter in parameters:
        if parameter.grad is not None and not _is_cut(parameter):
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def local_parts(tensors: list[Tensor]) -> list[Tensor]:
    """What of each lies on this process, as views."""
    return [tensor.to_local() if _is_cut(tensor) else tensor for tensor in tensors]


def squared_norm(gradients: list[Tensor]) -> Tensor:
    """Sum of squares of all entries, those of other processes among them."""
    cut = local_parts([gradient for gradient in gradients if _is_cut(gradient)])
    rest = [gradient for gradient in gradients if not _is_cut(gradient)]
    total = _sum_of_squares(rest, gradients)
    if cut:
        of_all = _sum_of_squares(cut, gradients)
        dist.all_reduce(of_all)
        total = total + of_all
    return total


def plain(value: Any) -> Any:
    """The same state with every tensor whole; to be called on all processes."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value.full_tensor() if _is_cut(value) else value


def load_plain(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put whole tensors into a model whose own may be cut."""
    for name, value in model.state_dict(keep_vars=True).items():
        with torch.no_grad():
            if _is_cut(value):
                value.copy_(_cut_like(value, state[name]))
            else:
                value.copy_(state[name])


def cut_as(states: dict[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """An optimiser's state with whole tensors, each cut as the parameter it belongs to."""
    entries = {}
    for index, entry in states["state"].items():
        parameter = parameters[int(index)]
        entries[index] = {
            key: _cut_like(parameter, value) if _is_cut(parameter) and _like(value, parameter) else value
            for key, value in entry.items()
        }
    return {**states, "state": entries}


def make_whole(module: nn.Module) -> None:
    """Replace every cut parameter by a whole one, for good; to be called on all processes."""
    for owner in module.modules():
        for hooks in (owner._load_state_dict_post_hooks, owner._load_state_dict_pre_hooks, owner._state_dict_pre_hooks):
            for key in [key for key, hook in hooks.items() if _of_fsdp(hook)]:  # they expect cut parameters
                del hooks[key]
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if _is_cut(parameter):
                full = nn.Parameter(parameter.detach().full_tensor(), requires_grad=parameter.requires_grad)
                setattr(owner, name, full)


def _sum_of_squares(tensors: list[Tensor], like: list[Tensor]) -> Tensor:
    device = like[0].to_local().device if _is_cut(like[0]) else like[0].device
    if not tensors:
        return torch.zeros((), device=device)
    if device.type == "cuda":  # a few kernels in place of several for each tensor; a CPU keeps its order of rounding
        return torch.stack(torch._foreach_norm([tensor.float() for tensor in tensors])).square().sum()
    return torch.stack([tensor.float().square().sum() for tensor in tensors]).sum()


def _of_fsdp(hook: Any) -> bool:
    return str(getattr(getattr(hook, "hook", hook), "__module__", "")).startswith("torch.distributed.fsdp")


def _is_cut(value: Any) -> bool:
    return hasattr(value, "full_tensor")


def _like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _cut_like(parameter: Tensor, full: Tensor):
    from torch.distributed.tensor import distribute_tensor

    local = full.to(parameter.to_local().device, parameter.dtype)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements)
