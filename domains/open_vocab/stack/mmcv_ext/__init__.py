"""The functions of mmcv 2.1's compiled extension over torchvision and plain torch, one file an operator family."""

from __future__ import annotations

from collections.abc import Callable

from .info import get_compiler_version, get_compiling_cuda_version
from .not_offered import NOT_OFFERED, refusing

OFFERED: tuple[Callable, ...] = (get_compiler_version, get_compiling_cuda_version)


def operators() -> dict[str, Callable]:
    """Every function that mmcv's Python looks up in `mmcv._ext`, by name; those not offered raise CapabilityError on use."""
    return {name: refusing(name) for name in NOT_OFFERED} | {function.__name__: function for function in OFFERED}
