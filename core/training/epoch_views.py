"""New augmented views of each image in every epoch, through the frozen image tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.features import PROJECTED, FeatureSet
from ..contracts.images import TrainingImages
from ..contracts.items import Item, items_of
from ..contracts.parts import StoredViews
from ..errors import CapabilityError, DataError
from ..features.extract import (
    BatchSizeTuner,
    DecodeJob,
    UnreadableKeys,
    averaged,
    encoder,
    extract,
    in_eval_mode,
    renderer,
)
from .samples import seed_of
from .sources import Remembered

ON_CPU, ON_GPU = 16, 128
"""Images that are encoded at once. Fixed, not measured: results of two runs are then the same to the last bit."""


@dataclass
class EpochViews:
    """Views of the images of a training, encoded when an epoch begins and dropped when the next one does.

    Args:
        images: of the whole support.
        backbone: whose image tower encodes them; it stays as it is.
        seed: with the epoch and the image's id it fixes a view.
        count: views of each image in an epoch.
    """

    images: TrainingImages
    backbone: Backbone
    seed: int
    count: int = 1
    _held: tuple[FeatureSet, int, Tensor] | None = field(default=None, init=False, repr=False)

    def of(self, support: FeatureSet, epoch: int) -> Tensor:
        """(N, V, D) float32 features of the views that an epoch sees, not normalised, on the support's device.

        Args:
            support: N rows, of the whole support or of a part of it.
            epoch: from 0.

        Raises:
            DataError: an image cannot be read, or has features that are not finite.
        """
        held = self._held
        if held is None or held[0] is not support or held[1] != epoch:
            self._held = held = None  # before the next ones are made
            rows = self._encoded(items_of(support.ids, self.images.items), epoch)
            self._held = held = (support, epoch, rows.to(support.features.device))
        return held[2]

    def _encoded(self, items: list[Item], epoch: int) -> Tensor:
        """(N, V, D) on the CPU."""
        jobs = [self._job(row, item, epoch) for row, item in enumerate(items)]
        images, place = self.images, {key: i for i, key in enumerate(key for job in jobs for key in job.keys)}
        made = np.empty((len(place), self.backbone.embed_dim), dtype=np.float32)
        render = renderer(images.load, images.eval_transform, images.train_transform)
        on_gpu = self.backbone.device.type == "cuda"
        encode, tuner = encoder(self.backbone, PROJECTED, images.amp), BatchSizeTuner(ON_GPU if on_gpu else ON_CPU)
        with in_eval_mode(self.backbone.model):
            for result in averaged(extract(jobs, render, encode, tuner, images.workers, pin=on_gpu)):
                if isinstance(result, UnreadableKeys):
                    raise DataError(f"{items[place[result.keys[0]] // self.count].id}: {result.reason}")
                made[[place[key] for key in result.keys]] = result.rows
        return torch.from_numpy(made).unflatten(0, (len(items), self.count))

    def _job(self, row: int, item: Item, epoch: int) -> DecodeJob:
        numbers = range(self.count)
        seeds = tuple(seed_of(self.seed, item.id, epoch, number) for number in numbers)
        return DecodeJob(item, tuple(f"{row} {number}".encode() for number in numbers), seeds)


def views_of_training(
    pool: StoredViews,
    support: FeatureSet,
    backbone: Backbone | None,
    resources: Mapping[str, Any],
    seed: int,
    count: int = 1,
) -> int | EpochViews:
    """What `training_features` takes: the number of stored views, or new ones where the method asks for these.

    Args:
        pool: the part of the method that says which.
        support: of the whole fit.
        resources: of the fit.
        count: views of each image in an epoch, where they are new.

    Raises:
        CapabilityError: new ones are asked for, and there are no images, or no backbone.
        ConfigError: a crop is asked for, and the images' transform has none.
    """
    if not pool.fresh:
        return pool.views
    images = resources.get("images")
    if images is None or backbone is None:
        raise CapabilityError(
            "option fresh_views: new views need the images and the backbone, which a features file does not have; give "
            "--data and --backbone, or omit it"
        )
    if missing := set(support.ids or range(len(support))) - {item.id for item in images.items}:
        raise CapabilityError(
            f"option fresh_views: {len(missing)} of {len(support)} rows of the support have ids of no training image; "
            "give the images of all of them"
        )
    transform = pool.training_transform(images.train_transform)
    return EpochViews(replace(images, load=Remembered(images.load), train_transform=transform), backbone, seed, count)
