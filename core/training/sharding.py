"""Weights, gradients and optimiser states sharded over processes (FSDP2), for towers that no single device trains.

Each block of a tower is a unit: its weights are gathered for its own pass and let go after it. What is left (patches,
words, projections, heads of losses) is the root unit, whole while the model runs. Losses reach into the towers wherever
they like: a block that we run in our own steps runs them inside the call of its module, so that FSDP's hooks see it.

What has at most one axis (norms, biases, the logit scale) is little and stays whole, in float32. In bf16 the matrices
of blocks are gathered in bf16, and gradients are added up in float32: autocast, which keeps norms in float32, then
computes as it does with whole weights. The root unit is gathered in float32, since losses compute in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..contracts.backbone import Backbone, Block
from ..errors import CapabilityError
from ..runtime.distributed import world_size

LEAST_TORCH = "2.7"


def shard(model: nn.Module, backbones: list[Backbone], whole: set[nn.Parameter], amp: str | None) -> nn.Module:
    """The model with its weights sharded over all processes, in place.

    Args:
        model: is the root unit.
        backbones: whose towers are in the model, and whose blocks become units; all on one kind of device.
        whole: further parameters that stay whole on each process; `average_replicated` is theirs.
        amp: "bf16" gathers blocks in bf16; fp16 is left to autocast, whose small gradients a scaler looks after.

    Raises:
        CapabilityError: this torch cannot leave parameters whole.
    """
    if torch.__version__ < LEAST_TORCH:
        raise CapabilityError(
            f"parallel=fsdp needs torch {LEAST_TORCH} or later, this is {torch.__version__}; update torch, or use "
            "parallel=ddp"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    whole = whole | {parameter for parameter in model.parameters() if parameter.ndim <= 1}
    mesh = init_device_mesh(backbones[0].device.type, (world_size(),))
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = half if amp == "bf16" else MixedPrecisionPolicy()
    before = [(module, type(module), dict(vars(module))) for module in model.modules()]
    for backbone in backbones:
        units = backbone.block_modules()
        for unit in reversed(units):  # the inner ones first
            fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=whole)
            unit.forward = partial(_own_or_other, unit.forward)
        backbone.wrap_blocks(partial(_inside_its_module, set(units)))
    fully_shard(model, mesh=mesh, ignored_params=whole)
    model.before_sharding = [
        _Before(module, kind, held, set(vars(module)) - set(held)) for module, kind, held in before
    ]
    return model


class _Before(NamedTuple):
    """What a module was before it was sharded."""

    module: nn.Module
    kind: type
    held: dict[str, Any]
    """Its attributes."""
    added: set[str]
    """Names of attributes that sharding gave it."""

    def restore(self) -> None:
        self.module.__class__ = self.kind
        for name in self.added:
            vars(self.module).pop(name, None)
        if "forward" in self.held:
            self.module.forward = self.held["forward"]


def _own_or_other(own, *args, other=None, **kwargs):
    """The forward pass of a unit: `other` runs in place of its own, with FSDP's hooks around it all the same."""
    return own(*args, **kwargs) if other is None else other(*args, **kwargs)


def _inside_its_module(units: set[nn.Module], block: Block) -> Block:
    return replace(block, forward=partial(block.module, other=block.forward)) if block.module in units else block


def _as_before(block: Block) -> Block:
    wrapped = isinstance(block.forward, partial) and block.forward.func is block.module
    return replace(block, forward=block.forward.keywords["other"]) if wrapped else block


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are sharded over processes."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights in their full precision, for passes that do not go through the model
    itself, and of which each process may run as many as it likes."""
    sharded = _gather(model) if is_sharded(model) else []
    hooks = _without_hooks(model) if sharded else []
    try:
        yield
    finally:
        for owner, name, parameter in sharded:
            owner._parameters[name] = parameter
        for table, entries in hooks:
            table.clear()
            table.update(entries)


def make_whole(model: nn.Module, backbones: list[Backbone]) -> None:
    """Leave no trace of `shard`, for good; to be called on all processes."""
    if not is_sharded(model):
        return
    _gather(model)
    _without_hooks(model)
    for backbone in backbones:
        backbone.wrap_blocks(_as_before)
    for before in model.before_sharding:
        before.restore()
    del model.before_sharding


def _gather(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Put whole parameters in the places of the sharded ones; which these are, and where they were."""
    for unit in [module for module in model.modules() if is_sharded(module)]:
        unit.reshard()
    places = [
        (owner, name, parameter)
        for owner in model.modules()
        for name, parameter in owner._parameters.items()
        if _is_cut(parameter)
    ]
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner, name, parameter in places:
        if parameter not in made:
            made[parameter] = nn.Parameter(parameter.detach().full_tensor(), requires_grad=parameter.requires_grad)
        owner._parameters[name] = made[parameter]
    return places


def _without_hooks(model: nn.Module) -> list[tuple[dict, dict]]:
    """Take FSDP's hooks away; tables of hooks, with what they held."""
    tables = []
    for module in model.modules():
        for table in (
            module._forward_pre_hooks,
            module._forward_hooks,
            module._state_dict_pre_hooks,
            module._load_state_dict_pre_hooks,
            module._load_state_dict_post_hooks,
        ):
            ours = {key: hook for key, hook in table.items() if not _of_fsdp(hook)}
            if len(ours) < len(table):
                tables.append((table, dict(table)))
                table.clear()
                table.update(ours)
    return tables


def average_replicated(parameters: list[nn.Parameter]) -> None:
    """Average the gradients of what is not sharded, as is done for what is; to be called before each step."""
    gradients = [p.grad for p in parameters if p.grad is not None and not _is_cut(p)]
    if gradients:
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = (together / world_size()).split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients)])


def local_parts(tensors: list[Tensor]) -> list[Tensor]:
    """What of each lies on this process, as views."""
    return [tensor.to_local() if _is_cut(tensor) else tensor for tensor in tensors]


def sharded_and_not(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those that are sharded over processes, and the others."""
    return [tensor for tensor in tensors if _is_cut(tensor)], [tensor for tensor in tensors if not _is_cut(tensor)]


def of_all_shards(tensors: list[Tensor], number: Tensor, how: dist.ReduceOp) -> Tensor:
    """A number that was made of this process's shards, reduced over all processes, if any of the tensors is sharded."""
    if any(map(_is_cut, tensors)):
        dist.all_reduce(number, how)
    return number


def squared_norm(gradients: list[Tensor]) -> Tensor:
    """Sum of squares of all entries, those of other processes among them."""
    sharded, rest = sharded_and_not(gradients)
    of_shards = _sum_of_squares(local_parts(sharded), gradients)
    return _sum_of_squares(rest, gradients) + of_all_shards(sharded, of_shards, dist.ReduceOp.SUM)


def unsharded(value: Any) -> Any:
    """The same state with every tensor whole; to be called on all processes."""
    if isinstance(value, dict):
        return {key: unsharded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [unsharded(inner) for inner in value]
    return value.to(value.device_mesh.device_type).full_tensor() if _is_cut(value) else value


def load_plain(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Put whole tensors into those of the same names that may be sharded."""
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(shards_like(value, state[name]))


def shards_like(parameter: Tensor, value: Any) -> Any:
    """A whole tensor of the parameter's shape, sharded as the parameter is; anything else as it is."""
    same = isinstance(value, Tensor) and value.shape == parameter.shape
    return _cut_like(parameter, value) if same and _is_cut(parameter) and not _is_cut(value) else value


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


def _cut_like(parameter: Tensor, full: Tensor):
    from torch.distributed.tensor import distribute_tensor

    local = full.to(parameter.to_local().device, parameter.dtype)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements)
