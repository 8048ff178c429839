"""Metrics in mmengine's loops, beside those of mmdet and mmseg."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.evaluation.metrics import CocoMetric
from mmseg.evaluation.metrics import IoUMetric

from vladapt import ConfigError
from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.domains.open_vocab.data import write_items
from vladapt.registry import METRICS

NAMES = ("cat", "dog")


def box_samples(images=6):
    """Samples as a detector leaves them: some found, some missed, some invented."""
    chance = np.random.default_rng(0)
    samples = []
    for number in range(images):
        corners = chance.uniform(0, 40, (4, 2))
        boxes = np.concatenate([corners, corners + chance.uniform(8, 50, (4, 2))], axis=1)
        labels = chance.integers(0, 2, 4)
        instances = [
            {"bbox": box.tolist(), "bbox_label": int(label), "ignore_flag": int(place == 3)}
            for place, (box, label) in enumerate(zip(boxes, labels))
        ]
        found = boxes + chance.normal(0, 2, boxes.shape)
        samples.append(
            {
                "img_id": number,
                "img_path": f"/images/{number}.png",
                "ori_shape": (100, 100),
                "instances": instances,
                "pred_instances": {
                    "bboxes": torch.from_numpy(found),
                    "scores": torch.from_numpy(chance.uniform(size=4)),
                    "labels": torch.from_numpy(np.where(chance.uniform(size=4) < 0.8, labels, 1 - labels)),
                },
            }
        )
    return samples


def evaluated(metric, samples):
    metric = METRICS.build(metric) if isinstance(metric, dict) else metric
    metric.dataset_meta = {"classes": NAMES}
    metric.process({}, samples)
    return metric, metric.evaluate(len(samples))


def test_average_precision_is_that_of_mmdet(capsys):
    metric, ours = evaluated({"type": "vladapt.OpenVocabDetectionMetric"}, box_samples())
    _, theirs = evaluated(CocoMetric(metric="bbox"), box_samples())
    pairs = {"AP": "mAP", "AP50": "mAP_50", "AP75": "mAP_75", "AP_medium": "mAP_m"}
    for name, other in pairs.items():
        assert ours[f"open_vocab/{name}"] == pytest.approx(theirs[f"coco/bbox_{other}"], abs=6e-4)  # they round
    assert 0 < ours["open_vocab/AP"] < 1 and set(metric.scores.curves) == set(NAMES)


def test_novel_classes_are_scored_apart_and_the_prefix_may_change():
    _, metrics = evaluated(
        {"type": "vladapt.OpenVocabDetectionMetric", "novel": "dog", "prefix": "mine"}, box_samples()
    )
    assert {"mine/base_AP50", "mine/novel_AP50", "mine/harmonic_AP50"} <= set(metrics)


def test_what_is_true_may_come_from_a_file_of_items(tmp_path):
    samples = box_samples()
    items = [
        Item(
            f"{sample['img_id']}",
            sample["img_path"],
            target=Boxes(
                boxes=tuple(tuple(entry["bbox"]) for entry in sample["instances"]),
                labels=tuple(entry["bbox_label"] for entry in sample["instances"]),
                ignored=tuple(bool(entry["ignore_flag"]) for entry in sample["instances"]),
            ),
        )
        for sample in samples
    ]
    file = write_items(tmp_path / "items.json", DomainData(items, NAMES, load=None, kind="boxes", frequency=("r", "f")))
    bare = [{key: value for key, value in sample.items() if key != "instances"} for sample in samples]
    metric = {"type": "vladapt.OpenVocabDetectionMetric", "items_json": str(file)}
    _, from_file = evaluated(metric, bare)
    _, from_samples = evaluated({"type": "vladapt.OpenVocabDetectionMetric"}, samples)
    assert {name: from_file[name] for name in from_samples} == from_samples
    assert "open_vocab/AP_rare" in from_file and "open_vocab/AP_rare" not in from_samples
    with pytest.raises(ConfigError, match="add 'instances' and 'facts' to the meta_keys"):
        evaluated({"type": "vladapt.OpenVocabDetectionMetric"}, bare)
    bare[0]["img_path"] = "/elsewhere.png"
    with pytest.raises(ConfigError, match=r"items_json does not hold /elsewhere.png"):
        evaluated(metric, bare)


def test_outlines_are_scored_where_asked():
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, :10, :10] = True
    found = {"bboxes": torch.tensor([[0.0, 0, 10, 10]]), "scores": torch.ones(1), "labels": torch.zeros(1).long()}
    instance = {"bbox": [0, 0, 10, 10], "bbox_label": 0, "ignore_flag": 0, "mask": [[0, 0, 10, 0, 0, 10]]}
    sample = {"ori_shape": (20, 20), "instances": [instance], "pred_instances": {**found, "masks": mask}}
    _, boxes = evaluated({"type": "vladapt.OpenVocabDetectionMetric"}, [sample])
    _, outlines = evaluated({"type": "vladapt.OpenVocabDetectionMetric", "metric": "segm"}, [sample])
    assert boxes["open_vocab/AP"] == pytest.approx(1) and outlines["open_vocab/AP"] < 0.5


def test_overlap_is_that_of_mmseg():
    chance = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(3):
        truth = torch.randint(0, 3, (1, 8, 9), generator=chance)
        truth[truth == 2] = 255
        found = torch.randint(0, 2, (1, 8, 9), generator=chance)
        samples.append({"gt_sem_seg": {"data": truth}, "pred_sem_seg": {"data": found}})
    metric, ours = evaluated({"type": "vladapt.OpenVocabSegmentationMetric", "novel": ["dog"]}, samples)
    _, theirs = evaluated(IoUMetric(ignore_index=255), samples)
    for name, other in {"mIoU": "mIoU", "pixel_accuracy": "aAcc", "mean_accuracy": "mAcc"}.items():
        assert 100 * ours[f"open_vocab/{name}"] == pytest.approx(theirs[other], abs=6e-3)  # they round
    assert metric.matrix.sum() == sum((sample["gt_sem_seg"]["data"] != 255).sum() for sample in samples)
    assert {"open_vocab/base_mIoU", "open_vocab/novel_mIoU", "open_vocab/hIoU"} <= set(ours)
