"""The optimiser of a run behind mmengine's wrapper: which rates, how gradients are scaled and clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed import ReduceOp

from ..contracts.backbone import Backbone
from ..errors import DataError
from ..runtime.process import need_package
from .adabelief import AdaBelief
from .layers import TowerLayers
from .objective import Objective
from .schedules import LearningRates, epoch_cosine_rates, epoch_step_rates, infinite_rates, rewarmed_rates
from .settings import BY_EPOCH, BY_STEP, TrainingSettings, warmup_steps
from .sharding import local_parts, of_all_shards, sharded_and_not, shards_like, squared_norm

KERNELS = ("fused", "foreach")
ADAPTIVE: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adabelief": AdaBelief,
}


class StepOptimWrapper(OptimWrapper):
    """Backward, clip and step once per global batch, with the loss scaled where fp16 asks for it. A fused optimiser
    leaves a step out on the device where the gradient is not finite, without the host looking at it.

    Ours, since mmengine's AmpOptimWrapper reads the gradient's norm on the host, knows no gradients that are sharded
    over processes, and tells nobody the norm of a step that it does not clip.

    Args:
        optimizer: as mmengine's.
        parameters: all that it updates, in an order that does not depend on the number of processes.
        device: type of device the gradients lie on.
        fp16: scale the loss, so that small gradients do not vanish; steps with infinite ones are left out.
        clip_norm: largest norm, or None.
        clip_units: largest norm of the gradient of a unit's weights (a row of a matrix, a vector), as a share of the
            norm of these: "High-Performance Large-Scale Image Recognition Without Normalization", 2021, arXiv
            2102.06171. None: any.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        device: str,
        fp16: bool,
        clip_norm: float | None,
        clip_units: float | None = None,
    ):
        super().__init__(optimizer)
        self.parameters, self.device = parameters, device
        self.scaler = _ShardedScaler(device, enabled=fp16)
        self.clip_norm, self.clip_units = clip_norm, clip_units
        if clip_units is not None:
            need_package("option clip_units", "timm", "timm")

    @property
    def fused(self) -> bool:
        """Whether the optimiser updates all weights in one kernel, which can be told on the device to do nothing."""
        return bool(self.optimizer.defaults["fused"])

    def backward(self, loss: Tensor, **kwargs) -> None:
        super().backward(self.scaler.scale(loss), **kwargs)

    def gradient_norm(self) -> Tensor:
        """Norm of all gradients, unscaled and then clipped; before a step."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return torch.zeros((), device=self.device)
        norm = squared_norm(gradients).sqrt()
        if self.clip_norm is not None:
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(local_parts(gradients), factor)
        if self.clip_units is not None:
            from timm.utils.agc import adaptive_clip_grad

            adaptive_clip_grad(self.parameters, self.clip_units)
        return norm

    def step(self, is_usable: Tensor | None = None, **kwargs) -> None:
        """Change the weights, unless the step is not to be used.

        Args:
            is_usable: bool scalar on the device; None: it is. A scaler decides for itself.
        """
        if self.scaler.is_enabled() or is_usable is None:
            self.scaler.step(self.optimizer, **kwargs)
            self.scaler.update()
        elif self.fused:
            self.optimizer.found_inf = (~is_usable).float()
            self.optimizer.step(**kwargs)
            del self.optimizer.found_inf
        elif bool(is_usable):
            self.optimizer.step(**kwargs)

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """What `state_dict` gave where no weight was sharded."""
        saved = state_dict["optimizer"]
        options = {i: group for group in saved["param_groups"] for i in group["params"]}
        if len(options) != len(self.parameters):
            raise DataError(f"its optimiser has {len(options)} weights, this one has {len(self.parameters)}")
        states = [
            {name: shards_like(parameter, value) for name, value in saved["state"].get(i, {}).items()}
            for i, parameter in enumerate(self.parameters)
        ]
        self.load(states, [options[i] for i in range(len(states))], state_dict["scaler"])

    def states(self) -> list[dict[str, Tensor]]:
        """What the optimiser remembers of each parameter, in their order: tensors like it, and scalars."""
        return [self.optimizer.state.get(parameter, {}) for parameter in self.parameters]

    def options(self) -> list[dict[str, Any]]:
        """Rate, decay and the like of each parameter, JSON-able."""
        settings = {
            parameter: {name: value for name, value in group.items() if name not in ("params", *KERNELS)}
            for group in self.optimizer.param_groups
            for parameter in group["params"]
        }
        return [settings[parameter] for parameter in self.parameters]

    def load(self, states: list[dict[str, Tensor]], options: list[dict[str, Any]], scaler: dict) -> None:
        """What `states`, `options` and the scaler's `state_dict` gave; tensors sharded as their parameters are."""
        number = {parameter: i for i, parameter in enumerate(self.parameters)}
        kernels = {name: self.optimizer.defaults[name] for name in KERNELS}  # of this device, not of that
        state, groups, count = {}, [], 0
        for group in self.optimizer.param_groups:
            numbers = [number[parameter] for parameter in group["params"]]
            settings = {name: tuple(v) if isinstance(v, list) else v for name, v in options[numbers[0]].items()}
            groups.append({**settings, **kernels, "params": list(range(count, count + len(numbers)))})
            state |= {count + i: states[n] for i, n in enumerate(numbers) if states[n]}
            count += len(numbers)
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(scaler)


class _ShardedScaler(torch.amp.GradScaler):
    """A scaler of gradients of which some may be sharded over processes: all leave the same steps out."""

    def _unscale_grads_(self, optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool) -> dict:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        infinite = found_inf.clone()
        torch._amp_foreach_non_finite_check_and_unscale_(local_parts(gradients), infinite, inv_scale)
        return {infinite.device: of_all_shards(gradients, infinite, ReduceOp.MAX)}


def build_optimizer(backbone: Backbone, heads: list[nn.Module], settings: TrainingSettings) -> StepOptimWrapper:
    """The wrapper over what is trainable of the towers, and over the heads (losses, outputs) at the full rate."""
    groups = TowerLayers(backbone).parameter_groups(
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
        decay_all=settings.decayed == "all",
        decay_vectors=settings.decayed == "weights",
        bias_rate=settings.bias_rate,
        projection_rate=settings.projection_rate,
    )
    groups += _groups_of_heads(heads, settings)
    parameters = [parameter for group in groups for parameter in group["params"]]
    # Weights that are sharded over processes cannot be updated in one list with those that are not.
    groups = [{**group, "params": some} for group in groups for some in sharded_and_not(group["params"]) if some]
    kernels = {"fused": True} if is_fast(backbone.device) else {"foreach": None}
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, **kernels)
        _start_momentum(optimizer)
    else:
        kind = ADAPTIVE[settings.optimizer]
        optimizer = kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, **kernels)
    clipped = settings.clip_grad, settings.clip_units
    return StepOptimWrapper(optimizer, parameters, backbone.device.type, settings.amp == "fp16", *clipped)


def is_fast(device: torch.device) -> bool:
    """Whether a device is worth kernels that round in another order: a CPU gives the bits that it has always given."""
    return device.type == "cuda"


def rate_schedulers(settings: TrainingSettings, steps: int) -> list[dict]:
    """mmengine's schedulers of a run of so many steps: a linear rise, then a cosine, a line, or nothing after it, and
    a cosine of the weight decay. Schedules of epochs and of continued trainings are not theirs: see `epoch_rates` and
    `step_rates`."""
    schedulers: list[dict] = []
    if settings.end_weight_decay is not None:  # as a ratio, so that what has no decay gets none
        cosine = {"type": "CosineAnnealingParamScheduler", "param_name": "weight_decay", "by_epoch": False}
        ratio = settings.end_weight_decay / settings.weight_decay
        schedulers.append({**cosine, "eta_min_ratio": ratio, "T_max": steps, "begin": 0, "end": steps})
    if settings.schedule in (*BY_EPOCH, *BY_STEP):
        return schedulers
    rise = warmup_steps(settings.warmup, steps)
    if rise > 1:
        linear = {"type": "LinearLR", "start_factor": 1 / rise, "by_epoch": False}
        schedulers.append({**linear, "begin": 0, "end": rise})
    if settings.schedule == "linear" and steps > rise:
        linear = {"type": "LinearLR", "start_factor": 1.0, "end_factor": settings.end_lr / settings.lr}
        schedulers.append({**linear, "by_epoch": False, "begin": rise, "end": steps + 1})
    if settings.schedule == "cosine" and steps > rise:
        cosine = {"type": "CosineAnnealingLR", "eta_min": settings.end_lr, "by_epoch": False}
        schedulers.append({**cosine, "T_max": steps - rise, "begin": rise, "end": steps})
    return schedulers


def epoch_rates(settings: TrainingSettings) -> list[float] | None:
    """The rate of each epoch, as a share of the peak; None where rates change from step to step."""
    if settings.schedule not in BY_EPOCH:
        return None
    if settings.schedule == "epoch-cosine":
        rise = {"warmup_epochs": int(settings.warmup), "warmup_lr": settings.warmup_lr}
        return [rate / settings.lr for rate in epoch_cosine_rates(settings.lr, settings.epochs, **rise)]
    if settings.schedule == "epoch-steps":
        rise = {"warmup_epochs": int(settings.warmup), "warmup_lr": settings.warmup_lr}
        falls = {"milestones": settings.milestones, "factor": settings.step_factor}
        return [rate / settings.lr for rate in epoch_step_rates(settings.lr, settings.epochs, **rise, **falls)]
    warmup = {"warmup": "constant", "warmup_epochs": int(settings.warmup), "warmup_lr": settings.warmup_lr}
    return [rate / settings.lr for rate in LearningRates.dassl(settings.lr, settings.epochs, **warmup)]


def merge_groups(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer that has made no step have one group per set of options, in place."""
    merged: list[tuple[dict[str, Any], list[Tensor]]] = []
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        same = next((parameters for others, parameters in merged if others == options), None)
        if same is None:
            merged.append((options, same := []))
        same += group["params"]
    optimizer.param_groups = [{"params": parameters, **options} for options, parameters in merged]


def step_rates(settings: TrainingSettings, steps: int) -> list[float] | None:
    """The rate of each step of a continued training, as a share of the peak; None where another schedule says it."""
    if settings.schedule not in BY_STEP:
        return None
    rise, lr = warmup_steps(settings.warmup, steps), settings.lr
    if settings.schedule == "rewarm":
        rates = rewarmed_rates(lr, steps, warmup=rise, end_lr=settings.end_lr)
    else:
        rates = infinite_rates(
            lr,
            steps,
            warmup=rise,
            cooldown=round(settings.cooldown * steps),
            constant_lr=lr / 2 if settings.constant_lr is None else settings.constant_lr,
            annealed_from=steps - round(settings.anneal * steps),
            end_lr=settings.end_lr,
        )
    return [rate / lr for rate in rates]


def _start_momentum(optimizer: torch.optim.SGD) -> None:
    """Zeros, from which the first step is the same: a fused kernel would leave them unwritten in a step left out."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _groups_of_heads(heads: list[nn.Module], settings: TrainingSettings) -> list[dict]:
    """Matrices first, as a kept optimiser lists them."""
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for head in heads:
        for name, parameter in head.named_parameters():
            if parameter.requires_grad:
                rate, decay = settings.lr * _rate(head, name, settings), _decay(name, parameter, settings)
                key = parameter.ndim <= 1, rate, decay
                groups.setdefault(key, []).append(parameter)
    in_order = sorted(groups, key=lambda key: key[0])
    return [{"params": groups[key], "lr": key[1], "weight_decay": key[2]} for key in in_order]


def _rate(head: nn.Module, name: str, settings: TrainingSettings) -> float:
    """Factor on the rate of a parameter that is not of the towers."""
    if isinstance(head, Objective):
        return head.rate_of(name, settings.head_rate, settings.bias_rate)
    is_bias = settings.bias_rate is not None and "bias" in name
    return settings.bias_rate if is_bias else settings.head_rate


def _decay(name: str, parameter: nn.Parameter, settings: TrainingSettings) -> float:
    if settings.decayed == "weights":
        return 0.0 if "bias" in name else settings.weight_decay
    return settings.weight_decay if settings.decayed == "all" or parameter.ndim > 1 else 0.0
