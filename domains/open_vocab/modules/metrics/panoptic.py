"""Panoptic quality in mmengine's test loops, also of base and novel classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .....core.errors import ConfigError
from .....registry import METRICS
from ...data.novel import split_novel
from ...scores.detection import Truth
from ...scores.panoptic import PanopticCounts, PanopticScores
from .open_vocab_detection import OpenVocabDetectionMetric


@METRICS.register_module()
class OpenVocabPanopticMetric(OpenVocabDetectionMetric):
    """PQ, SQ and RQ over the data set of a loop, of models that predict `pred_panoptic_seg`; the whole result stays in
    `.scores`. All objects are things; for annotations with stuff there is mmdet's CocoPanopticMetric.

    Args:
        novel, items_json, collect_device, prefix: as of `OpenVocabDetectionMetric`.

    Raises:
        ConfigError: as there, or an annotation without outlines.
    """

    scores: PanopticScores | None = None

    def __init__(
        self,
        novel: str | Sequence[str] | None = None,
        items_json: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ):
        super().__init__("segm", novel, items_json, collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep what is true and what was found of each sample."""
        for sample in data_samples:
            truth = self._truth(sample)
            if len(truth.labels) and not any(truth.outlines or ()):
                raise ConfigError(
                    f"{sample.get('img_path', 'an image')}: its objects have boxes and no outlines, which panoptic "
                    "quality needs; give data with polygons or encoded masks"
                )
            self.results.append((truth, sample["pred_panoptic_seg"]["sem_seg"][0].cpu().numpy()))

    def compute_metrics(self, results: list[tuple[Truth, np.ndarray]]) -> dict[str, float]:
        """Metric name -> value in 0..1."""
        names = self.dataset_meta["classes"]
        counts = PanopticCounts(names)
        for truth, found in results:
            counts.add_sample(truth, found)
        self.scores = counts.scores(() if self.novel is None else split_novel(names, self.novel).novel)
        return dict(self.scores.metrics)
