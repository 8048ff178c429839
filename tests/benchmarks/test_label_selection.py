"""benchmarks/label_selection.py and wrong_labels.py: what they count, and what they do to a set."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt import FeatureSet, TextClassifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import label_selection

    return label_selection


def test_labels_needed_are_interpolated(bench):
    curve = np.array([0.5, 0.6, 0.8, 0.7])
    assert [bench.needed([3, 6, 9, 12], curve, goal) for goal in (0.4, 0.6, 0.7)] == [3, 6, pytest.approx(7.5)]
    assert math.isinf(bench.needed([3, 6, 9, 12], curve, 0.81))


def test_pool_and_test_images_share_nothing_and_each_class_is_tested(bench):
    labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 2)
    pool, test = bench.divided(labels, 4, seed=1)
    assert sorted([*pool.tolist(), *test.tolist()]) == list(range(15))
    assert torch.bincount(labels[pool]).tolist() == [4, 3, 1]
    assert not torch.equal(pool, bench.divided(labels, 4, seed=2)[0])


def test_each_method_is_followed_on_the_same_pool(bench):
    labels = torch.arange(3).repeat_interleave(8)
    draw = torch.Generator().manual_seed(0)
    features = F.one_hot(labels, 4).float() + 0.5 * torch.randn(24, 4, generator=draw)
    data = FeatureSet(features, labels, ("a", "b", "c"))
    made = bench.curves(
        data, TextClassifier(torch.eye(4)[:3], class_names=("a", "b", "c")), 5, 2, ["random", "default"]
    )
    assert made["pool"] == 15 and made["labels"].tolist() == [3, 6, 9]
    assert made["random"].shape == made["default"].shape == (2, 3) and made["default"].min() >= 1 / 3
    text = "\n".join(bench.table({"drawn": made}))
    assert "with 9 of them random selection reaches" in text and "The default is pcb with first predicted." in text


def test_one_label_in_twenty_is_flipped(bench):
    import wrong_labels

    labels = torch.arange(100) % 4
    changed, wrong = wrong_labels.flipped(labels, 4, seed=1)
    assert wrong.sum() == 5 and torch.equal(changed != labels, wrong) and set(changed.tolist()) <= {0, 1, 2, 3}
