"""The model that a run of a config keeps: its plan, and the model itself with its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ...backbones.tower_steps import sized_like
from ...contracts.run_info import FittedRun
from ...errors import CapabilityError, DataError, VladaptError, no_memory, shortened
from ...runtime.files import not_finite
from .kept_plan import check_registered_types, with_tuples
from .registered import registered_only

TIMES = 4
"""So much larger than its weights the model of a run may be while it is built: teachers are not among them."""


@dataclass(frozen=True)
class KeptModel:
    """What a run keeps of the model that it trained. Whatever it names is checked first: it may come from anybody."""

    run: FittedRun

    def plan(self) -> dict[str, Any] | None:
        """As `kept_of` was given it; None where the run keeps none. Errors as of `check_run`."""
        check_registered_types(self.run)
        return None if self.run.info.plan is None else with_tuples(self.run.info.plan)

    def load(self, device: torch.device) -> nn.Module | None:
        """The trained model of a run, built of registered types and the run's own weights alone; None where nothing was
        trained. Whatever reads the model of a run, which may come from anybody, comes through here.

        Raises:
            DataError: run.json names anything else, or the weights are missing, do not fit the model or are no numbers.
            CapabilityError: a library that the model needs is missing.
        """
        from .runner import build_model  # and with it mmengine's Runner

        check_registered_types(self.run)
        stored, file = self.run.info.plan, self.run.path / "run.json"
        if stored is None:
            return None
        try:
            with registered_only(), sized_like(self.run.adapter_path, TIMES):
                model = build_model(stored, torch.device("cpu"))
        except (DataError, CapabilityError):
            raise
        except Exception as error:  # mm's parts raise any kind for options that do not fit
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
            raise DataError(f"{file}: plan.model cannot be built ({reason}); fit again") from error
        _load_weights(model, self.run.adapter_path)
        return model.to(device).eval()

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context of `registered_only`; what a model or a transform whose options do not fit makes mm's parts raise
        in it is one line."""
        try:
            with registered_only():
                yield
        except (VladaptError, OSError):
            raise
        except Exception as error:
            if no_memory(error):  # of the machine, not of the run
                raise
            reason = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
            why = f"{type(error).__name__}: {reason}"
            raise DataError(f"{self.run.shown}: its model cannot be run ({why}); fit again") from error


def _load_weights(model: nn.Module, path: Path) -> None:
    """Raise DataError unless the file has all of the model's tensors, of its shapes and kinds, and they are numbers."""
    try:
        weights = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: does not fit the run's model (no safetensors file: {error}); fit again") from error
    built = model.state_dict()
    for name, tensor in weights.items():
        if name in built and tensor.dtype != built[name].dtype:
            raise DataError(f"{path}: {name} is {tensor.dtype}, the run's model has {built[name].dtype}; fit again")
        if unusable := not_finite(tensor, built.get(name)):
            raise DataError(f"{path}: {name} holds {unusable}; fit again or copy it again")
    try:
        model.load_state_dict(weights)
    except (RuntimeError, KeyError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[1:2] or lines[:1])[:200].rstrip(".")
        raise DataError(f"{path}: does not fit the run's model ({reason}); fit again") from error
