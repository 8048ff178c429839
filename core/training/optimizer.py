"""The optimiser of a run behind mmengine's wrapper: which rates, how gradients are scaled and clipped."""

from __future__ import annotations

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from .layers import parameter_groups
from .schedules import dassl_learning_rates
from .settings import TrainingSettings, warmup_steps
from .sharding import local_parts, squared_norm


class StepOptimWrapper(OptimWrapper):
    """Backward, clip and step once per global batch, with the loss scaled where fp16 asks for it. A fused optimiser
    leaves a step out on the device where the gradient is not finite, without the host looking at it.

    Args:
        optimizer: as mmengine's.
        device: type of device the gradients lie on.
        fp16: scale the loss, so that small gradients do not vanish; steps with infinite ones are left out.
        clip_norm: largest norm, or None.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: str, fp16: bool, clip_norm: float | None):
        super().__init__(optimizer)
        self.device = device
        self.scaler = torch.amp.GradScaler(device, enabled=fp16)
        self.clip_norm = clip_norm

    @property
    def fused(self) -> bool:
        """Whether the optimiser updates all weights in one kernel, which can be told on the device to do nothing."""
        return bool(self.optimizer.defaults["fused"])

    def backward(self, loss: Tensor, **kwargs) -> None:
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

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
        state = state_dict["optimizer"]
        kernels = {name: self.optimizer.defaults[name] for name in ("fused", "foreach")}  # of this device, not of that
        groups = [{**group, **kernels} for group in state["param_groups"]]
        self.optimizer.load_state_dict({**state, "param_groups": groups})
        self.scaler.load_state_dict(state_dict["scaler"])


def build_optimizer(backbone: Backbone, heads: list[nn.Module], settings: TrainingSettings) -> StepOptimWrapper:
    """The wrapper over what is trainable of the towers, and over the heads (losses, outputs) at the full rate."""
    groups = parameter_groups(
        backbone,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
        decay_all=settings.decayed == "all",
    )
    groups += _groups_of_heads(heads, settings)
    groups = [group for group in groups if group["params"]]
    # Weights that are cut over processes cannot be updated in one list with those that are not.
    together = None if settings.parallel == "ddp" else False
    kernels = {"fused": True} if together is None and is_fast(backbone.device) else {"foreach": together}
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, **kernels)
        _start_momentum(optimizer)
    else:
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, **kernels)
    return StepOptimWrapper(optimizer, backbone.device.type, settings.amp == "fp16", settings.clip_grad)


def is_fast(device: torch.device) -> bool:
    """Whether a device is worth kernels that round in another order: a CPU gives the bits that it has always given."""
    return device.type == "cuda"


def rate_schedulers(settings: TrainingSettings, steps: int) -> list[dict]:
    """mmengine's schedulers of a run of so many steps: a linear rise, then a cosine, or nothing after it. A schedule
    of epochs is not theirs: see `epoch_rates`."""
    if settings.schedule == "epochs":
        return []
    rise = warmup_steps(settings.warmup, steps)
    schedulers = []
    if rise > 1:
        linear = {"type": "LinearLR", "start_factor": 1 / rise, "by_epoch": False}
        schedulers.append({**linear, "begin": 0, "end": rise})
    if settings.schedule == "cosine" and steps > rise:
        cosine = {"type": "CosineAnnealingLR", "eta_min": settings.end_lr, "by_epoch": False}
        schedulers.append({**cosine, "T_max": steps - rise, "begin": rise, "end": steps})
    return schedulers


def epoch_rates(settings: TrainingSettings) -> list[float] | None:
    """The rate of each epoch, as a share of the peak; None where rates change from step to step."""
    if settings.schedule != "epochs":
        return None
    warmup = {"warmup": "constant", "warmup_epochs": int(settings.warmup), "warmup_lr": settings.warmup_lr}
    return [rate / settings.lr for rate in dassl_learning_rates(settings.lr, settings.epochs, **warmup)]


def _start_momentum(optimizer: torch.optim.SGD) -> None:
    """Zeros, from which the first step is the same: a fused kernel would leave them unwritten in a step left out."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _groups_of_heads(heads: list[nn.Module], settings: TrainingSettings) -> list[dict]:
    parameters = [p for head in heads for p in head.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "lr": settings.lr, "weight_decay": settings.weight_decay},
        {
            "params": [p for p in parameters if p.ndim <= 1],
            "lr": settings.lr,
            "weight_decay": settings.weight_decay if settings.decayed == "all" else 0.0,
        },
    ]
