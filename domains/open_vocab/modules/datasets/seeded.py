"""Augmentation as a function of the seed, the epoch and the image, whatever the order, the workers, or a stop."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from .....core.training import seed_of
from .....registry import DATA_SAMPLERS, DATASETS

ITS_ATTRIBUTES = ("inner", "seed", "epoch")


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Another data set whose transforms draw their random numbers from (seed, epoch, index).

    Where a training is counted in steps, `PassSampler` says with each index how often the data were gone through.

    Args:
        dataset: config of the data set, or a built one.
        seed: of the run.
    """

    def __init__(self, dataset: Mapping[str, Any] | Dataset, seed: int = 0):
        self.inner = DATASETS.build(dict(dataset)) if isinstance(dataset, Mapping) else dataset
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Before an epoch; workers started after it draw accordingly."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        epoch = self.epoch + getattr(index, "passes", 0)
        with _random_from(seed_of(self.seed, epoch, int(index))):
            return self.inner[int(index)]

    def __setattr__(self, name: str, value: Any) -> None:
        """What hooks change of a data set, as its pipeline, is changed of the inner one."""
        target = self if name in ITS_ATTRIBUTES else self.inner
        object.__setattr__(target, name, value)

    def __getattr__(self, name: str) -> Any:
        """What samplers and the Runner ask of a data set, the inner one answers."""
        if name == "inner":  # not there yet while a worker unpacks this
            raise AttributeError(name)
        return getattr(self.inner, name)


@contextmanager
def _random_from(seed: int) -> Iterator[None]:
    """All three generators that transforms may use, seeded, and put back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


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
