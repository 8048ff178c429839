"""Mixed precision on whatever device the model is on, a CPU among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from .....core.contracts import require
from .....registry import OPTIM_WRAPPERS

DTYPES = ("bfloat16", "float16")


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Forward passes under torch's autocast; with float16 the loss is scaled, and a step with infinite gradients left
    out (Mixed Precision Training, 2017, arXiv 1710.03740). mmengine's own wrapper refuses a CPU.

    Args:
        dtype: "bfloat16" or "float16".
        options: of mmengine's OptimWrapper.

    Raises:
        ConfigError: another dtype.
    """

    def __init__(self, dtype: str = "bfloat16", **options: Any):
        require(dtype in DTYPES, "dtype", dtype, f"give {' or '.join(DTYPES)}")
        super().__init__(**options)
        self.dtype = getattr(torch, dtype)
        device = self.optimizer.param_groups[0]["params"][0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=self.dtype):
            yield

    def backward(self, loss: Tensor, **options: Any) -> None:
        super().backward(self.scaler.scale(loss), **options)

    def step(self, **options: Any) -> None:
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            weights = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = self.clip_func(weights, **self.clip_grad_kwargs)
            if norm is not None:  # of values that are clipped each for itself there is none
                self.message_hub.update_scalar(f"train/{self.grad_name}", float(norm))
        self.scaler.step(self.optimizer, **options)
        self.scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        scaler = state_dict.pop("loss_scaler", None)
        if scaler is not None:
            self.scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)
