"""Average precision in mmengine's test loops, also of base and novel classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from .....core.errors import ConfigError
from .....registry import METRICS
from ...data.items_file import read_items
from ...data.masks import IGNORED
from ...data.novel import split_novel
from ...data.outlines import encode
from ...scores.detection import MOST_BOXES, Detected, DetectionScores, Truth, score_detections, truth_of
from ...scores.fixed import MOST_PER_CLASS, fixed_average_precision
from ...scores.segmentation import SegmentationScores, confusion, score_segmentation

METRICS_OF = ("bbox", "segm")


@METRICS.register_module()
class OpenVocabDetectionMetric(BaseMetric):
    """`score_detections` over the data set of a loop; the whole result stays in `.scores`.

    What is true comes from `instances` (and `facts`) of the samples, which PackDetInputs must keep in its meta_keys, or
    from a file of items.

    Args:
        metric: "bbox", or "segm" for outlines.
        novel: novel classes: "coco", "lvis" or names, comma-separated or a list; None for none.
        items_json: a file of items with the images of the loop, instead of `instances`.
        frequency: of each class "r", "c" or "f"; that of `items_json` by default.
        most: boxes per image that count (LVIS 300).
        per_class: boxes per class, in all images, that count in LVIS's fixed AP, which is told where `frequency` is.
        collect_device: of mmengine.
        prefix: before the names of metrics.

    Raises:
        ConfigError: nothing says what is true, or the model's classes are not those of the data.
    """

    default_prefix = "open_vocab"
    scores: DetectionScores | None = None

    def __init__(
        self,
        metric: str = "bbox",
        novel: str | Sequence[str] | None = None,
        items_json: str | None = None,
        frequency: Sequence[str] | None = None,
        most: int = MOST_BOXES,
        per_class: int = MOST_PER_CLASS,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix)
        if metric not in METRICS_OF:
            raise ConfigError(f"OpenVocabDetectionMetric: metric '{metric}'; give one of {', '.join(METRICS_OF)}")
        self.metric, self.novel, self.most, self.frequency = metric, novel, most, frequency
        self.per_class = per_class
        self.truths: dict[str, Truth] | None = None
        if items_json is not None:
            data = read_items(items_json)
            self.truths = {str(item.source): truth_of(item) for item in data.items}
            self.frequency = frequency or data.frequency

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep what is true and what was found of each sample."""
        for sample in data_samples:
            instances = sample["pred_instances"]
            self.results.append((self._truth(sample), _detected(instances, self.metric == "segm")))

    def compute_metrics(self, results: list[tuple[Truth, Detected]]) -> dict[str, float]:
        """Metric name -> value in 0..1."""
        names = self.dataset_meta["classes"]
        novel = () if self.novel is None else split_novel(names, self.novel, self.frequency).novel
        truths, detected = zip(*results, strict=True)
        self.scores = score_detections(
            truths,
            detected,
            names,
            novel=novel,
            frequency=self.frequency,
            outlines=self.metric == "segm",
            most=self.most,
        )
        if self.frequency is None:
            return dict(self.scores.metrics)
        options = {"frequency": self.frequency, "outlines": self.metric == "segm", "most": self.per_class}
        return {**self.scores.metrics, **fixed_average_precision(truths, detected, names, **options)}

    def _truth(self, sample: dict[str, Any]) -> Truth:
        if self.truths is not None:
            if sample["img_path"] not in self.truths:
                raise ConfigError(f"items_json does not hold {sample['img_path']}; give the file of the loop's images")
            return self.truths[sample["img_path"]]
        if "instances" not in sample:
            raise ConfigError(
                "OpenVocabDetectionMetric does not see the annotations; add 'instances' and 'facts' to the meta_keys "
                "of PackDetInputs, or give items_json"
            )
        instances, facts = sample["instances"], sample.get("facts") or {}
        height, width = sample["ori_shape"][:2]
        return Truth(
            boxes=[instance["bbox"] for instance in instances],
            labels=[instance["bbox_label"] for instance in instances],
            ignored=[bool(instance.get("ignore_flag", 0)) for instance in instances],
            outlines=[instance.get("mask") or None for instance in instances],
            size=(int(width), int(height)),
            absent=facts.get("absent", ()) if "absent" in facts or "partial" in facts else None,
            partial=facts.get("partial", ()),
        )


def _detected(instances: Any, outlines: bool) -> Detected:
    masks = instances.get("masks") if outlines else None
    return Detected(
        boxes=_array(instances["bboxes"]),
        scores=_array(instances["scores"]),
        labels=_array(instances["labels"]),
        outlines=None if masks is None else [m if isinstance(m, dict) else encode(_array(m)) for m in masks],
    )


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


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
            truth, predicted = (sample[key]["data"].squeeze(0).cpu().numpy() for key in ("gt_sem_seg", "pred_sem_seg"))
            counts = confusion(truth, predicted, num_classes, self.ignored).ravel()
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
