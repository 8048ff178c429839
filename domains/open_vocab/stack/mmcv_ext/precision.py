"""How a compiled operator treats graphs and number types, for operators written in torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps

import torch
from torch import Tensor

NARROW = (torch.float16, torch.bfloat16)
OPERATORS: dict[str, Callable] = {}
"""Name -> operator, of all that are offered."""


def as_operator(operator: Callable) -> Callable:
    """An operator that enters itself into `OPERATORS`."""
    OPERATORS[operator.__name__] = operator
    return operator


def as_compiled(operator: Callable) -> Callable:
    """An offered operator whose inside records no graph and knows no autocast, like one written in C++.

    mmcv calls its operators from `autograd.Function`s, which leave autocast on; it would halve a matrix product inside.
    """

    @wraps(operator)
    def run(first: Tensor, *args, **kwargs):
        kind = first.device.type
        plain = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        with torch.no_grad(), plain:
            return operator(first, *args, **kwargs)

    return as_operator(run)


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is of 16 bits: torchvision has no 16-bit kernels on the CPU, and sums want digits."""
    return tensor.float() if tensor.dtype in NARROW else tensor


@as_operator
def get_compiler_version() -> str:
    """The compiler of the operators: there is none."""
    return "none (vladapt's operators over torch and torchvision)"


@as_operator
def get_compiling_cuda_version() -> str:
    """The CUDA the operators were compiled against; they run wherever torch runs."""
    return "not available"
