"""Panoptic quality of a fit and in mmengine's loops: models that give each pixel to one object."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmengine.structures import PixelData

from vladapt import ConfigError
from vladapt.domains.open_vocab.inference.detection import evaluate_detection
from vladapt.registry import METRICS

NAMES = ("cat", "dog", "emu")
BOX = (2.0, 3.0, 22.0, 23.0)
SQUARE = [[2.0, 3.0, 22.0, 3.0, 22.0, 23.0, 2.0, 23.0]]


def panoptic(label: int, rows: slice = slice(3, 23), classes: int = len(NAMES)) -> torch.Tensor:
    """(1, 32, 40): one thing on bare ground."""
    segments = torch.full((1, 32, 40), classes)
    segments[0, rows, 2:22] = label + INSTANCE_OFFSET
    return segments


@pytest.fixture
def data(make_images):
    """Six images with one object each, cat, dog, emu in turn, and one without."""
    labels = [(number % 3,) for number in range(6)] + [()]
    fields = {"boxes": [(BOX,)] * 6 + [()], "segments": [(SQUARE,)] * 6 + [()], "labels": labels}
    return make_images([(32, 40)] * 7, NAMES, **fields)


@pytest.fixture
def answer(boxes_sample):
    """Cats are found; of dogs two thirds; emus are called cats, as their model numbers names the other way round."""

    def of(number: int):
        sample = boxes_sample([BOX], [0.9], [0], panoptic(0).numpy() < 0)
        if number == 6:
            sample.pred_panoptic_seg = PixelData(sem_seg=torch.full((1, 32, 40), 3))
            return sample
        named = {0: 2, 1: 1, 2: 2}[number % 3]
        rows = slice(3, 17) if number % 3 == 1 else slice(3, 23)
        sample.pred_panoptic_seg = PixelData(sem_seg=panoptic(named, rows))
        return sample

    return of


def test_a_fit_tells_panoptic_quality_of_base_and_novel(data, answer, text_model):
    metrics = evaluate_detection(
        text_model(answer, ["emu", "dog", "cat"], novel=["dog"]), data, lambda *_: None
    ).metrics
    cats, dogs = 2 / (2 + 0.5 * 2), 0.7
    assert metrics["base_PQ"] == pytest.approx(cats / 2)
    assert metrics["novel_PQ"] == pytest.approx(dogs)
    assert metrics["PQ"] == pytest.approx((cats + dogs) / 3)
    assert metrics["SQ"] == pytest.approx((1 + 0.7 + 0) / 3)
    assert list(metrics)[:3] == ["base_AP50", "novel_AP50", "harmonic_AP50"]


def test_models_without_segments_and_data_without_outlines_have_none(
    data, answer, answering, boxes_sample, make_images
):
    plain = answering(lambda number: boxes_sample([BOX], [0.9], [number % 3]), NAMES)
    assert "PQ" not in evaluate_detection(plain, data, lambda *_: None).metrics
    boxes = make_images([(32, 40)] * 6, NAMES, boxes=[(BOX,)] * 6, labels=[(number % 3,) for number in range(6)])
    assert "PQ" not in evaluate_detection(answering(answer, NAMES), boxes, lambda *_: None).metrics


def samples(outlined: bool = True) -> list[dict]:
    """As a test loop gives them: a cat found, a dog called a cat."""
    made = []
    for number, (true, found) in enumerate(((0, 0), (1, 0))):
        instance = {"bbox": list(BOX), "bbox_label": true, "ignore_flag": 0}
        made.append(
            {
                "img_path": f"/images/{number}.png",
                "ori_shape": (32, 40),
                "instances": [{**instance, "mask": SQUARE} if outlined else instance],
                "pred_panoptic_seg": {"sem_seg": panoptic(found, classes=2)},
            }
        )
    return made


def test_a_metric_of_loops_says_the_same():
    metric = METRICS.build({"type": "vladapt.OpenVocabPanopticMetric", "novel": ["dog"]})
    metric.dataset_meta = {"classes": NAMES[:2]}
    metric.process({}, samples())
    found = metric.evaluate(2)
    assert found["open_vocab/base_PQ"] == pytest.approx(1 / 1.5)
    assert found["open_vocab/novel_PQ"] == 0
    assert metric.scores.per_class["cat"]["SQ"] == 1
    with pytest.raises(ConfigError, match=r"/images/0\.png: its objects have boxes and no outlines"):
        metric.process({}, samples(outlined=False))
