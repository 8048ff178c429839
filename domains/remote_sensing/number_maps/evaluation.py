"""How far predicted numbers of pixels are from true ones, beside the baselines, and what a report shows of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ....core.contracts import Backbone, DomainData, Evaluation, Item
from ....core.errors import DataError
from ....core.metrics import NumberSums
from ....core.runs import PictureSection, TableSection, VerdictSection
from .baselines import BANDS, MEAN, TOWER, predicted
from .pictures import ShownWindow, density, window_examples
from .regressor import Regressor, sampled_pixels
from .target import place_of_item

Progress = Callable[[int, int], None]
OURS = "this model"
SHORT = {MEAN: "training_mean", BANDS: "ridge_bands", TOWER: "ridge_features"}
"""How the baselines are called in metrics.json."""
SHOWN, PIXELS_SHOWN, MOST_PIXELS = 6, 400, 2_000_000
"""Windows of a report, pixels of each window in its plot, and of all windows."""
NOTE = (
    "Each pixel counts once. Intervals draw places with replacement. R2 is the share of the variance of the test "
    "pixels that is explained; against the training mean: 1 minus the squared error over that of the training mean."
)


def evaluate_number_maps(model: nn.Module, data: DomainData, backbone: Backbone, progress: Progress) -> Evaluation:
    """Scores on the test split."""
    regressor, items = Regressor(model), data.split("test")
    facts = regressor.facts
    centre = float(facts["baselines"][MEAN]["intercept"])
    rows_of = {place: row for row, place in enumerate(sorted({place_of_item(item) for item in items}))}
    earlier = earlier_windows(items)
    sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(len(rows_of), 6, dtype=torch.float64))
    rows, of_place = [], []
    shown: list[ShownWindow] = []
    every, per_window = max(1, len(items) // SHOWN), max(1, min(PIXELS_SHOWN, MOST_PIXELS // len(items)))
    for number, (item, pixels, seen, values, scales) in enumerate(regressor.over(items)):
        truth, there = item.target.read()
        valid, place = there & seen, place_of_item(item)
        counted = valid & own_area(item.target.box, earlier[number])
        maps = {OURS: values, **predicted(facts["baselines"], pixels, backbone)}
        if counted.any():
            for name, of in maps.items():
                sums[name][rows_of[place]] += window_sums(of[counted], truth[counted], centre)
            picked = sampled_pixels(counted, per_window, [0, number])
            rows.append(tuple(each.ravel()[picked] for each in (values, truth, scales)))
            of_place += [place] * len(picked)
        if number % every == 0 and len(shown) < SHOWN:
            shown.append(ShownWindow(item.id, pixels, np.where(valid, truth, np.nan), np.where(seen, values, np.nan)))
        progress(number + 1, len(items))
    if not rows:
        raise DataError(f"{items[0].source}: no test pixel has both a number and a value of the image; add windows")
    used = sums[OURS][:, 0] > 0
    scores = {name: NumberSums(of[used], centre) for name, of in sums.items()}
    best = min((name for name in scores if name != OURS), key=lambda name: scores[name].metrics()["rmse"])
    gain = scores[OURS].gain(scores[best])
    values, truth, scales = (np.concatenate(each) for each in zip(*rows))
    metrics = {name: value for name, value in scores[OURS].metrics().items() if value is not None}
    metrics["rmse_gain"] = gain.value
    metrics |= {f"rmse_{SHORT[name]}": of.metrics()["rmse"] for name, of in scores.items() if name != OURS}
    intervals = scores[OURS].intervals() | ({} if gain.interval is None else {"rmse_gain": gain.interval})
    notes = list(facts.get("notes", ()))
    if regressor.intervals is not None:
        held = regressor.intervals.scores(*map(torch.from_numpy, (values, truth)), of_place, torch.from_numpy(scales))
        metrics["interval_coverage"], metrics["interval_width"] = held["coverage"], held["mean_width"]
    verdict = _verdict(scores, best, regressor.unit)
    sections = [
        verdict,
        _table(scores, regressor.unit),
        PictureSection("Predicted against true", [(density(truth, values, regressor.unit), "")], side=560, columns=2),
        PictureSection(
            "Windows",
            window_examples(shown, regressor.unit),
            "Image, true, predicted, and predicted minus true.",
            900,
            1,
        ),
    ]
    notes.append(verdict.text)
    return Evaluation(metrics, sections, notes, intervals, int(used.sum()))


def window_sums(values: np.ndarray, truth: np.ndarray, centre: float) -> torch.Tensor:
    """The row of `NumberSums` of the pixels of a window."""
    return NumberSums.of(torch.from_numpy(values), torch.from_numpy(truth), centre, torch.zeros(len(truth))).sums[0]


def earlier_windows(items: Sequence[Item]) -> list[list[Sequence[int]]]:
    """Of each window the (left, top, width, height) of those before it that share pixels of its image with it."""
    import shapely

    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        rows_of[str(item.source), place_of_item(item)].append(row)
    earlier: list[list[Sequence[int]]] = [[] for _ in items]
    for rows in rows_of.values():
        left, top, width, height = np.array([items[row].target.box for row in rows]).T
        windows = shapely.box(left, top, left + width, top + height)
        for one, other in shapely.STRtree(windows).query(windows, predicate="intersects").T:
            if other < one:
                earlier[rows[one]].append(items[rows[other]].target.box)
    return earlier


def own_area(box: Sequence[int], earlier: Sequence[Sequence[int]]) -> np.ndarray:
    """(h, w) bool of the pixels of a window that no earlier one of its image has."""
    left, top, width, height = box
    own = np.ones((height, width), bool)
    for x, y, wide, high in earlier:
        own[max(0, y - top) : max(0, y + high - top), max(0, x - left) : max(0, x + wide - left)] = False
    return own


def _verdict(scores: Mapping[str, NumberSums], best: str, unit: str) -> VerdictSection:
    gain = scores[OURS].gain(scores[best])
    low, high = sorted(bound if gain.value >= 0 else -bound for bound in gain.interval or (0, 0))
    between = "" if gain.interval is None else f" (95 % interval {low:.3g} to {high:.3g})"
    of = (
        f"RMSE {abs(gain.value):.3g}{f' {unit}' if unit else ''} {'lower' if gain.value >= 0 else 'higher'} than {best}"
    )
    text = f"{of}{between}, over {gain.units} places."
    if gain.better:
        return VerdictSection("good", "Better than the baselines", text)
    if gain.worse:
        return VerdictSection("bad", "Worse than a baseline", f"{text} Use the baseline, or give more training data.")
    return VerdictSection("open", "No better than a baseline, as far as these places tell", text)


def _table(scores: Mapping[str, NumberSums], unit: str) -> TableSection:
    rows = []
    for name, of in scores.items():
        metrics, bounds = of.metrics(), of.intervals().get("rmse")
        between = "" if bounds is None else f"{bounds[0]:.3g} to {bounds[1]:.3g}"
        numbers = [
            None if metrics[key] is None else f"{metrics[key]:.3g}"
            for key in ("rmse", "mae", "bias", "r2", "r2_of_train_mean")
        ]
        rows.append([name, numbers[0], between, *numbers[1:]])
    of_unit = f", {unit}" if unit else ""
    header = [
        f"RMSE{of_unit} ↓",
        "95 % interval",
        f"MAE{of_unit} ↓",
        f"Bias{of_unit}",
        "R2 ↑",
        "R2 against the training mean ↑",
    ]
    return TableSection("Beside the baselines", ["", *header], rows, NOTE)
