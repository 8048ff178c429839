"""Windows blended into scores of pixels: terratorch's results, and plain sums over all windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

from vladapt.domains.remote_sensing.maps.blending import (
    RowBlender,
    blended,
    raised_cosine,
    window_grid,
    window_weights,
)


@pytest.fixture
def reference(parity):
    return parity.reference("rs_tiling")


@pytest.fixture
def tiling(reference):
    """Side, stride and margin of the fixture's windows."""
    return tuple(int(reference.setting(name)) for name in ("crop", "stride", "delta"))


def model(chips: torch.Tensor) -> torch.Tensor:
    """(3, h, w) -> (2, h, w), as the fixture says."""
    down, along = (torch.linspace(-1, 1, side) for side in chips.shape[-2:])
    return torch.stack([chips.sum(dim=0) * (1 + 0.2 * down[:, None]), chips[0] - along])


def tiled(image: torch.Tensor, size: int, stride: int, margin: int, weigh, cut) -> np.ndarray:
    """(2, H, W) by RowBlender, row of windows by row of windows.

    Args:
        weigh: margins -> weights of a window.
        cut: (row, column, last row, last column) -> pixels that are cut off a window's prediction.
    """
    height, width = image.shape[-2:]
    tops, lefts, _ = window_grid(height, width, size, stride)
    blender, strips = RowBlender(2, width), []
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            off = cut(i, j, i == len(tops) - 1, j == len(lefts) - 1)
            scores = model(image[:, top : top + size, left : left + size]).numpy()
            blender.add(top + off, left + off, scores[:, off : size - off, off : size - off], weigh(off))
        until = tops[i + 1] if i + 1 < len(tops) else height
        strips.append(blender.take(until)[0])
    return np.concatenate(strips, axis=1)


def test_weights_are_the_references(reference, tiling):
    size, stride, margin = tiling
    reference.assert_close(torch.from_numpy(window_weights((size, size), stride, margin)), "terratorch.mask")


def test_windows_are_the_references(reference, tiling):
    size, stride, margin = tiling
    height, width = (side + 2 * margin for side in reference["image"].shape[-2:])
    tops, lefts, _ = window_grid(height, width, size, stride)
    kept = {(t + margin, t + size - margin, x + margin, x + size - margin) for t in tops for x in lefts}
    assert kept == {tuple(row) for row in reference["terratorch.windows"].tolist()}


@pytest.mark.parametrize("how", ["blend", "mean"])
def test_padded_tiles_are_the_references(reference, tiling, how):
    size, stride, margin = tiling
    padded = torch.nn.functional.pad(reference["image"], (margin,) * 4, mode="reflect")[0]

    def weigh(off):
        side = size - 2 * off
        return window_weights((size, size), stride, off) if how == "blend" else np.ones((side, side), np.float32)

    ours = tiled(padded, size, stride, margin, weigh, lambda *place: margin)[:, margin:-margin, margin:-margin]
    reference.assert_close(torch.from_numpy(ours)[None], f"terratorch.reflect.{how}")


@pytest.mark.parametrize("how", ["blend", "mean"])
def test_tiles_without_padding_are_the_references(reference, tiling, how):
    """There the margin is cut off inner windows alone."""
    size, stride, margin = tiling

    def weigh(off):
        side = size - 2 * off
        return window_weights((size, size), stride, off) if how == "blend" else np.ones((side, side), np.float32)

    def cut(row, column, last_row, last_column):
        return 0 if row == 0 or column == 0 or last_row or last_column else margin

    ours = tiled(reference["image"][0], size, stride, margin, weigh, cut)
    reference.assert_close(torch.from_numpy(ours)[None], f"terratorch.nopad.{how}")


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 17), st.integers(1, 17), st.integers(0, 9), st.booleans())
def test_strips_are_the_weighted_means_of_all_windows(height, width, size, stride, seed, holes):
    stride = min(stride, size)
    rng = np.random.default_rng(seed)
    tops, lefts, side = window_grid(height, width, size, stride)
    scores = rng.random((len(tops), len(lefts), 3)).astype(np.float32)
    if holes:
        scores[rng.random(scores.shape[:2]) < 0.4] = np.nan
    weights = window_weights(side, stride)
    sums, total = np.zeros((3, height, width)), np.zeros((height, width))
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            if np.isfinite(scores[i, j]).all():
                place = slice(top, top + side[0]), slice(left, left + side[1])
                sums[(slice(None), *place)] += weights * scores[i, j][:, None, None]
                total[place] += weights
    seen, means = np.zeros((height, width), bool), np.zeros((3, height, width))
    for columns in ((0, width // 3), (width // 3, width)) if width > 2 else ((0, width),):
        strips = list(blended(scores, tops, lefts, weights, height, columns))
        assert [strip[0] for strip in strips] == tops
        means[:, :, slice(*columns)] = np.concatenate([strip[1] for strip in strips], axis=1)
        seen[:, slice(*columns)] = np.concatenate([strip[2] for strip in strips])
    assert np.array_equal(seen, total > 0)
    np.testing.assert_allclose(means[:, seen], (sums[:, seen] / total[seen]), atol=2e-4)
    assert not means[:, ~seen].any()


def test_no_more_rows_are_held_than_a_window_has():
    blender, weights = RowBlender(2, 50), window_weights((16, 16), 12)
    for top in range(0, 240, 12):
        for left in (0, 12, 24, 34):
            blender.add(top, left, np.ones((2, 1, 1), np.float32), weights)
        assert blender._sums.shape == (2, 16, 50)
        means, _ = blender.take(top + 12)
        np.testing.assert_allclose(means, 1, atol=1e-5)


def test_weights_of_neighbours_that_share_a_ramp_add_up_to_one():
    for size, stride in ((24, 16), (10, 5), (16, 12)):
        ramp = size - stride
        weights = raised_cosine(size, stride)
        np.testing.assert_allclose(weights[-ramp:] + weights[:ramp], 1, atol=1e-6)
    assert (raised_cosine(8, 8) == 1).all()
