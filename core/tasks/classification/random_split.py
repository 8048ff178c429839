"""What a random split would have scored, where the data are split by place.

Neighbours look alike, so that a random split tests on what was all but seen: the difference is how far such a score
deceives ("Spatial validation reveals poor predictive performance of large-scale ecological mapping models", 2020, doi
10.1038/s41467-020-18321-y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...contracts.adapter import Adapter, FitReport
from ...contracts.recipe import Recipe
from ...data.splits import assign_splits
from ...data.verify import FileHashes
from ...registry import build_adapter
from ...runtime.progress import Reporter
from ..methods import trains_towers
from .draws import Shots
from .fitting import fit_adapter
from .images import Counts
from .scoring import score_on
from .verdict import RANDOM_SPLIT, against_random_split, points


def add_random_split(
    recipe: Recipe,
    prepared,
    adapter: Adapter,
    report: FitReport,
    shots: Shots,
    drawing: Mapping[str, Any],
    metrics: dict[str, Any],
    reporter: Reporter,
) -> list[str]:
    """Fit the same method, with the settings that it chose, on as many images of a random split; add to `metrics` how
    it does there.

    Args:
        prepared: the data; nothing is done where their groups are no blocks of land.
        adapter, report, shots: of the fit.
        drawing: how its shots were drawn, arguments of `Prepared.draw`.
        metrics: of the fit.

    Returns:
        Sentences for the user.
    """
    if not prepared.data.blocks or "accuracy" not in metrics["adapted"]:
        return []
    if trains_towers(adapter.name):
        return [
            f"splits are by place, {prepared.data.blocks}; not compared with a random split, which would train twice"
        ]
    loose = replace(prepared, data=_split_at_random(prepared.data, recipe.split_seed), counts=Counts(), skipped=[])
    drawn = loose.draw(recipe.shots, recipe.seed, **drawing)
    again = build_adapter(adapter.name, **{**adapter.options, **adapter.settled(report)})
    fit_adapter(again, loose, drawn, recipe.seed, reporter)
    scores = score_on(loose, again, drawn.test, loose.class_names, None, reporter, judged=False)
    metrics[RANDOM_SPLIT] = {
        **scores.metrics["adapted"],
        "test_images": len(drawn.test),
        "blocks": prepared.data.blocks,
    }
    measure, by_place, at_random = against_random_split(metrics)
    gap = at_random - by_place
    why = ": the difference is what similar neighbours reveal" if gap > 0 else ", no better here"
    return [
        f"split by place ({prepared.data.blocks}): {measure.name.lower()} {measure.text(by_place)}; a random split of "
        f"the same images gives {measure.text(at_random)} ({points(measure, gap)}){why}"
    ]


def _split_at_random(data, seed: int):
    items = [item.with_(split="", group=None, apart=True) for item in data.items]
    loose = replace(data, items=items, notes=[], blocks="", thumbnails=None)  # neighbours may be near copies
    return assign_splits(loose, seed=seed, hashes=FileHashes())
