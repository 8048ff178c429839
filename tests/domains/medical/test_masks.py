"""Segmentation of images as medicine lists it: the task of the domain open-vocab, with Dice, HD95 and surface Dice."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt import load_domain
from vladapt.core.contracts import Item
from vladapt.core.errors import ConfigError


def test_structures_are_scored_without_the_background():
    pytest.importorskip("monai")
    from vladapt.core.contracts import DomainData

    data = DomainData([], ("background", "cell", "nucleus"), load=lambda item: None, kind="masks")
    scorer = load_domain("medical").mask_scorer(data)
    truth = np.zeros((12, 16), np.uint8)
    truth[2:8, 2:8], truth[0] = 1, 255
    found = np.zeros((12, 16), np.int64)
    found[2:8, 4:10], found[0] = 1, 2
    missed = np.zeros((12, 16), np.int64)
    for number, each in enumerate((found, truth.astype(np.int64), missed)):
        scorer.add(Item(id=str(number), source="a.png"), truth, each)
    scores = scorer.evaluation()
    assert scores.metrics["dice_cell"] == scores.metrics["dice"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores.metrics["hd95_px"] == pytest.approx((2 + 0 + 20) / 3) and scores.metrics["missed"] == 1
    assert "dice_nucleus" not in scores.metrics and "dice_background" not in scores.metrics
    low, high = scores.intervals["dice"]
    assert low < scores.metrics["dice"] < high and "hd95_px" in scores.intervals


def test_masks_are_read_as_open_vocab_reads_them(data_dir):
    pytest.importorskip("mmseg")
    folder = data_dir / "medical" / "isbi_membrane"
    if not folder.is_dir():
        pytest.skip("no isbi_membrane")
    ours, theirs = (
        load_domain("medical").read(folder, "segmentation"),
        load_domain("open-vocab").read(folder, "segmentation"),
    )
    assert ours.items == theirs.items and ours.class_names == theirs.class_names and ours.kind == "masks"
    with pytest.raises(ConfigError, match=r"data\.every"):
        load_domain("medical").read(folder, "segmentation", every=2)
