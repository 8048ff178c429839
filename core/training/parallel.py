"""Several processes on one training: gradients averaged (DDP), or weights and optimiser cut over them too (FSDP)."""

from __future__ import annotations

from torch import nn

from .distributed import world_size
from .model import GlobalBatchParallel, PairModel
from .settings import TrainingSettings


def parallel(model: PairModel, settings: TrainingSettings) -> nn.Module:
    """The model as it is where one process trains, else wrapped."""
    return model if world_size() == 1 else GlobalBatchParallel(model)
