"""Small sets, and recipes for plans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.contracts.items import Boxes, DomainData, Item, Mask
from vladapt.core.data.files import loader
from vladapt.core.data.images import IMAGE
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.open_vocab.data.masks import MaskReader
from vladapt.domains.open_vocab.tasks._by_names import plan_options

NAMES = ("cat", "dog", "hen")


@pytest.fixture
def picture(tmp_path):
    """picture("a.png", width, height) -> a file of noise."""

    def draw(name: str, width: int = 32, height: int = 24) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(sum(name.encode())).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return draw


@pytest.fixture
def boxes(picture) -> DomainData:
    """Ten images with a box each: seven to train on, three to test on."""
    items = [
        Item(
            f"{i}",
            picture(f"images/{i}.png"),
            target=Boxes(((2.0, 3.0, 20.0, 18.0),), (i % 3,), size=(32, 24)),
            split="train" if i < 7 else "test",
        )
        for i in range(10)
    ]
    return DomainData(items, NAMES, loader((IMAGE,)), kind="boxes", name="animals")


@pytest.fixture
def masks(picture, tmp_path) -> DomainData:
    """Four images with a mask each."""
    items = []
    for i in range(4):
        file = tmp_path / f"masks/{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.arange(24 * 32, dtype=np.int64).reshape(24, 32).astype(np.uint8) % 3).save(file)
        items.append(Item(f"{i}", picture(f"images/{i}.png"), target=Mask(file), split="train" if i < 3 else "test"))
    reader = MaskReader(values={place: place for place in range(3)})
    return DomainData(items, NAMES, loader((IMAGE,)), kind="masks", name="fields", load_mask=reader)


@pytest.fixture
def options():
    """options(task, **flags) -> what a command line asks of a config."""

    def make(task: str = "detection", **flags):
        return plan_options(resolve(flags={"domain": "open-vocab", "task": task, **flags}))

    return make
