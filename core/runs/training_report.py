"""report.html of a training on pairs: one self-contained page with what was trained, on what, and what it brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime.files import write_whole
from .report import template


class Examples(Protocol):
    """Queries with the images that they search."""

    queries: Sequence[Any]
    """Each with its `caption` and the `row` of its image."""
    gallery: Sequence[int]
    """Rows of the images that are searched."""

    def load_image(self, row: int) -> np.ndarray:
        """(H, W, 3); raises DataError where it cannot be read."""


def write_training_report(
    folder: str | Path,
    info: Mapping[str, Any],
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    examples: Examples | None = None,
    before: Sequence[Sequence[Any]] | None = None,
    after: Sequence[Sequence[Any]] | None = None,
) -> Path:
    """Write report.html into the folder of a training. What is not known is left out of the page.

    Args:
        folder: of the model.
        info: created, data {name, path, licence, images, texts, splits {name: pairs}}, backbone {spec, fingerprint,
            licence}, model, losses {name: weight}, loss_options {name: {option: value}}, teacher, settings, seed,
            steps, best_epoch, trained_parameters, samples_per_second, seconds, verdict (lines on retrieval), notes,
            skipped [[sample, reason]], versions {name: version}.
        metrics: of retrieval before and after ("zero_shot", "adapted", "test_images", "test_texts", "intervals",
            "mcnemar"), and "generic", how generic images are named. "zero_shot", "adapted" and "generic" may be None.
        history: a row an epoch, see `training_curves`.
        examples: queries with the images that they search.
        before, after: what each query found, the best first: images with `row`, `score`, `right`, `right_rank` and
            `same_words`.

    Returns:
        The path of the page.

    Raises:
        DataError: nothing can be written there.
    """
    path = Path(folder) / "report.html"
    write_whole(path, render_training_report(folder, info, metrics, history, examples, before, after))
    return path


def render_training_report(
    folder: str | Path, info, metrics, history, examples: Examples | None = None, before=None, after=None
) -> str:
    """The page as text. It loads nothing, runs nothing, and escapes every name it is given."""
    from .training_content import training_content

    content = training_content(str(folder), info, metrics, history, examples, before, after)
    return template("training_report.html.j2").render(content)
