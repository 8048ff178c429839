"""A served export of a detector: each picture has its own answer, whatever becomes of the others."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="extra export is not installed")

from vladapt.core.contracts.serving import Sample
from vladapt.core.export.scripts import boxes
from vladapt.core.serving.batching import answer_each, best_batch
from vladapt.core.serving.exported_finder import BoxScript, ServedFinder

RULE = {"score_thr": 0.1, "nms_pre": None, "min_bbox_size": -1, "iou_threshold": 0.5, "max_per_img": 9}
FACTS = {"class_names": ["a"], "boxes": {**RULE, "learned_together": [True]}}
TOO_WIDE = 12


def _session(pixels):
    """One box in each picture, as sure as its pixels are bright."""
    if pixels.shape[3] == TOO_WIDE:
        raise ValueError("too wide")
    scores = pixels.mean(axis=(1, 2, 3), dtype=np.float32)[:, None, None]
    return {"scores_0": scores, "boxes_0": np.tile(np.float32([[[1, 1, 5, 5]]]), (len(pixels), 1, 1))}


def _sample(name, width, value):
    return Sample(name, None, (np.full((1, 3, 8, width), value, np.float32), (8, width), (8, width)))


def test_pictures_of_a_shape_that_fails_cost_those_of_others_no_answer():
    served = ServedFinder.__new__(ServedFinder)
    served._script, served._session = BoxScript(FACTS), _session
    samples = [_sample("a", 8, 0.9), _sample("wide", TOO_WIDE, 0.5), _sample("b", 8, 0.7), _sample("c", 10, 0.6)]
    answer_each(served, samples)
    assert isinstance(samples[1].answer, ValueError) and str(samples[1].answer) == "too wide"
    sure = [sample.answer[1].tolist() for sample in samples if sample.id != "wide"]
    np.testing.assert_allclose(sure, [[0.9], [0.7], [0.6]], rtol=1e-6)
    assert all(sample.prepared is None for sample in samples if sample.id != "wide")


def test_the_best_batch_is_measured_though_answers_use_pictures_up():
    served = ServedFinder.__new__(ServedFinder)
    served._script, served._session = BoxScript(FACTS), _session
    served._prepared = lambda picture: _sample("grey", 8, 0.5).prepared
    assert best_batch(served) in served.sizes


def test_the_score_offered_is_that_of_the_export():
    assert BoxScript(FACTS).score == boxes.UNSURE
    chosen = BoxScript({**FACTS, "score": 0.45})
    assert chosen.score == 0.45 and chosen.is_usable()
    assert not any(BoxScript({**FACTS, "score": wrong}).is_usable() for wrong in (None, "0.4", 1.5, -0.1, True))
