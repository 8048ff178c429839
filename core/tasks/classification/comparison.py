"""Methods compared on one data set: every draw of shots is encoded once, every method is fitted on it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ...contracts.adapter import Adapter
from ...contracts.recipe import Recipe
from ...contracts.task import Contest
from ...registry import adapter_class
from ...runtime.progress import Reporter
from ..methods import adapter_of
from .feature_rows import PreparedFeatures
from .fitting import fewer_views, fit_adapter, parts_wanted, views_wanted
from .images import Prepared, Shots
from .resources import check_needs
from .scoring import fitted_zero_shot, score_on

ZERO_SHOT = "zero-shot"


class ClassificationContest(Contest):
    """Fits on the same shots.

    Args:
        recipe: settled; its adapter options are for the adapter it names.
        prepared: the data.
        adapters: name -> adapter, not fitted.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared | PreparedFeatures, adapters: Mapping[str, Adapter]):
        super().__init__(prepared.data.name, list(prepared.notes))
        self.recipe, self.prepared = recipe, prepared
        self._views = {name: views_wanted(adapter) for name, adapter in adapters.items()}
        self._parts = any(parts_wanted(adapter) for adapter in adapters.values())
        self._drawn: tuple[tuple[int, int], Shots] | None = None
        if at_once := [name for name in adapters if adapter_class(name).transductive]:
            who = ", ".join(at_once)
            self.notes.append(f"{who} read all test images at once, without their labels; the others see one at a time")

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of one method on one draw."""
        name, seed, prepared = entry["adapter"], entry["seed"], self.prepared
        shots = fewer_views(self._draw(entry["shots"], seed), self._views[name])
        started = time.perf_counter()
        if name == ZERO_SHOT:
            adapter = fitted_zero_shot(shots.support, prepared.classifier)
        else:
            adapter = adapter_of(self.recipe.with_adapter(name))
            check_needs(self.recipe.resources, adapter, prepared.backbone)
            fit_adapter(adapter, prepared, shots, seed, Reporter(quiet=True))
        seconds = time.perf_counter() - started
        scores = score_on(prepared, adapter, shots.test, prepared.class_names, None, Reporter(quiet=True))
        return {**scores.metrics["adapted"], "seconds": round(seconds, 3)}

    def _draw(self, count: int, seed: int) -> Shots:
        """The shots of one draw, with the views of whoever wants most; the last one is kept."""
        if self._drawn is None or self._drawn[0] != (count, seed):
            views = max(self._views.values())
            self._drawn = (count, seed), self.prepared.draw(count, seed, views=views, parts=self._parts)
        return self._drawn[1]
