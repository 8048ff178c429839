"""What a training of several sources tells of each: its loss, and how many of its samples were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.gather import RankBatch
from .mixing import MixedBatches

PREFIX = "source."
ROWS = 1024
"""Rows whose scores with the batch are in memory at once."""
MEASURED = ("image_features", "text_features", "logit_scale", "index")


@dataclass(frozen=True)
class SourceLosses:
    """CLIP's loss of a step by sources: of each row the mean of both cross-entropies with its batch, summed over the
    rows of a source, over the samples of the batch. So the sum over sources is the loss `clip` of the batch, and the
    value of a source over its share in the batch is its own loss. No gradient.

    Args:
        names: of the sources.
        offsets: the first row of each source, and the number of all.
    """

    names: Sequence[str]
    offsets: Sequence[int]

    @torch.no_grad()
    def __call__(self, batch: RankBatch) -> dict[str, Tensor]:
        """Name -> scalar, the same on all ranks; nothing where a loss needs no features of images and texts."""
        out: Mapping[str, Any] = batch.out
        if any(out.get(name) is None for name in MEASURED):
            return {}
        image, text, ranks = out["image_features"].float(), out["text_features"].float(), batch.ranks
        scale = out["logit_scale"].float()
        own = ranks.own(len(image))
        entropies = torch.zeros(len(image), device=image.device)
        for queries, answers in ((image, ranks.gather(text)), (text, ranks.gather(image))):
            for at in range(0, len(queries), ROWS):
                scores = scale * queries[at : at + ROWS] @ answers.T  # (n, N)
                right = torch.arange(own.start + at, own.start + at + len(scores), device=scores.device)
                entropies[at : at + ROWS] += F.cross_entropy(scores, right, reduction="none") / 2
        index = out["index"]
        source = torch.zeros_like(index, dtype=torch.long)  # (n,)
        for first in self.offsets[1:-1]:  # numbers go to the device with the kernel, a tensor of them would wait for it
            source += index >= first
        sums = torch.zeros(len(self.names), device=image.device).index_add(0, source, entropies)
        sums = ranks.sum(sums) / (ranks.size * len(image))
        return {f"{PREFIX}{name}": value for name, value in zip(self.names, sums)}


@dataclass(frozen=True)
class SourceLog:
    """Keys of the log on sources, "source.NAME.loss" and "source.NAME.samples".

    Args:
        batches: of the training.
    """

    batches: MixedBatches

    def taken_out(self, sums: dict[str, Any]) -> dict[str, Any]:
        """The values of `SourceLosses`, which are removed."""
        return {name: sums.pop(name) for name in [name for name in sums if name.startswith(PREFIX)]}

    def keys(self, sums: Mapping[str, float], first: int, last: int) -> dict[str, float]:
        """Of the steps from `first` to before `last`, by number in this training; samples count from its begin.

        Args:
            sums: of these steps, by name.
        """
        batches, before = self.batches, self.batches.done_before
        taken = batches.taken(before + first, before + last).tolist()
        seen = batches.taken(0, before + last).tolist()
        row: dict[str, float] = {}
        for name, of_steps, so_far in zip(batches.mixture.names, taken, seen):
            total = sums.get(f"{PREFIX}{name}")
            if of_steps and total is not None:
                row[f"{PREFIX}{name}.loss"] = total * batches.batch_size / of_steps
            row[f"{PREFIX}{name}.samples"] = so_far
        return row
