"""Several processes on one training: gradients averaged (DDP), or weights and optimiser cut over them too (FSDP)."""

from __future__ import annotations

from torch import nn

from ..runtime.distributed import world_size
from .model import GlobalBatchParallel, PairModel
from .settings import TrainingSettings
from .sharding import shard


def parallel(model: PairModel, settings: TrainingSettings) -> nn.Module:
    """The model as it is where one process trains, else wrapped."""
    if world_size() == 1:
        return model
    return shard(model, model.backbone.device) if settings.parallel == "fsdp" else GlobalBatchParallel(model)
