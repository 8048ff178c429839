"""A model of change on a test split: thresholds chosen on val, F1 and IoU of all pixels, intervals over places, and
whether it is better than what needs no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from mmengine import Config
from torch import Tensor, nn

from ....core.contracts import DomainData, Evaluation, Item
from ....core.errors import DataError
from ....core.metrics import drawn_weights, intervals_of, units_of
from ....core.runs import PictureSection, TableSection, VerdictSection
from ..windows import batched
from .baselines import DateDistances, ScoreCounts
from .masks import masked_pair
from .pictures import as_pictures
from .target import CHANGED, UNCHANGED

Progress = Callable[[int, int], None]
MODEL = "model"
TITLES = {MODEL: "This model", "feature_difference": "Feature difference", "image_difference": "Image difference"}
AT_ONCE = 8
SHOWN = 6
ON_TRAIN = "Thresholds were chosen on train, since val shows no change: that of the model is likely too high."
NOTE = (
    "Counts are of all pixels of the test split that are not ignored. The feature difference is the cosine distance of "
    "the frozen tower's maps of both dates, the image difference the length of the difference of their bands. Depth, "
    "and whether bands are standardised, are chosen on val with the threshold."
)


def _batches(items: Sequence[Item], progress: Progress) -> Iterator[tuple[Sequence[Item], np.ndarray, np.ndarray]]:
    """Tiles of one size, (B, 2, C, H, W) in 0..1, and (B, H, W) masks."""
    done = 0
    read = ((item, *masked_pair(item)) for item in items)
    for _, alike in groupby(read, key=lambda each: each[1].shape):
        for some in batched(alike, AT_ONCE):
            yield [each[0] for each in some], np.stack([each[1] for each in some]), np.stack([each[2] for each in some])
            done += len(some)
            progress(done, len(items))


def choose_thresholds(plan: Config, model: nn.Module, data: DomainData, progress: Progress) -> None:
    """Into the plan and its model: from which score on a pixel is called changed, by the highest F1 on val; on train
    where val shows no change."""
    items = data.split("val")
    if not any(CHANGED in item.classes() for item in items):
        items = data.split("train")
    device = next(model.parameters()).device
    baselines = DateDistances(plan.vladapt, device)
    counts = {name: ScoreCounts() for name in TITLES}
    for _, inputs, labels in _batches(items, progress):
        for name, levels in _scores(model, baselines, torch.from_numpy(inputs).to(device)).items():
            counts[name].add(levels, labels)
    chosen = {name: of.best().to_json() for name, of in counts.items()}
    for facts in (plan.vladapt, model.cfg.vladapt):
        facts["thresholds"], facts["chosen_on"] = chosen, items[0].split


def evaluate_changes(model: nn.Module, data: DomainData, progress: Progress) -> Evaluation:
    """F1, IoU, precision and recall of change on the test split, beside both baselines.

    Raises:
        DataError: the dates have other channels than those of the training.
    """
    items, facts = data.split("test"), model.cfg.vladapt
    device = next(model.parameters()).device
    baselines = DateDistances(facts, device)
    counts: list[np.ndarray] = []
    pictures: list[tuple[np.ndarray, str]] = []
    # Tiles that a report shows: some of those with a change, from all over the split.
    changed = [item.id for item in items if CHANGED in item.classes()] or [item.id for item in items]
    shown = set(changed[:: max(1, len(changed) // SHOWN)][:SHOWN])
    for some, inputs, labels in _batches(items, progress):
        check_pair_channels(model, some[0], inputs.shape[2])
        scores = _scores(model, baselines, torch.from_numpy(inputs).to(device))
        called = {name: _called(levels, facts["thresholds"][name]) for name, levels in scores.items()}
        counts += list(np.stack([mask_outcomes(called[name], labels) for name in TITLES], axis=1))
        for place, item in enumerate(some):
            if item.id in shown:
                pictures += as_pictures(inputs[place], labels[place], called[MODEL][place], item.id)
    table = torch.from_numpy(np.stack(counts)).double()  # (N, methods, 3): hits, false alarms, misses
    evaluation = _evaluation(table, items, facts["thresholds"], pictures)
    return replace(evaluation, notes=[*evaluation.notes, *([ON_TRAIN] if facts.get("chosen_on") == "train" else [])])


def check_pair_channels(model: Any, item: Item, channels: int) -> None:
    """Raise the DataError of a pair with other channels than those that a model was trained on."""
    trained = model.cfg.vladapt["channels"]
    if channels != trained:
        raise DataError(
            f"{item.source}: has {channels} channels, and the model was trained on {trained}; choose them by --bands"
        )


def mask_outcomes(called: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(B, 3) hits, false alarms and misses of each of B masks (B, H, W); ignored pixels are none of them."""
    changed, unchanged = labels == CHANGED, labels == UNCHANGED
    parts = (called & changed, called & unchanged, ~called & changed)
    return np.stack([part.sum(axis=(1, 2)) for part in parts], axis=1)


def ratios(sums: Tensor) -> dict[str, Tensor]:
    """F1, IoU, precision and recall of (..., 3) hits, false alarms and misses; 0 where there is nothing to find."""
    hits, alarms, misses = sums.unbind(dim=-1)
    return {
        "f1": 2 * hits / (2 * hits + alarms + misses).clamp(min=1),
        "IoU": hits / (hits + alarms + misses).clamp(min=1),
        "precision": hits / (hits + alarms).clamp(min=1),
        "recall": hits / (hits + misses).clamp(min=1),
    }


def _scores(model: Any, baselines: DateDistances, inputs: Tensor) -> dict[str, list[np.ndarray]]:
    """Of each method the scores (B, H, W) in 0..1 at each of its levels."""
    return {MODEL: [model.probabilities(inputs).float().cpu().numpy()], **baselines.distances(inputs)}


def _called(levels: Sequence[np.ndarray], threshold: Any) -> np.ndarray:
    return levels[threshold["level"]] >= threshold["value"]


def _evaluation(table: Tensor, items: Sequence[Item], thresholds: Any, pictures: list[Any]) -> Evaluation:
    groups = [item.group or item.id for item in items]
    units = units_of(groups, len(items))[1]
    values = {name: {key: float(of) for key, of in ratios(table[:, k].sum(0)).items()} for k, name in enumerate(TITLES)}
    draws = [ratios(torch.einsum("sn,nkc->skc", w.double(), table)) for w in drawn_weights(len(items), groups)]
    drawn = {key: torch.cat([of[key] for of in draws]) for key in ("f1", "IoU", "precision", "recall")}  # (S, methods)
    metrics = dict(values[MODEL])
    metrics |= {f"f1_{name}": values[name]["f1"] for name in DateDistances.NAMES}
    intervals: dict[str, list[float]] = {}
    better = max(DateDistances.NAMES, key=lambda name: values[name]["f1"])
    gain, bounds = values[MODEL]["f1"] - values[better]["f1"], None
    if units > 1:
        of_methods = {key: of[:, 0] for key, of in drawn.items()}
        of_methods |= {f"f1_{name}": drawn["f1"][:, list(TITLES).index(name)] for name in DateDistances.NAMES}
        intervals = intervals_of(of_methods, units=units, values=metrics, by_student=True)
        gains = drawn["f1"][:, 0] - drawn["f1"][:, list(TITLES).index(better)]
        bounds = intervals_of({"gain": gains}, units=units, by_student=True)["gain"]
    verdict, tone = verdict_on(gain, bounds, TITLES[better].lower(), units)
    rows = [[title, *values[name].values(), f"{thresholds[name]['value']:.3g}"] for name, title in TITLES.items()]
    header = ["Method", "F1 ↑", "IoU ↑", "Precision ↑", "Recall ↑", "Threshold, chosen on val"]
    sections = [
        VerdictSection(tone, "Is it better than a threshold?", verdict),
        TableSection("Beside what needs no training", header, rows, NOTE),
        PictureSection(
            "What it finds",
            pictures,
            "Before, after, what changed, and what it calls changed: hits green, false alarms red, misses blue, "
            "ignored pixels grey.",
            side=256,
            columns=4,
        ),
    ]
    return Evaluation(metrics, sections, [verdict], intervals, units if units != len(items) else None)


def verdict_on(gain: float, bounds: Sequence[float] | None, other: str, places: int) -> tuple[str, str]:
    """What the difference to the better baseline means, and its tone.

    Args:
        gain: in F1.
        bounds: its 95 % interval; None where the test split is of one place.
        other: the baseline, in words.
        places: of the test split.
    """
    points = f"F1 is {abs(100 * gain):.1f} points {'above' if gain >= 0 else 'below'} a threshold on the {other}"
    if bounds is None:
        return f"{points}; the test split is of one place, so that no interval says how sure that is.", "open"
    low, high = sorted(100 * (bound if gain >= 0 else -bound) for bound in bounds)
    between = f"95 % interval {low:.1f} to {high:.1f}, over {places} places"
    if bounds[0] > 0:
        return f"{points} ({between}).", "good"
    if bounds[1] < 0:
        return f"{points} ({between}): use the threshold, or label more.", "bad"
    return f"{points} ({between}): neither is shown to be better.", "open"
