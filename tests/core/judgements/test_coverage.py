"""Coverage as a judgement of predictions: what is left open is named no more."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from vladapt.core.contracts.judgement import PREDICT, JudgedPredictions
from vladapt.core.judgements.coverage import Coverage


def test_labels_that_are_left_open_are_named_no_more():
    probs = torch.tensor([[0.9, 0.6], [0.4, 0.9]], dtype=torch.float64)
    left = torch.tensor([[False, True], [False, False]])
    calibration = SimpleNamespace(open_answers=lambda probs, max_error: left, abstention_notes=lambda max_error: [])
    of = {"class_names": ("mass", "effusion"), "probabilities": probs, "features": torch.eye(2)}
    judged = JudgedPredictions(at=PREDICT, run=None, answers=probs >= 0.5, calibration=calibration, **of)
    found = Coverage(max_error=0.1).compute(judged)
    assert judged.names(judged.answers) == [["mass"], ["effusion"]]
    assert found.open == [["effusion"], []] and "25.0% of the answers are left open" in found.notes[0]
