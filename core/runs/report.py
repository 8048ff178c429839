"""report.html: one self-contained page that says what was adapted, on what, how much it gained and how to use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..runtime.files import write_whole


@dataclass(kw_only=True)
class ReportInput:
    """What a report is made of.

    Attributes:
        info: as in run.json; what it lacks is left out of the page.
        class_names: C names.
        labels: (N,) class indices of the test images, or (N, C) 0/1/NaN.
        zero_shot_logits: (N, C), or None where zero-shot means nothing.
        adapted_logits: (N, C).
        metrics: as in metrics.json.
        ids: N names of test images; may be empty.
        thumbnails: test row -> decoded image, (H, W, 3) uint8 or float 0..1, or (T, H, W, 3); None: no pictures.
        skipped: (file, reason) of all that was left out.
    """

    info: dict[str, Any]
    class_names: Sequence[str]
    labels: Tensor
    zero_shot_logits: Tensor | None
    adapted_logits: Tensor
    metrics: dict[str, Any]
    ids: Sequence[str] = ()
    thumbnails: Callable[[int], np.ndarray] | None = None
    skipped: Sequence[tuple[str, str]] = ()

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2


def write_report(run_path: str | Path, given: ReportInput) -> Path:
    """Write report.html into a run folder. Returns its path.

    Raises:
        DataError: nothing can be written there, or the scores cannot be read.
    """
    path = Path(run_path) / "report.html"
    write_whole(path, render_report(given, str(run_path)))
    return path


def render_report(given: ReportInput, run_name: str) -> str:
    """The page as text. It loads nothing, runs nothing, and escapes every name it is given."""
    from .report_content import content

    return template("report.html.j2").render(content(given, run_name))


@cache
def template(name: str):
    """A template of this folder, with the filters that all reports share."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, decimal=decimal, score=score, points=points)
    return environment.get_template(name)


def percent(value: float | None, digits: int = 1) -> str:
    """0.845 -> 84.5%."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def decimal(value: float | None) -> str:
    """0.93217 -> 0.932."""
    return "–" if value is None else f"{value:.3f}"


def score(value: float | None, as_percent: bool) -> str:
    """A share as a percentage, anything else with three decimals."""
    return percent(value) if as_percent else decimal(value)


def points(change: float | None, as_percent: bool) -> str:
    """A change, with its sign: +12.5 points, or +0.125."""
    if change is None:
        return "–"
    text = f"{100 * change:+.1f}" if as_percent else f"{change:+.3f}"
    return text.replace("-", "−")
