"""Tiles of training pairs, each with changes of light that are a function of the seed and its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .....core.contracts import Item
from .....registry import DATASETS
from ...changes.masks import masked_pair
from ...changes.target import IGNORED, ChangeMask
from ._passes import Passes

GAIN, OFFSET, NOISE = 0.2, 0.1, 0.02
"""By how much light, haze and noise of a date vary, of pixels in 0..1."""


@DATASETS.register_module()
class ChangeWindows(Dataset):
    """So many draws from the tiles, which come in another order each time that all were drawn.

    Both dates and the mask are turned and mirrored alike. Gain and offset of each band, and noise, are those of each
    date alone: the light of two dates is never the same.

    Args:
        cases: {"source", "decode", "mask"} of each tile.
        size: (height, width) that all are filled up to, with pixels that are ignored.
        draws: in all.
        seed: with its number it fixes a draw.
        augment: whether anything is changed.
    """

    def __init__(
        self, cases: Sequence[Mapping[str, Any]], size: Sequence[int], draws: int, seed: int = 1, augment: bool = True
    ):
        self.cases, self.size, self.draws, self.seed, self.augment = list(cases), tuple(size), draws, seed, augment
        self.place = Passes(len(self.cases), seed)

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, number: int) -> dict[str, Any]:
        """ "inputs" (2, C, H, W) float32 in 0..1, and "labels" (H, W) uint8."""
        case = self.cases[self.place(number)]
        item = Item("", Path(case["source"]), dict(case["decode"]), ChangeMask.from_json(case["mask"]))
        pixels, labels = masked_pair(item)  # (2, C, h, w), (h, w)
        if self.augment:
            pixels, labels = _changed(np.random.default_rng([self.seed, number]), pixels, labels)
        pixels, labels = _padded(pixels, self.size), _padded(labels, self.size, IGNORED)
        return {"inputs": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}


def _padded(values: np.ndarray, size: Sequence[int], fill: int = 0) -> np.ndarray:
    """(..., H, W) filled up at its right and lower edge."""
    high, wide = (most - own for most, own in zip(size, values.shape[-2:]))
    around = [(0, 0)] * (values.ndim - 2) + [(0, high), (0, wide)]
    return np.ascontiguousarray(np.pad(values, around, constant_values=fill))


def _changed(random: np.random.Generator, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight turned and mirrored views, in another light at each date."""
    turns, mirrored = int(random.integers(4)), bool(random.integers(2))
    pixels, labels = (np.rot90(each, turns, axes=(-2, -1)) for each in (pixels, labels))
    if mirrored:
        pixels, labels = pixels[..., ::-1], labels[..., ::-1]
    bands = (*pixels.shape[:2], 1, 1)
    gain = 1 + random.uniform(-GAIN, GAIN, (len(pixels), 1, 1, 1)) + random.uniform(-GAIN / 2, GAIN / 2, bands)
    noise = random.normal(0, random.uniform(0, NOISE), pixels.shape)
    lit = pixels * gain + random.uniform(-OFFSET, OFFSET, bands) + noise
    return lit.clip(0, 1).astype(np.float32), labels
