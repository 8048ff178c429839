"""Overlap of masks in mmengine's test loops, also of base and novel classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from .....registry import METRICS
from ...data.masks import IGNORED
from ...data.novel import split_novel
from ...scores.segmentation import SegmentationScores, confusion, score_segmentation


@METRICS.register_module()
class OpenVocabSegmentationMetric(BaseMetric):
    """`score_segmentation` over the data set of a loop; the whole result stays in `.scores`, the counts in `.matrix`.

    Args:
        novel: novel classes: "coco" or names, comma-separated or a list; None for none.
        ignored: value of pixels that are not counted.
        collect_device: of mmengine.
        prefix: before the names of metrics.
    """

    default_prefix = "open_vocab"
    scores: SegmentationScores | None = None
    matrix: np.ndarray | None = None

    def __init__(
        self,
        novel: str | Sequence[str] | None = None,
        ignored: int = IGNORED,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.novel, self.ignored = novel, ignored

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the counts of each sample, those that are not 0."""
        num_classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            truth, found = (sample[key]["data"].squeeze(0).cpu().numpy() for key in ("gt_sem_seg", "pred_sem_seg"))
            counts = confusion(truth, found, num_classes, self.ignored).ravel()
            filled = np.flatnonzero(counts)
            self.results.append((filled, counts[filled]))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Metric name -> value in 0..1."""
        names = self.dataset_meta["classes"]
        counts = np.zeros(len(names) * (len(names) + 1), dtype=np.int64)
        for filled, values in results:
            counts[filled] += values
        self.matrix = counts.reshape(len(names), len(names) + 1)
        novel = () if self.novel is None else split_novel(names, self.novel).novel
        self.scores = score_segmentation(self.matrix, names, novel=novel)
        return dict(self.scores.metrics)
