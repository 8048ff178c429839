"""mmengine checkpoints under `torch.load(weights_only=True)`: what they hold besides tensors is named, no more read."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from functools import lru_cache, partial
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ....core.errors import DataError
from .import_hooks import after_import

STATISTICS = ("min", "max", "current", "mean")
"""Methods of mmengine's HistoryBuffer that its pickle names, each as `getattr(HistoryBuffer, name)`."""
NUMBERS = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"


def allow_checkpoints() -> None:
    """Let mmengine's checkpoints be loaded as weights only, and let mmengine load in no other way."""
    torch.serialization.add_safe_globals(_in_checkpoints())
    after_import("mmengine.runner.checkpoint", _load_weights_only)


@lru_cache(maxsize=1)
def _in_checkpoints() -> list:
    """Classes and functions, each under the name that a checkpoint calls it by."""
    from mmengine.logging.history_buffer import HistoryBuffer

    rebuild, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    folders = ("numpy.core.multiarray", "numpy._core.multiarray")  # of numpy 1 and numpy 2: files come from both
    return [
        HistoryBuffer,
        _named(_method_of_history_buffer, "builtins", "getattr"),
        np.ndarray,
        np.dtype,
        *dict.fromkeys(type(np.dtype(code)) for code in NUMBERS),
        *(_named(rebuild, folder, "_reconstruct") for folder in folders),
        *(_named(scalar, folder, "scalar") for folder in folders),
    ]


def _method_of_history_buffer(owner: Any, name: Any) -> Callable:
    """What a checkpoint gets for `getattr`. The real one would hand a hostile file any attribute of anything.

    Raises:
        pickle.UnpicklingError: it asks for something else than one of the four methods.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in STATISTICS:
        raise pickle.UnpicklingError(f"GLOBAL getattr of {owner!r}, {name!r}")
    return vars(HistoryBuffer)[name]


def _named(function: Callable, module: str, name: str) -> FunctionType:
    """`function` under another name: torch knows what it may call by `__module__` and `__qualname__`."""

    def called(*args):
        return function(*args)

    called.__module__, called.__name__, called.__qualname__ = module, name, name
    return called


def _load_weights_only(checkpoint: ModuleType) -> None:
    """In mmengine's loaders, whatever torch's default is; `load_url` would take downloads for pickles."""
    checkpoint.torch = _WeightsOnlyTorch("torch")
    checkpoint.load_url = partial(_load, checkpoint.load_url)


class _WeightsOnlyTorch(ModuleType):
    """torch, except that `load` runs nothing that a file says, and reads safetensors too."""

    @staticmethod
    def load(file, map_location=None):
        if str(file).endswith(".safetensors"):
            return {"state_dict": load_file(file)}
        return _load(torch.load, file, map_location=map_location)

    def __getattr__(self, name: str):
        return getattr(torch, name)


def _load(loader: Callable, file, **options):
    try:
        return loader(file, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise DataError(
            f"{file}: refused, it holds more than weights and reading it could run "
            f"code{f' (it asks for {asked[1]})' if asked else ''}; save its state dict as .safetensors if you trust "
            "it"
        ) from error
