"""How a training went: each value of its history over the epochs, a small picture each."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INK, BLUE, GREY = "#1b2733", "#0b5a9d", "#7b8794"
MOST_MARKED = 40
"""Epochs up to which each has a dot."""
NO_CURVE = ("epoch", "stage")
FIRST = ("loss", "val", "lr")


@dataclass(frozen=True)
class Curve:
    """One value over the epochs.

    Attributes:
        name: what it is, in words.
        note: a sentence, or "".
        image: the picture as a data: address of a PNG.
        alt: its first, its last and its extreme values, in words.
        main: the whole loss or one of those it is the sum of, the score or the learning rate.
    """

    name: str
    note: str
    image: str
    alt: str
    main: bool


def training_curves(
    history: Sequence[Mapping[str, float]], losses: Mapping[str, float], best_epoch: int | None
) -> list[Curve]:
    """The loss, the score on val and the learning rate, then the losses one by one, their parts and the gradient.

    Args:
        history: one row an epoch: "epoch", "loss", "lr", "val", "grad_norm", and losses and their parts by name.
        losses: name -> weight. A single loss of weight 1 is the whole, and has no picture of its own.
        best_epoch: whose weights were kept, from 1; None where nothing chose.
    """
    epochs = [int(row.get("epoch", place)) for place, row in enumerate(history, start=1)]
    starts, curves = _stage_starts(history, epochs), []
    for key in _shown(history, losses):
        values = [_number(row.get(key)) for row in history]
        if any(map(math.isfinite, values)):
            name = _named(key, losses)
            kept = best_epoch if best_epoch in epochs else None
            picture = _png(epochs, values, kept, starts, marks_kept=key == "val")
            main, note = key in FIRST or key in losses, _note(key, epochs, kept, bool(starts))
            curves.append(Curve(name, note, picture, _in_words(name, epochs, values), main))
    return curves


def _shown(history: Sequence[Mapping[str, float]], losses: Mapping[str, float]) -> list[str]:
    """Names of the values worth a picture, in order."""
    found = list(dict.fromkeys(key for row in history for key in row if key not in NO_CURVE))
    whole = next(iter(losses), None) if list(losses.values()) == [1.0] else None
    own = [key for key in found if key in losses and key != whole]
    parts = [key for key in found if "." in key]
    rest = [key for key in found if key not in (*FIRST, *own, *parts, whole)]
    return [*(key for key in FIRST if key in found), *own, *parts, *rest]


def _named(key: str, losses: Mapping[str, float]) -> str:
    named = {"loss": "Loss", "val": "Score on val", "lr": "Learning rate", "grad_norm": "Norm of the gradient"}
    if key in named:
        return named[key]
    if key in losses:
        return f"{key}, weight {losses[key]:g}"
    return key.replace(".", ": ", 1).replace("_", " ")


def _note(key: str, epochs: Sequence[int], kept: int | None, staged: bool) -> str:
    if key == "loss":
        return "mean of each epoch, on augmented images" + ("; at a dotted line another stage begins" if staged else "")
    if key == "lr":
        return "mean of each epoch"
    if key != "val":
        return ""
    if kept is None:
        return "the higher the better"
    last = " It is the last one: more epochs may help." if kept == epochs[-1] and len(epochs) > 1 else ""
    return f"the higher the better; the weights of epoch {kept}, the bar, were kept.{last}"


def _stage_starts(history: Sequence[Mapping[str, float]], epochs: Sequence[int]) -> list[int]:
    """Epochs with which another stage begins."""
    stages = [row.get("stage") for row in history]
    return [epoch for epoch, before, stage in zip(epochs[1:], stages, stages[1:]) if stage != before]


def _png(epochs, values, kept: int | None, stage_starts: Sequence[int], marks_kept: bool) -> str:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(4.0, 2.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        marker = "o" if len(epochs) <= MOST_MARKED else None
        axes.plot(epochs, values, color=BLUE, linewidth=1.8, marker=marker, markersize=4, zorder=3)
        if kept is not None:
            _mark_kept(axes, epochs, values, kept, marks_kept)
        for start in stage_starts:
            axes.axvline(start - 0.5, color=GREY, linewidth=1, linestyle=":")
        _dress(axes, epochs)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _mark_kept(axes, epochs, values, kept: int, with_ring: bool) -> None:
    """A line through the kept epoch; on the score that chose it also a ring."""
    axes.axvline(kept, color=BLUE, alpha=0.25, linewidth=5, zorder=1)
    value = values[epochs.index(kept)]
    if with_ring and math.isfinite(value):
        axes.plot([kept], [value], "o", markersize=9, markerfacecolor="white", markeredgecolor=BLUE, zorder=4)
        axes.plot([kept], [value], "o", markersize=4, color=BLUE, zorder=5)


def _dress(axes, epochs: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.margins(y=0.1)
    axes.ticklabel_format(axis="y", scilimits=(-3, 5), useMathText=True)
    axes.set_xlabel("epoch", color=INK)
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors="#5a6875")


def _in_words(name: str, epochs: Sequence[int], values: Sequence[float]) -> str:
    known = [(epoch, value) for epoch, value in zip(epochs, values) if math.isfinite(value)]
    (first, start), (last, end) = known[0], known[-1]
    lowest, highest = min(known, key=lambda at: at[1]), max(known, key=lambda at: at[1])
    return (
        f"{name} over the epochs: {start:.4g} in epoch {first}, {end:.4g} in epoch {last}; lowest {lowest[1]:.4g} in "
        f"epoch {lowest[0]}, highest {highest[1]:.4g} in epoch {highest[0]}."
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
