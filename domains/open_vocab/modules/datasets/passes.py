"""Which pass over the data an index belongs to, in a training that is counted in steps and knows no epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from .....registry import DATA_SAMPLERS


class Visit(int):
    """An index of a data set, with `passes`: how often the data were gone through before."""

    passes: int = 0

    @classmethod
    def of(cls, index: int, passes: int) -> Visit:
        """The index with its pass."""
        visit = cls(index)
        visit.passes = passes
        return visit


@DATA_SAMPLERS.register_module()
class PassSampler(Sampler):
    """Another sampler's indices as `Visit`s, so that `SeededDataset` draws anew in each pass.

    Args:
        dataset: that is drawn from.
        sampler: config of the other sampler.
        seed: of the other sampler.
    """

    def __init__(self, dataset: Sized, sampler: Mapping[str, Any], seed: int | None = None):
        self.dataset = dataset
        self.inner = DATA_SAMPLERS.build(dict(sampler), default_args={"dataset": dataset, "seed": seed})
        self.epoch = 0

    def __iter__(self) -> Iterator[Visit]:
        rank, processes = get_dist_info()
        for place, index in enumerate(self.inner):
            yield Visit.of(index, self.epoch + (place * processes + rank) // len(self.dataset))

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int) -> None:
        """Where a sampler that ends is begun again."""
        self.epoch = epoch
        if hasattr(self.inner, "set_epoch"):
            self.inner.set_epoch(epoch)
