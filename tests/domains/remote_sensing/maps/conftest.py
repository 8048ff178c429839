"""A model that knows colours, and rasters to map with it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vladapt.core.contracts.domain import Scorer
from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.contracts.task import Use
from vladapt.core.data.unlabelled import read_unlabelled
from vladapt.core.runtime.progress import Reporter
from vladapt.domains.remote_sensing.reading import RemoteSensingReading
from vladapt.domains.remote_sensing.windows import Cutting

NAMES = ("red", "green", "blue")


class Colours(Scorer):
    """Probabilities are the shares of a picture's mean colour; `fails` after so many calls."""

    class_names, multilabel, fingerprint = NAMES, False, "colours"

    def __init__(self, fails: int | None = None):
        self.fails, self.pictures, self.calls = fails, 0, 0

    def score(self, data):
        self.calls += 1
        if self.fails is not None and self.calls > self.fails:
            raise KeyboardInterrupt
        means = np.stack([data.load(item).reshape(-1, 3).mean(axis=0) + 1 for item in data.items])
        self.pictures += len(data.items)
        return [item.id for item in data.items], torch.from_numpy(means / means.sum(axis=1, keepdims=True)), []


@pytest.fixture
def colours():
    """The class of the model."""
    return Colours


@pytest.fixture
def make_maps(tmp_path):
    """make_maps([raster], ["map.tif"], window=16, overlap=0.25, scorer=Colours(), **options): the `OwnFiles`. A place
    without a suffix is the folder."""
    from vladapt.domains.remote_sensing.maps.mapping import MapOptions, write_maps

    def make(rasters, out, window=16, overlap=0.25, scorer=None, **options):
        places = [tmp_path / place for place in out]
        folder = next((place for place in places if "." not in place.name), None)
        info = {"class_names": list(NAMES), "recipe": {"data": {"labels": "layer.gpkg"}}}
        run = SimpleNamespace(info=RunInfo.from_json(info), path="run")
        use = Use(run, images=rasters, out=folder, files=tuple(place for place in places if place != folder))
        cut = MapOptions(Cutting(window, overlap), **options)
        return write_maps(
            use,
            read_unlabelled(rasters, RemoteSensingReading().formats),
            cut,
            lambda: scorer or Colours(),
            Reporter(quiet=True),
        )

    return make


@pytest.fixture
def patches():
    """patches(height, width, seed=0): (3, height, width) uint8, patches of 13 pixels of one bright colour each."""

    def draw(height, width, seed=0):
        rng = np.random.default_rng(seed)
        kinds = rng.integers(0, 3, (height // 13 + 1, width // 13 + 1)).repeat(13, axis=0).repeat(13, axis=1)
        values = rng.integers(1, 40, (3, height, width))
        return (values + 200 * (kinds[None, :height, :width] == np.arange(3)[:, None, None])).astype(np.uint8)

    return draw
