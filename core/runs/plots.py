"""Pictures: the curves of reports, the plot of accuracy over shots, and parts of a sample next to each other, all
without a display."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.files import write_whole
from .sections import CurveSection, address_of

FLOOR = "largest-class"
FAR_BELOW = 15
"""Points below all others from which the floor is left out of the plot."""
LEVELS = {"zero-shot": "--", FLOOR: ":"}
"""Methods that have no shots, and the style of their lines."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#5b3a8c", "#444444")
"""Okabe and Ito's colours for the colour-blind, the yellow darkened to be seen on white."""
MARKERS = "osD^vPX*"
NO_SHOTS, ALL_SHOTS = 0.5, 2.5
"""Places on the axis: of no shots, and of all there are, times the most."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
STYLES = ("-", "--", ":")
"""Of curves whose colours repeat."""
GREY, GRID = "#666666", "#e3e6ea"
NAMES = {"accuracy": "accuracy (%)", "balanced_accuracy": "balanced accuracy (%)", "auroc": "macro AUROC"}
SPREAD = 0.035
LINE_HEIGHT = 0.055
MOST_MARKED = 40
"""Points up to which each has a dot."""
LONGEST = 60
"""Characters of a backbone's name in a plot."""
MOST_NAMED = 12
"""Curves up to which each has a name in the plot."""


def curve_picture(section: CurveSection, small: bool = False) -> str:
    """The plot of a section as a PNG in a data: address; a small one has no name at its y axis."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 11 if small else 10.5}):
        figure, axes = _figure((4.0, 2.5) if small else (7.2, 3.8))
        for place, (name, (xs, ys)) in enumerate(section.curves.items()):
            style = STYLES[place // len(COLOURS) % len(STYLES)]
            dots = "o" if not section.unit and len(xs) <= MOST_MARKED else None
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(xs, ys, style, color=colour, linewidth=1.7, marker=dots, markersize=4, label=name, zorder=3)
        if 1 < len(section.curves) <= MOST_NAMED:
            # beside the power of ten that all numbers at the axis may have in common
            place = {"loc": "lower left", "bbox_to_anchor": (0.14, 1.0), "ncol": 3, "columnspacing": 1.0}
            place = place if small else {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
            axes.legend(fontsize=9, frameon=False, handlelength=1.2, **place)
        _mark(axes, section)
        _scale(axes, section)
        axes.set_xlabel(section.x)
        axes.set_ylabel("" if small else section.y)
        axes.grid(axis="both" if section.unit else "y", color=GRID, linewidth=0.8)
        buffer, figure.dpi = io.BytesIO(), 150
        figure.canvas.print_png(buffer, metadata={"Software": None})  # savefig would draw it twice, once to lay it out
    return address_of("png", buffer)


def _figure(size: tuple[float, float]):
    """A figure and its axes, open at the top and the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _mark(axes, section: CurveSection) -> None:
    """The bar, with a ring on the first curve, and the dotted lines."""
    for x in section.dividers:
        axes.axvline(x, color=GREY, linewidth=1, linestyle=":")
    if section.marked is None:
        return
    axes.axvline(section.marked, color=COLOURS[0], alpha=0.25, linewidth=5, zorder=1)
    xs, ys = next(iter(section.curves.values()))
    value = ys[list(xs).index(section.marked)]
    if section.ring and math.isfinite(value):
        axes.plot([section.marked], [value], "o", ms=9, mfc="white", mec=COLOURS[0], zorder=4)
        axes.plot([section.marked], [value], "o", ms=4, color=COLOURS[0], zorder=5)


def _scale(axes, section: CurveSection) -> None:
    from matplotlib.ticker import MaxNLocator

    xs = [x for xs, _ in section.curves.values() for x in xs]
    if section.unit:
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, 1.03)
        return
    axes.margins(y=0.1)
    axes.yaxis.set_major_formatter(_numbers())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if xs and all(isinstance(x, int) for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlim(min(xs) - 0.5, max(xs) + 0.5)


def _numbers():
    """Numbers of an axis, with the power of ten that they have in common above them: in characters, since formulas take
    longer to set than the rest of the plot to draw."""
    from matplotlib.ticker import ScalarFormatter

    class Plain(ScalarFormatter):
        def get_offset(self) -> str:
            return f"×10{str(self.orderOfMagnitude).translate(RAISED)}" if self.orderOfMagnitude else ""

    numbers = Plain(useOffset=False)
    numbers.set_powerlimits((-3, 5))
    return numbers


def accuracy_over_shots(
    rows: Sequence[dict[str, Any]],
    path_stem: str | Path,
    metric: str | None = None,
    method: str = "adapter",
    shot: str = "labelled images per class",
) -> tuple[Path, Path]:
    """Draw the mean and the standard error over seeds of each method, over the number of shots; over splits, which
    overlap, the standard deviation.

    Zero-shot and always the largest class, which have no shots, are dashed and dotted lines. Rows of which the metric
    is None are left out. Rows of kinds of tasks ("tasks") are drawn over these, in their order.

    Args:
        rows: one dict per fit: the method, shots (None: all there are), seed, split where there are several, and
            metrics.
        path_stem: where to write, without an ending.
        metric: which one; by default accuracy, or auroc where the rows have several labels per image.
        method: the column that names the method.
        shot: what a shot is.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: nothing can be written there.
    """
    import matplotlib

    metric = metric or ("auroc" if any(key.startswith("auroc/") for row in rows for key in row) else "accuracy")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vladapt", "font.size": 10.5}):
        kinds = [row["tasks"] for row in rows if row.get("tasks")]
        at = {kind: 2.0**place for place, kind in enumerate(dict.fromkeys(kinds))}
        at = at or _places(row["shots"] for row in rows)
        ticks = {place: "all" if count is None else str(count) for count, place in at.items()}
        splits = len({row.get("split", 0) for row in rows}) > 1
        figure = _comparison(_series(rows, metric, method, at), ticks, metric, splits, "" if kinds else shot)
        return _written(figure, path_stem)


def score_over_time(
    front: Sequence[Mapping[str, Any]], path_stem: str | Path, metric: str = "accuracy"
) -> tuple[Path, Path]:
    """Draw what is reached with each backbone over the time of one image through its image tower; those that no faster
    one equals are joined by a line.

    Args:
        front: rows of `Comparison.front`.
        path_stem: where to write, without an ending.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: nothing can be written there.
    """
    import matplotlib

    scale = 100 if metric in ("accuracy", "balanced_accuracy") else 1
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vladapt", "font.size": 10.5}):
        figure, axes = _figure((7.6, 4.6))
        ahead = [row for row in front if row["on_front"]]
        axes.plot([row["milliseconds"] for row in ahead], [scale * row["score"] for row in ahead], color=GREY, zorder=1)
        for place, row in enumerate(front):
            at = (row["milliseconds"], scale * row["score"])
            name = row["backbone"] if len(row["backbone"]) <= LONGEST else f"…{row['backbone'][-LONGEST:]}"
            words = f"{name}: {row['gflop']:.3g} GFLOP, {row['parameters']:.3g} M parameters"
            style = {"color": COLOURS[place % len(COLOURS)], "markersize": 7, "label": words}
            axes.plot(*at, MARKERS[place % len(MARKERS)], **style)
        figure.legend(loc="outside lower center", fontsize=9, frameon=False)
        axes.margins(0.1)
        axes.set_xlabel("milliseconds per image")
        axes.set_ylabel(NAMES.get(metric, metric.replace("_", " ")))
        axes.grid(color=GRID, linewidth=0.8)
        return _written(figure, path_stem)


def _written(figure, path_stem: str | Path) -> tuple[Path, Path]:
    """The PNG and the SVG of a figure, laid out once; `savefig` would draw it twice for each."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg, figure.dpi = io.BytesIO(), io.BytesIO(), 160
    figure.canvas.print_png(png, metadata={"Software": None})
    figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    first, second = Path(f"{path_stem}.png"), Path(f"{path_stem}.svg")
    write_whole(first, png.getvalue())
    write_whole(second, svg.getvalue())
    return first, second


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean; the error of one value is 0, for nothing is known of it."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; that of one value is 0, for nothing is known of it."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _series(
    rows: Sequence[dict[str, Any]], metric: str, method: str, at: dict[Any, float]
) -> dict[str, dict[float, list[float]]]:
    """Method -> place on the axis -> values over seeds, methods in the order of the rows. Percent for accuracies."""
    scale = 100 if metric in ("accuracy", "balanced_accuracy") else 1
    series: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.get(metric) is not None:
            place = at[row.get("tasks") or row["shots"]]
            series.setdefault(row[method], {}).setdefault(place, []).append(scale * row[metric])
    return series


def _comparison(
    series: dict[str, dict[float, list[float]]], ticks: dict[float, str], metric: str, splits: bool, shot: str
):
    """Over shots or, where "" is one, over kinds of tasks, where zero-shot is a curve like others."""
    figure, axes = _figure((7.6, 4.6))
    levels = LEVELS if shot else {}
    spread = mean_and_deviation if splits else mean_and_error
    learners = [name for name in series if name not in levels]
    ends = []
    for position, name in enumerate(learners):
        style = {"color": COLOURS[position % len(COLOURS)], "marker": MARKERS[position % len(MARKERS)]}
        offset = 2 ** (SPREAD * (position - (len(learners) - 1) / 2))  # error bars stand side by side
        ends.append((*_draw_adapter(axes, series[name], offset, style, spread), name, style["color"]))
    least = min((statistics.fmean(of) for name in learners for of in series[name].values()), default=0)
    for name in [name for name in levels if name in series]:
        level = statistics.fmean(value for values in series[name].values() for value in values)
        if name == FLOOR and level < least - FAR_BELOW:
            continue  # the axis is for the methods
        axes.axhline(level, color=GREY, linestyle=levels[name], linewidth=1.2, zorder=1)
        ends.append((None, level, name, "#555555"))
    words = "mean and standard deviation over splits" if splits else "mean and standard error over seeds"
    _dress(axes, dict(sorted(ticks.items())), metric, words if shot else "mean over tasks")
    axes.set_xlabel(f"{shot} (shots)" if shot else "kind of tasks")
    if not shot:
        for label in axes.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right")
    _name_ends(axes, ends)
    return figure


def _draw_adapter(
    axes, curve: dict[int, list[float]], offset: float, style: dict[str, str], spread
) -> tuple[float, float]:
    """One curve; returns its last point."""
    shots = sorted(curve)
    means, errors = zip(*(spread(curve[count]) for count in shots))
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


def _dress(axes, ticks: dict[float, str], metric: str, words: str) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    if ticks:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(min(ticks) / 1.2, max(ticks) * 1.2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.08)
    axes.set_ylabel(NAMES.get(metric, metric.replace("_", " ")))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.text(0, 1.02, words, transform=axes.transAxes, color=GREY, fontsize=9.5)


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
    from sklearn.isotonic import isotonic_regression

    steps = gap * np.arange(len(places))
    return (isotonic_regression(np.asarray(places) - steps) + steps).tolist() if len(places) else []
