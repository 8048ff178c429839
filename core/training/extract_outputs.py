"""Outputs of the whole training set, for losses that look at it before an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime.distributed import all_gather_rows, rank, world_size
from .batches import GlobalBatches
from .outputs import Outputs
from .samples import Samples, collate


@torch.no_grad()
def extract_outputs(model, samples: Samples, batches: GlobalBatches, names: list[str]) -> dict[str, Tensor]:
    """Name -> (N, ...) on the CPU, in the order of the set, the same on all ranks. Towers are in eval mode meanwhile.

    Args:
        model: a PairModel.
        samples: the training set.
        batches: its epoch is that of the views.
        names: outputs of two axes.
    """
    training = model.training
    model.eval()
    outputs = Outputs(model.backbone, names, losses=model.outputs.losses).to(model.backbone.device)
    mine = torch.arange(len(samples)).tensor_split(world_size())[rank()].tolist()
    size = model.settings.micro_batch_size or batches.batch_size
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for i in range(0, len(mine), size):
        batch = collate([samples[(batches.epoch, row)] for row in mine[i : i + size]])
        batch = {n: v.to(model.backbone.device) for n, v in batch.items() if isinstance(v, Tensor)}
        made = outputs.per_sample(batch)
        for name in names:
            found[name].append(made[name].float().cpu())
    model.train(training)
    return {name: all_gather_rows(torch.cat(parts) if parts else torch.zeros(0, 1)) for name, parts in found.items()}
