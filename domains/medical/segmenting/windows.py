"""A network slid over a volume, slab by slab: no array of scores is ever as large as the volume.

Windows, their overlap and their Gaussian weights are those of MONAI's `sliding_window_inference`, added up in its
order, so that the labels are the same. Only a band of scores as deep as a window is held; what no further window
reaches is finished, brought to the grid of the file, and written as labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from ....core.errors import DataError
from ..volumes import Slabs
from .preprocessing import Preprocessing, Shape, read_rows, resampled, write_image

OVERLAP, SIGMA = 0.5, 0.125
"""Of neighbouring windows, and the deviation of their weights as a share of their sides: nnU-Net's."""
AT_ONCE = 1
"""Windows that go through the network together."""
CHUNK = 1 << 23
"""Scores that become labels at once."""
Predict = Callable[[Tensor], Tensor]
"""(B, C, z, y, x) -> scores (B, K, z, y, x)."""
Rows = Callable[[int, int], np.ndarray]


def write_labels(
    volume: Slabs,
    how: Preprocessing,
    patch_size: Shape,
    predict: Predict,
    decide: Callable[[Tensor], Tensor],
    file: Path,
    device: torch.device,
) -> np.ndarray:
    """Labels of a volume, (Z, Y, X) uint8 in a memory-mapped file.

    Args:
        decide: scores (K, z, Y, X) -> labels (z, Y, X).
        file: where they are written, as raw bytes.

    Raises:
        DataError: the volume cannot be read, or the network gives NaN or infinity for it.
    """
    _, depth, height, width = volume.shape
    shape: Shape = (depth, height, width)
    with TemporaryDirectory(prefix="vladapt-", dir=file.parent) as folder, file.open("wb") as out:
        image = Path(folder) / "image.raw"
        size = write_image(volume, how, image)

        def rows(start: int, stop: int) -> np.ndarray:
            return read_rows(image, volume.shape[0], size, start, stop)

        scores = sliding_scores(rows, volume.shape[0], size, patch_size, predict, device)
        for slab in _on_grid(scores, size, shape):
            if bool((slab.isnan() | slab.isposinf()).any()):
                raise DataError.not_finite([str(volume.files[0])])
            out.write(decide(slab).to(torch.uint8).numpy().tobytes())
    return np.memmap(file, np.uint8, "r", shape=shape)


@torch.no_grad()
def sliding_scores(
    rows: Rows, channels: int, size: Shape, patch_size: Shape, predict: Predict, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Finished scores of a volume in order: the first slice, and (K, z, Y, X) of some slices.

    Args:
        rows: slices of the volume, (C, z, Y, X).
        size: of the volume; smaller than a window it is padded with zeros on both sides.
    """
    from monai.data.utils import compute_importance_map, dense_patch_slices

    padded = tuple(max(n, p) for n, p in zip(size, patch_size))
    before = [(n - s) // 2 for n, s in zip(padded, size)]
    steps = [p if p == n else max(1, int(p * (1 - OVERLAP))) for n, p in zip(padded, patch_size)]
    windows = dense_patch_slices(padded, patch_size, steps)
    weight = compute_importance_map(patch_size, mode="gaussian", sigma_scale=SIGMA, device="cpu", dtype=torch.float32)
    weight = weight.reshape(patch_size)
    starts = sorted({window[0].start for window in windows})
    band: Tensor | None = None
    weights: Tensor | None = None
    for start, following in zip(starts, [*starts[1:], padded[0]]):
        slab = _padded(rows, channels, size, padded, before, start, start + patch_size[0])
        of_slab = [window[1:] for window in windows if window[0].start == start]
        for first in range(0, len(of_slab), AT_ONCE):
            some = of_slab[first : first + AT_ONCE]
            patches = torch.stack([slab[:, :, window[0], window[1]] for window in some])
            found = predict(patches.to(device)).float().cpu()
            if band is None or weights is None:
                band = torch.zeros(found.shape[1], patch_size[0], *padded[1:])
                weights = torch.zeros(patch_size[0], *padded[1:])
            for window, scores in zip(some, found):
                band[:, :, window[0], window[1]] += scores * weight
                weights[:, window[0], window[1]] += weight
        del slab
        assert band is not None and weights is not None  # a slab has windows
        done = following - start
        inner = slice(before[1], before[1] + size[1]), slice(before[2], before[2] + size[2])
        low, high = max(start, before[0]), min(following, before[0] + size[0])
        depth = max(1, CHUNK // max(1, band.shape[0] * padded[1] * padded[2]))
        for row in range(low, high, depth):
            part = slice(row - start, min(row + depth, high) - start)
            yield row - before[0], band[:, part, inner[0], inner[1]] / weights[part, inner[0], inner[1]]
        for row in range(patch_size[0]):  # what further windows reach moves up, in place
            if row + done < patch_size[0]:
                band[:, row], weights[row] = band[:, row + done], weights[row + done]
            else:
                band[:, row], weights[row] = 0, 0


def _padded(
    rows: Rows, channels: int, size: Shape, padded: Sequence[int], before: Sequence[int], start: int, stop: int
) -> Tensor:
    """Slices of the volume as windows see it."""
    low, high = max(start, before[0]), min(stop, before[0] + size[0])
    read = torch.from_numpy(rows(low - before[0], high - before[0]))
    if tuple(padded) == tuple(size):
        return read
    slab = torch.zeros(channels, stop - start, *padded[1:])
    slab[:, low - start : high - start, before[1] : before[1] + size[1], before[2] : before[2] + size[2]] = read
    return slab


def _on_grid(scores: Iterator[tuple[int, Tensor]], size: Shape, shape: Shape) -> Iterator[Tensor]:
    """Scores on another grid, in order, as soon as the slices are there that they are interpolated from."""
    if tuple(size) == tuple(shape):
        yield from (slab for _, slab in scores)
        return
    first, held, done = 0, None, 0
    for _, slab in scores:
        held = slab if held is None else torch.cat([held, slab], dim=1)
        end = first + held.shape[1]
        ready = done  # the slices that lie between finished ones
        while ready < shape[0] and (end == size[0] or int((ready + 0.5) * size[0] / shape[0] - 0.5) + 1 < end):
            ready += 1
        depth = max(1, CHUNK // max(1, held.shape[0] * shape[1] * shape[2]))
        for start in range(done, ready, depth):
            stop = min(start + depth, ready)
            yield resampled(_Held(held, first), size, shape, start, stop)
        done = ready
        kept = min(max(0, int((done + 0.5) * size[0] / shape[0] - 0.5) - first), held.shape[1])
        held, first = held[:, kept:].clone(), first + kept


class _Held:
    """Slices that are in memory, by their numbers in the volume."""

    def __init__(self, held: Tensor, first: int):
        self.held, self.first = held, first

    def __call__(self, start: int, stop: int) -> np.ndarray:
        return self.held[:, start - self.first : stop - self.first].numpy()
