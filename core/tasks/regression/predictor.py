"""A regression run that keeps its model between calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.items import DomainData
from ...contracts.recipe import Recipe
from ...contracts.run_info import FittedRun
from ...contracts.use import Use
from ...data.unlabelled import images_of, readable
from ...features.store import FeatureStore
from ...runtime.progress import Reporter
from ..classification.stored_run import facts_of_skipped
from .heads import NumberHead
from .predictions import NumberPredictions
from .prepared import NumberImages


@dataclass
class NumberPredictor:
    """A run that keeps its model between calls; `vladapt.load_run` makes one."""

    domain: Domain
    task: str
    run: FittedRun
    recipe: Recipe
    backbone: Backbone
    head: NumberHead
    towers: Backbone | None

    def predict(self, images: str | Path | Sequence[str | Path], **wishes: Any) -> NumberPredictions:
        """Numbers of images: a file or folder, or several.

        Args:
            wishes: `batch_size` and `workers`.

        Raises:
            DataError: nothing could be read.
        """
        paths = [images] if isinstance(images, (str, Path)) else list(images)
        return self.predict_use(Use(self.run, images=tuple(paths)).asking(wishes), Reporter(quiet=True))

    def predict_use(self, use: Use, reporter: Reporter) -> NumberPredictions:
        """Numbers of the images of a use."""
        data: DomainData = readable(images_of(self.domain, use.images, self.recipe.reading))
        how = {"batch_size": use.batch_size, "workers": use.workers, "amp": self.recipe.amp}
        of: dict[str, Any] = {"backbone": self.backbone, "task": self.task, "store": FeatureStore(), "how": how}
        data.tolerate = 1.0
        prepared = NumberImages(data=data, reporter=reporter, domain=self.domain.of(data), **of)
        rows = prepared.rows(data.items, "images", self.towers)
        numbers, half = self.head.answers(rows.features), self.head.half_widths(rows.features)
        notes = [] if self.head.intervals is None or not self.head.intervals.unbounded else [self.head.intervals.note]
        widths = None if half is None else half.tolist()
        return NumberPredictions(
            self.head.column,
            rows.ids,
            numbers.tolist(),
            widths,
            facts_of_skipped(prepared.data.skipped, prepared.skipped),
            notes,
        )
