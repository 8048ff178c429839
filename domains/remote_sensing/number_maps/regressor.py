"""A trained network asked for the numbers of images, and what is settled after training: baselines and intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from mmengine import Config
from torch import nn

from ....core.confidence import NumberIntervals
from ....core.contracts import Backbone, DomainData, Item
from ....core.errors import DataError
from ..windows import batched
from .baselines import fit_baselines
from .target import item_pixels, place_of_item

AT_ONCE = 8
"""Windows of a batch."""
PIXELS_PER_WINDOW, MOST_PIXELS = 400, 2_000_000
"""Pixels of each window that intervals are calibrated on, and of all windows."""


class Regressor:
    """A model with `cfg`, whose group `vladapt` says what its numbers are."""

    def __init__(self, model: nn.Module):
        self.model, self.device = model, next(model.parameters()).device
        self.facts = model.cfg.vladapt
        self.window, self.channels = int(self.facts["window"]), int(model.mean.shape[0])
        self.name, self.unit = str(self.facts["target"]), str(self.facts["unit"])
        self.coverage, interval = float(self.facts["coverage"]), self.facts.get("interval")
        self.intervals: NumberIntervals | None = None
        if interval is not None:
            self.intervals = NumberIntervals(self.coverage, float(interval["reach"]), 0, None, scaled=True)

    @torch.inference_mode()
    def numbers(self, pixels: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Numbers and scales of their error, (h, w) float32 each, of images (h, w, C) of one size.

        Raises:
            DataError: images of other channels than those of the training.
        """
        for each in pixels:
            if each.shape[-1] != self.channels:
                raise DataError(
                    f"has {each.shape[-1]} channels, but the model learned {self.channels}; correct --bands"
                )
        batch = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy()).to(self.device)
        values, scales = self.model(batch)
        return list(zip(values.float().cpu().numpy(), scales.float().cpu().numpy()))

    def over(self, items: Sequence[Item]) -> Iterator[tuple[Item, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Each window with its pixels, where these have values, numbers and scales."""
        for _, same in groupby(items, key=lambda item: item.target.box[2:]):
            for some in batched(same, AT_ONCE):
                seen = [item_pixels(item) for item in some]
                answers = self.numbers([pixels for pixels, _ in seen])
                for item, (pixels, valid), (values, scales) in zip(some, seen, answers):
                    yield item, pixels, valid, values, scales

    def half_width(self, scales: np.ndarray) -> np.ndarray | None:
        """(h, w) how far intervals reach to either side; None without any."""
        return None if self.intervals is None else self.intervals.reach * scales


def settle_regressor(model: nn.Module, plan: Config, data: DomainData, backbone: Backbone, seed: int) -> None:
    """Fit the baselines on the training windows and calibrate intervals on val, into the plan and its model."""
    regressor = Regressor(model)
    settled: dict[str, Any] = {"baselines": fit_baselines(data.split("train"), backbone, seed)}
    settled["interval"], settled["notes"] = _interval(regressor, data.split("val"), seed)
    for facts in (plan.vladapt, model.cfg.vladapt):
        facts.update(settled)


def _interval(regressor: Regressor, items: Sequence[Item], seed: int) -> tuple[dict[str, Any] | None, list[str]]:
    """The reach of intervals, in scales, and what must be known of it."""
    if not items:
        return None, ["No intervals: they are calibrated on val, which has no window."]
    rows: list[tuple[np.ndarray, ...]] = []
    places: list[str] = []
    per_window = max(1, min(PIXELS_PER_WINDOW, MOST_PIXELS // len(items)))
    for number, (item, _, valid, values, scales) in enumerate(regressor.over(items)):
        truth, there = item.target.read()
        picked = sampled_pixels(there & valid, per_window, [seed, number])
        rows.append(tuple(each.ravel()[picked] for each in (values, truth, scales)))
        places += [place_of_item(item)] * len(picked)
    values, truth, scales = (torch.from_numpy(np.concatenate(each)) for each in zip(*rows))
    made = NumberIntervals.of_rows(values, truth, regressor.coverage, places, scales)
    if made.unbounded:
        return None, [
            made.note.replace("images of ", "pixels of ")
            .replace("groups", "places")
            .replace(" --coverage", " --interval")
        ]
    note = (
        f"{made.coverage:.0%} intervals are calibrated on {made.groups or made.rows} places of val, each counted once: "
        "so often they hold the number of a pixel of a new place."
    )
    return {"reach": made.reach, "places": made.groups or made.rows}, [note]


def sampled_pixels(mask: np.ndarray, most: int, seed: Sequence[int]) -> np.ndarray:
    """Flat positions of so many pixels of a mask, or of all where there are fewer."""
    there = np.flatnonzero(mask)
    return (
        there if len(there) <= most else np.sort(np.random.default_rng(list(seed)).choice(there, most, replace=False))
    )
