"""Training windows of images with a number for each pixel, each draw a function of the seed and its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .....registry import DATASETS
from ...number_maps import NumberSource, scaled_pixels
from ._passes import Passes


@DATASETS.register_module()
class NumberWindows(Dataset):
    """So many windows, in epochs that are shuffled anew; smaller ones are filled up, with pixels that do not count.

    Args:
        cases: {"source", "decode", "target"} of each image, and "windows": [left, top, width, height] of each training
            window, with "key", the entry of `decode` that holds it ("window" or "box"), "" for the whole image.
        size: side of a window.
        draws: windows in all.
        seed: with its number it fixes a draw.
        turned: turn and mirror windows, in one of the eight ways.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], size: int, draws: int, seed: int = 1, turned: bool = True):
        self.cases, self.size, self.draws, self.seed, self.turned = list(cases), size, draws, seed, turned
        self.places = [(case, k) for case in range(len(self.cases)) for k in range(len(self.cases[case]["windows"]))]
        self.place = Passes(len(self.places), seed, 1)

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """ "inputs" (C, S, S) float32, "target" (S, S) float32 and "valid" (S, S) bool."""
        case, place = self.places[self.place(number)]
        pixels, target, valid = window_arrays(self.cases[case], self.cases[case]["windows"][place])
        pixels, target, valid = (_filled(each, self.size) for each in (pixels, target, valid))
        if self.turned:
            way = int(np.random.default_rng([self.seed, number]).integers(8))
            pixels, target, valid = (np.rot90(each, way % 4) for each in (pixels, target, valid))
            pixels, target, valid = (each[:, ::-1] if way >= 4 else each for each in (pixels, target, valid))
        return {
            "inputs": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "target": torch.from_numpy(np.ascontiguousarray(target)),
            "valid": torch.from_numpy(np.ascontiguousarray(valid)),
        }


def window_arrays(case: Mapping[str, Any], box: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (h, w, C), numbers (h, w), and (h, w) bool where both are there."""
    left, top, width, height = box
    within = {"window": list(box), "box": [left, top, left + width, top + height]}
    decode = {**case["decode"], **({case["key"]: within[case["key"]]} if case["key"] else {})}
    pixels, seen = scaled_pixels(Path(case["source"]), decode)
    source = NumberSource.from_json(case["target"])
    with source.open() as dataset:
        numbers, there = source.read(dataset, box)
    return pixels, numbers, there & seen


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    """(S, S, ...), zero where (h, w, ...) values do not reach."""
    if values.shape[:2] == (size, size):
        return values
    whole = np.zeros((size, size, *values.shape[2:]), values.dtype)
    whole[: values.shape[0], : values.shape[1]] = values
    return whole
