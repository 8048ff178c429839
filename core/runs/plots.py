"""Accuracy over shots: the curve by which few-shot methods are compared."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..runtime.files import write_whole

ZERO_SHOT = "zero-shot"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#5b3a8c", "#444444")
"""Okabe and Ito's colours for the colour-blind, the yellow darkened to be seen on white."""
MARKERS = "osD^vPX*"
NO_SHOTS, ALL_SHOTS = 0.5, 2.5
"""Places on the axis: of no shots, and of all there are, times the most."""
NAMES = {"accuracy": "accuracy (%)", "auroc": "macro AUROC"}
SPREAD = 0.035
LINE_HEIGHT = 0.055


def accuracy_over_shots(
    rows: Sequence[dict[str, Any]], path_stem: str | Path, metric: str | None = None, method: str = "adapter"
) -> tuple[Path, Path]:
    """Draw the mean and the standard error over seeds of each method, over the number of shots.

    Zero-shot, which has no shots, is a dashed line. Rows of which the metric is None are left out.

    Args:
        rows: one dict per fit: the method, shots (None: all there are), seed, and metrics.
        path_stem: where to write, without an ending.
        metric: which one; by default accuracy, or auroc where the rows have several labels per image.
        method: the column that names the method.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: nothing can be written there.
    """
    import matplotlib

    metric = metric or ("auroc" if any(key.startswith("auroc/") for row in rows for key in row) else "accuracy")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vladapt", "font.size": 10.5}):
        at = _places(row["shots"] for row in rows)
        ticks = {place: "all" if count is None else str(count) for count, place in at.items()}
        figure = _figure(_series(rows, metric, method, at), ticks, metric)
        written = {}
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], dpi=160, metadata=metadata)
            written[suffix] = Path(f"{path_stem}{suffix}")
            write_whole(written[suffix], buffer.getvalue())
    return written[".png"], written[".svg"]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean; the error of one value is 0, for nothing is known of it."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def _series(
    rows: Sequence[dict[str, Any]], metric: str, method: str, at: dict[int | None, float]
) -> dict[str, dict[float, list[float]]]:
    """Method -> place on the axis -> values over seeds, methods in the order of the rows. Percent for accuracies."""
    scale = 100 if metric == "accuracy" else 1
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.get(metric) is not None:
            found.setdefault(row[method], {}).setdefault(at[row["shots"]], []).append(scale * row[metric])
    return found


def _figure(series: dict[str, dict[float, list[float]]], ticks: dict[float, str], metric: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    learners = [name for name in series if name != ZERO_SHOT]
    ends = []
    for position, name in enumerate(learners):
        style = {"color": COLOURS[position % len(COLOURS)], "marker": MARKERS[position % len(MARKERS)]}
        offset = 2 ** (SPREAD * (position - (len(learners) - 1) / 2))  # error bars stand side by side
        ends.append((*_draw_adapter(axes, series[name], offset, style), name, style["color"]))
    if ZERO_SHOT in series:
        level = statistics.fmean(value for values in series[ZERO_SHOT].values() for value in values)
        axes.axhline(level, color="#666666", linestyle="--", linewidth=1.2, zorder=1)
        ends.append((None, level, ZERO_SHOT, "#555555"))
    _dress(axes, dict(sorted(ticks.items())), metric)
    _name_ends(axes, ends)
    return figure


def _draw_adapter(axes, curve: dict[int, list[float]], offset: float, style: dict[str, str]) -> tuple[float, float]:
    """One curve; returns its last point."""
    shots = sorted(curve)
    means, errors = zip(*(mean_and_error(curve[count]) for count in shots))
    axes.errorbar(
        [count * offset for count in shots],
        means,
        yerr=errors,
        capsize=2.5,
        linewidth=1.7,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        zorder=3,
        **style,
    )
    return shots[-1] * offset, means[-1]


def _places(shots: Iterable[int | None]) -> dict[int | None, float]:
    """Where each number of shots stands on a logarithmic axis: none before one, all there are after the most."""
    shots = set(shots)
    most = max((count for count in shots if count), default=1)
    return {count: NO_SHOTS if count == 0 else ALL_SHOTS * most if count is None else count for count in shots}


def _dress(axes, ticks: dict[float, str], metric: str) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    if ticks:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(min(ticks) / 1.2, max(ticks) * 1.2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.08)
    axes.set_xlabel("labelled images per class (shots)")
    axes.set_ylabel(NAMES.get(metric, metric.replace("_", " ")))
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.text(0, 1.02, "mean and standard error over seeds", transform=axes.transAxes, color="#666666", fontsize=9.5)


def _name_ends(axes, ends: list[tuple[float | None, float, str, str]]) -> None:
    """Each curve's name at its right, moved apart where names would overlap; a thin line leads to its last point."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    ends = sorted(ends, key=lambda end: end[1])
    places = spread_apart([(height - low) / (high - low) for _, height, _, _ in ends], LINE_HEIGHT)
    for (x, height, name, colour), place in zip(ends, places):
        axes.annotate(
            name,
            xy=(right if x is None else x, height),
            xytext=(1.035, place),
            xycoords="data",
            textcoords="axes fraction",
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "alpha": 0.6, "shrinkA": 1, "shrinkB": 0},
        )


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """Rising places moved as a group so that neighbours are at least `gap` apart and crowds stay where they were."""
    groups: list[list[float]] = []  # [sum of wanted first places, count]
    for position, place in enumerate(places):
        groups.append([place - position * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] >= groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
    shifts = [total / count for total, count in groups for _ in range(int(count))]
    return [shift + position * gap for position, shift in enumerate(shifts)]
