"""What one has without a network: the training mean, a ridge regression on the bands of each pixel, and one on the
features that the frozen tower gives of each patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.contracts import Backbone, Item
from ....core.training import penalty_of_groups
from .target import item_pixels, place_of_item

MEAN, BANDS, TOWER = "training mean", "ridge on the bands", "ridge on frozen features"
WINDOWS, PER_WINDOW = 128, 200
"""Training windows that a ridge regression is fitted on, and pixels or patches of each."""
ALPHAS = tuple(10.0**power for power in range(-3, 7))
"""Penalties of the ridge regression, chosen by cross-validation over places: pixels of one place are alike, so that
others of the same place would choose too small a penalty."""
FOLDS = 5
KNOWN = 0.5
"""Share of a patch that must have a number."""


def fit_baselines(train: Sequence[Item], backbone: Backbone, seed: int) -> dict[str, Any]:
    """Name -> what predicts, JSON-able."""
    count = sum(item.target.count for item in train)
    baselines: dict[str, Any] = {MEAN: {"intercept": sum(item.target.total for item in train) / count}}
    places = np.unique(np.linspace(0, len(train) - 1, min(WINDOWS, len(train))).round().astype(int))
    some = [train[place] for place in places]
    looks = looks_at(backbone, some[0])
    of_bands: list[tuple[np.ndarray, np.ndarray, str]] = []
    of_tower: list[tuple[np.ndarray, np.ndarray, str]] = []
    for number, item in enumerate(some):
        pixels, seen = item_pixels(item)
        truth, there = item.target.read()
        random = np.random.default_rng([seed, number])
        rows = _drawn(random, np.flatnonzero(there & seen))
        place = place_of_item(item)
        of_bands.append((pixels.reshape(-1, pixels.shape[-1])[rows], truth.ravel()[rows], place))
        if looks:
            features = patch_features(backbone, pixels)  # (D, h, w)
            means, enough = _of_patches(truth, there & seen, features.shape[-2:])
            cells = _drawn(random, np.flatnonzero(enough))
            of_tower.append((features.flatten(1).T.cpu().numpy()[cells], means.ravel()[cells], place))
    baselines[BANDS] = _ridge(of_bands)
    if looks and sum(len(truth) for _, truth, _ in of_tower) > 1:
        baselines[TOWER] = _ridge(of_tower)
    return baselines


def predicted(baselines: Mapping[str, Any], pixels: np.ndarray, backbone: Backbone) -> dict[str, np.ndarray]:
    """Name -> (h, w) numbers of an image (h, w, C)."""
    shape = pixels.shape[:2]
    maps = {MEAN: np.full(shape, baselines[MEAN]["intercept"], np.float32)}
    maps[BANDS] = (pixels @ np.array(baselines[BANDS]["weights"]) + baselines[BANDS]["intercept"]).astype(np.float32)
    if TOWER in baselines:
        features = patch_features(backbone, pixels)
        weights = torch.tensor(baselines[TOWER]["weights"], dtype=features.dtype, device=features.device)
        of_patches = torch.einsum("d,dhw->hw", weights, features) + baselines[TOWER]["intercept"]
        filled = [side * backbone.image_stride for side in of_patches.shape]
        fine = F.interpolate(of_patches[None, None], size=filled, mode="bilinear", align_corners=False)[0, 0]
        maps[TOWER] = fine[: shape[0], : shape[1]].cpu().numpy()
    return maps


def looks_at(backbone: Backbone, item: Item) -> bool:
    """Whether a tower gives patch features of images like this one."""
    channels = item_pixels(item)[0].shape[-1]
    return "image_tokens" in backbone.capabilities and channels == len(backbone.image_mean)


@torch.inference_mode()
def patch_features(backbone: Backbone, pixels: np.ndarray) -> Tensor:
    """(D, h, w) float32 features of each patch of an image (H, W, C), which is filled up to whole patches."""
    stride = backbone.image_stride
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (backbone.image_mean, backbone.image_std))
    inputs = (torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1) - mean) / std
    inputs = F.pad(inputs, (0, -pixels.shape[1] % stride, 0, -pixels.shape[0] % stride))
    tokens, grid = backbone.image_tokens(inputs[None].to(backbone.device))
    return tokens[0].T.unflatten(1, grid).float()


def _of_patches(truth: np.ndarray, there: np.ndarray, grid: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) mean number of each patch, and (h, w) bool where enough of it has one."""
    both = torch.from_numpy(np.stack([np.where(there, truth, 0), there]).astype(np.float32))
    sums = F.adaptive_avg_pool2d(both[None], tuple(grid))[0]
    enough = (sums[1] >= KNOWN).numpy()
    return (sums[0] / sums[1].clamp(min=1e-6)).numpy(), enough


def _ridge(parts: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> dict[str, Any]:
    """A ridge regression on standardised columns, as weights of the columns as they are.

    Args:
        parts: rows (N, C), numbers (N,) and the place of each window.
    """
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.preprocessing import StandardScaler

    rows, truth = (np.concatenate([part[k] for part in parts]).astype(np.float64) for k in (0, 1))
    places = np.repeat([place for *_, place in parts], [len(part[1]) for part in parts])
    scaler, folds = StandardScaler(), min(FOLDS, len(np.unique(places)))
    rows = scaler.fit_transform(rows)
    ridge = RidgeCV(ALPHAS)
    if folds > 1:
        parts = list(GroupKFold(folds).split(rows, groups=places))
        ridge = Ridge(penalty_of_groups(rows, truth, parts, ALPHAS))
    ridge.fit(rows, truth)
    weights = ridge.coef_ / scaler.scale_
    return {"weights": weights.tolist(), "intercept": float(ridge.intercept_ - weights @ scaler.mean_)}


def _drawn(random: np.random.Generator, places: np.ndarray) -> np.ndarray:
    return places if len(places) <= PER_WINDOW else random.choice(places, PER_WINDOW, replace=False)
