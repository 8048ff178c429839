"""How networks that answer for each pixel are fed and optimised, as parts of an mmengine config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_reduce, get_world_size
from torch import Tensor

from ...core.tasks import ConfigTask
from .pixel_options import PixelSchedule
from .tower_bands import band_layer

BATCH = 8
RATE, TOWER_RATE, DECAY, CLIPPED = 1e-3, 0.1, 0.01, 5.0
"""AdamW's, the share of it for a pretrained tower that trains whole, and the largest gradient."""
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def over_processes(part: Tensor) -> Tensor:
    """The sum of something over all processes, of each of which `part` is known here.

    The mean of the processes' gradients, which a step takes, is then that of one process with the whole batch.
    """
    processes = get_world_size()
    if processes == 1:
        return part
    total = part.detach().clone()
    all_reduce(total)
    return total + processes * (part - part.detach())


def batch_loader(schedule: PixelSchedule, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Of a dataset that draws its own order; a batch is shared by all processes.

    Raises:
        ConfigError: a batch that the processes cannot share.
    """
    return {
        "batch_size": ConfigTask.per_process(schedule.batch_size or BATCH),
        "num_workers": schedule.workers or 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "dataset": dict(dataset),
    }


def optim_wrapper(
    schedule: PixelSchedule, tower: Mapping[str, Any] | None = None, name: str = "encoder"
) -> dict[str, Any]:
    """AdamW.

    Args:
        tower: config of a pretrained tower that trains whole; new layers of its first bands have the usual rate.
        name: of the tower in the model.
    """
    optimizer = {"type": "AdamW", "lr": schedule.lr or RATE, "weight_decay": DECAY}
    wrapper: dict[str, Any] = {"type": "OptimWrapper", "optimizer": optimizer, "clip_grad": {"max_norm": CLIPPED}}
    if tower is not None:
        rates = {name: {"lr_mult": TOWER_RATE}}
        if "channels" in tower and (layer := band_layer(tower)) is not None:
            rates[f"{name}.{layer}"] = {"lr_mult": 1.0}
        wrapper["paramwise_cfg"] = {"custom_keys": rates}
    if schedule.amp is not None:
        wrapper |= {"type": "AmpOptimWrapper", "dtype": DTYPES[schedule.amp]}
    return wrapper
