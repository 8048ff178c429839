"""report.html of a task that its domain trains and scores itself: one self-contained page."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.files import write_whole
from .pictures import data_uri
from .plots import COLOURS
from .report import template
from .report_facts import facts, licences
from .sections import CurveSection, PictureSection, TableSection

SHARES = re.compile(r"(^|_)(AP|AR|[mh]?IoU|accuracy|recall|precision|f1)(\d*|_at_\d+)(_|$)")
ADAPTERS = ("Labelled images", "Method")
"""Facts of adapters, in other words here."""
STYLES = ("-", "--", ":")
"""Of curves whose colours repeat."""
MOST_NAMED = 12
"""Curves that have a name in the plot."""


def write_owned_report(
    folder: str | Path,
    info: Mapping[str, Any],
    metrics: Mapping[str, Any],
    sections: Sequence[Any],
    history: Sequence[Mapping[str, float]],
) -> Path:
    """Write report.html into a run folder. Returns its path.

    Args:
        info: as in run.json.
        metrics: as in metrics.json.
        sections: see `sections.py`.
        history: a row a step of the training, "step" and values by name; may be empty.

    Raises:
        DataError: nothing can be written there.
    """
    path = Path(folder) / "report.html"
    write_whole(path, render_owned_report(folder, info, metrics, sections, history))
    return path


def render_owned_report(folder, info, metrics, sections, history) -> str:
    """The page as text. It loads nothing, runs nothing, and escapes every name it is given."""
    scores = [(name.replace("_", " "), _value(value, is_share(name))) for name, value in metrics["adapted"].items()]
    shown = [*sections, *_course(history)]
    content = {
        "title": f"{info['data'].get('name') or 'data'}: {info['task']}",
        "created": info.get("created"),
        "scores": scores,
        "headline": scores[:3],
        "test_images": metrics["test_images"],
        "notes": info.get("notes", []),
        "sections": [_prepared(section) for section in shown],
        "facts": _facts(info),
        "classes": info["class_names"],
        "skipped": info.get("skipped", [])[:100],
        "skipped_total": len(info.get("skipped", [])),
        "licences": licences(dict(info)),
        "versions": info.get("versions", {}),
        "run_name": str(folder),
    }
    return template("owned_report.html.j2").render(content)


def is_share(name: str) -> bool:
    """Whether a metric of this name lies in 0..1 and is read as a percentage: AP50, novel_AP, mIoU, pixel_accuracy."""
    return SHARES.search(name) is not None


def _course(history: Sequence[Mapping[str, float]]) -> list[CurveSection]:
    """The loss over the steps."""
    steps = [row["step"] for row in history]
    losses = [row["loss"] for row in history]
    if len(steps) < 2:
        return []
    return [CurveSection("How the training went", {"loss": (steps, losses)}, "step", "loss", unit=False)]


def _facts(info: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What was trained on what: of the usual facts those that are not of adapters, with the images and the model."""
    given = [(term, lines) for term, lines in facts(dict(info), len(info["class_names"])) if term not in ADAPTERS]
    after = next(place for place, (term, _) in enumerate(given, start=1) if term == "Classes")
    own = [("Images", _images(info)), ("Model", _model(info))]
    return [*given[:after], *(entry for entry in own if entry[1]), *given[after:]]


def _images(info: Mapping[str, Any]) -> list[str]:
    splits = info.get("splits") or {}
    counted = ", ".join(f"{len(ids)} {split}" for split, ids in splits.items() if ids)
    shots = info.get("shots")
    return [*([counted] if counted else []), *([f"up to {shots} examples a class in training"] if shots else [])]


def _model(info: Mapping[str, Any]) -> list[str]:
    model = (info.get("plan") or {}).get("model") or {}
    return [str(model["type"])] if "type" in model else []


def _prepared(section: Any) -> dict[str, Any]:
    given = {f.name: getattr(section, f.name) for f in fields(section)}
    if isinstance(section, TableSection):
        rows = [[_cell(value, section.shares) for value in row] for row in section.rows]
        return {**given, "rows": rows}
    if isinstance(section, PictureSection):
        return {**given, "pictures": [(data_uri(image, section.side), text) for image, text in section.pictures]}
    return {**given, "image": _plot(section), "alt": _in_words(section)}


def _cell(value: Any, shares: bool) -> str:
    if isinstance(value, (float, np.floating)):
        return _value(value, shares)
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _value(value: float | None, share: bool) -> str:
    """A share as a percentage; what is no share, or given in per cent already, as it is."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if share and 0 <= value <= 1 else f"{value:.4g}"


def _plot(section: CurveSection) -> str:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context({"font.size": 10.5}):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for place, (name, (xs, ys)) in enumerate(section.curves.items()):
            style = STYLES[place // len(COLOURS) % len(STYLES)]
            axes.plot(xs, ys, style, color=COLOURS[place % len(COLOURS)], linewidth=1.6, label=name)
        if 1 < len(section.curves) <= MOST_NAMED:
            axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        if section.unit:
            axes.set_xlim(0, 1.01)
            axes.set_ylim(0, 1.03)
        elif all(isinstance(x, int) for xs, _ in section.curves.values() for x in xs):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(section.x)
        axes.set_ylabel(section.y)
        axes.grid(color="#e3e6ea", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _in_words(section: CurveSection) -> str:
    said = [f"{name}: {ys[0]:.3g} to {ys[-1]:.3g}" for name, (_, ys) in section.curves.items() if len(ys)]
    return f"{section.y} over {section.x}. " + "; ".join(said[:MOST_NAMED]) + "."
