"""The head of a graph: what it makes of features is what the calibrated run makes of them."""

from __future__ import annotations

import pytest
import torch

from vladapt import Batch, FeatureSet, TextClassifier, build_adapter
from vladapt.core.confidence import Calibration
from vladapt.core.tasks.classification.exporting import Head

NAMES = ("a", "b", "c")


@pytest.mark.parametrize("several", [False, True])
def test_the_head_gives_calibrated_logits(several):
    """With several labels a label has an offset beside its temperature."""
    drawn = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(60, 8, generator=drawn), torch.arange(60) % 3
    if several:
        labels = (torch.rand(60, 3, generator=drawn) < 0.3).float()
    adapter = build_adapter("linear-probe")
    classifier = TextClassifier(torch.randn(3, 8, generator=drawn), class_names=NAMES)
    adapter.fit(FeatureSet(rows, labels=labels, class_names=NAMES), classifier)
    logits = adapter.logits(Batch(features=rows))
    calibration = Calibration.of_rows(logits - 1, labels, NAMES, "some rows")
    assert bool(calibration.scaling.offset.any()) == several
    wanted = calibration.scaling.logits(logits).float()
    torch.testing.assert_close(Head(adapter, calibration)(rows), wanted, rtol=1e-5, atol=1e-5)
