"""The report of a regression: scores beside baselines, a scatter plot, and the images with the largest errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...contracts.items import Number
from ...contracts.run_info import RunInfo
from ...errors import DataError
from ...runs.run_sections import (
    Report,
    backbone_lines,
    facts,
    few_groups,
    licences,
    notes,
    options,
    skipped,
    small_test_set,
    training_sections,
    use,
    warnings,
)
from ...runs.sections import Cell, PictureSection, TableSection
from .heads import HEADS
from .predictions import number_text
from .scoring import MEASURES, NumberAnswers, NumberComparison

WORST, MOST_POINTS = 10, 2000
COLOUR, GREY = "#2f6db5", "#888888"


def regression_report(
    folder: Path,
    info: RunInfo,
    result: NumberComparison,
    answers: NumberAnswers,
    picture: Callable[[str], np.ndarray] | None,
) -> Report:
    """The page.

    Args:
        info: of run.json.
        picture: id of a test image -> what it shows; None where no image may be shown, or there is none.
    """
    scores = ", ".join(f"{MEASURES[name].name} {result.texts(name)[-1][0]}" for name in ("rmse", "mae", "r2"))
    lead = f"{scores} on {result.test_images} test images that it never saw."
    cautions = small_test_set(result.test_images, info.notes) + few_groups(result.test_groups, result.test_images)
    history = [] if info.adapter in HEADS else info.fit.history
    data = info.data
    counts = ", ".join(f"{count} {split}" for split, count in data.splits.items())
    of_task = {
        "Numbers": [result.column, f"{counts} images"],
        "Method": [info.adapter, options(info.fit.chosen), info.fit.chosen_on],
        "Backbone": backbone_lines(info.backbone),
    }
    return Report.of_run(
        info,
        kind="Report of one fit",
        title=f"{result.column} by {info.adapter}",
        lead=lead,
        place=f"{folder}: run.json, metrics.json and adapter.safetensors lie beside this page.",
        sections=[
            result.section(),
            warnings(cautions),
            _scores(result),
            _scatter(answers, result.column),
            _worst(answers, picture),
            *training_sections(history, {Number.NAME: 1.0}, None),
            facts("What was done", info, of_task),
            notes(info),
            skipped(info.skipped, "image"),
            licences(info),
            use(_steps(folder, info), "images"),
        ],
    )


def _scores(result: NumberComparison) -> TableSection:
    """Each metric of the run beside the baselines."""
    rows = []
    for key, measure in MEASURES.items():
        title = Cell(measure.name, measure.meaning) if key == "bias" else measure.title()
        rows.append([title, *(Cell(*texts) for texts in result.texts(key))])
    units = "groups" if result.test_groups else "images"
    note = f"With 95 % intervals over {units}. Ridge sees the features of the frozen backbone."
    return TableSection("Scores", ("", *result.sides()), rows, note)


def _scatter(answers: NumberAnswers, column: str) -> PictureSection:
    """Predicted against true, with the line on which they are equal, and intervals where there are any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    true, predicted = answers.rows.numbers.numpy(), answers.predicted.numpy()
    shown = np.random.default_rng(0).permutation(len(true))[:MOST_POINTS]
    figure = Figure(figsize=(5.2, 4.8), dpi=150, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    both = np.concatenate([true, predicted])
    ends = [float(both.min()), float(both.max())]
    axes.plot(ends, ends, "--", color=GREY, linewidth=1, label="predicted = true", zorder=1)
    half = answers.half_widths
    bounded = half is not None and bool(half.isfinite().all())
    if bounded:
        bars = {"color": COLOUR, "alpha": 0.2, "linewidth": 0.8, "zorder": 2}
        low, high = (predicted + sign * half.numpy() for sign in (-1, 1))
        axes.vlines(true[shown], low[shown], high[shown], **bars)
    axes.scatter(true[shown], predicted[shown], s=12, color=COLOUR, alpha=0.7, linewidths=0, zorder=3)
    axes.set_xlabel(f"true {column}", parse_math=False)
    axes.set_ylabel(f"predicted {column}", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    caption = f"{len(shown)} test images" + ("; bars are their intervals" if bounded else "")
    return PictureSection("Predicted against true", [(drawn, caption)], side=760, columns=2)


def _worst(answers: NumberAnswers, picture: Callable[[str], np.ndarray] | None) -> Any:
    """The images with the largest errors."""
    true, predicted, ids = answers.rows.numbers, answers.predicted, answers.rows.ids
    worst = (predicted - true).abs().argsort(descending=True)[:WORST].tolist()
    words = {
        row: f"true {number_text(float(true[row]))}, predicted {number_text(float(predicted[row]))}" for row in worst
    }
    note = "Those farthest from their true number. Look whether that is right."
    if picture is None:
        return None
    shown = []
    for row in worst:
        try:
            shown.append((picture(ids[row]), f"{ids[row]}: {words[row]}"))
        except DataError:  # gone since it was encoded
            continue
    return PictureSection("Largest errors", shown, note, side=168) if shown else None


def _steps(folder: Path, info: RunInfo) -> list[tuple[str, str]]:
    if not info.backbone:
        return [("Score another file of features:", f"vladapt eval {folder} --features FILE")]
    return [
        ("Predict new images:", f"vladapt predict {folder} IMAGES --out predictions.csv"),
        ("Score it on other data:", f"vladapt eval {folder} --data TABLE"),
    ]
