"""Reports of tests share their plots: those that differ in the heights of curves alone are drawn once, since to draw
them takes longer than a small training. `tests/core/runs` draws all that it looks at."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path


def share_plots(reports, folder: str | Path) -> None:
    """Have the module `vladapt.core.runs.run_sections` look for plots in a folder before it draws them."""
    draw = reports.curve_picture
    if draw.__name__ == "shared":
        return

    def shared(section, small: bool = False) -> str:
        curves = [(name, tuple(xs), [math.isfinite(y) for y in ys]) for name, (xs, ys) in section.curves.items()]
        axes = section.title, section.x, section.y, section.unit, section.marked, section.ring, section.dividers
        file = Path(folder) / hashlib.sha256(repr((small, curves, axes)).encode()).hexdigest()
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}")
            part.write_text(draw(section, small))
            part.replace(file)
        return file.read_text()

    reports.curve_picture = shared
    reports.page_template.cache_clear()


def share_comparisons(engine, folder: str | Path) -> None:
    """The same of the module `vladapt.core.engine.compare`: plots of the same cells are drawn once, whatever was scored
    in them."""
    from vladapt.core.runtime.files import write_whole

    draw = engine.accuracy_over_shots
    if draw.__name__ == "shared":
        return

    def shared(rows, path_stem, metric, method, shot):
        cells = [
            (row[method], row["shots"], row.get("seed"), row.get("split"), row.get("tasks"), row.get(metric) is None)
            for row in rows
        ]
        file = Path(folder) / hashlib.sha256(repr((cells, metric, method, shot)).encode()).hexdigest()
        endings, made = (".png", ".svg"), []
        if not file.with_suffix(".svg").exists():
            for part, ending in zip(draw(rows, f"{file}-{os.getpid()}", metric, method, shot), endings, strict=True):
                part.replace(file.with_suffix(ending))
        for ending in endings:
            made.append(Path(f"{path_stem}{ending}"))
            write_whole(made[-1], file.with_suffix(ending).read_bytes())
        return tuple(made)

    engine.accuracy_over_shots = shared
