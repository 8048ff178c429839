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


def test_a_curve_that_never_falls_goes_through_the_middle_of_level_stretches(bench):
    curve = bench.Rising.of(np.array([3, 6, 9, 12]), np.array([0.5, 0.8, 0.6, 0.9]))
    assert curve.labels.tolist() == [3, 7.5, 12] and curve.scores.tolist() == pytest.approx([0.5, 0.7, 0.9])
    assert curve.at(7.5) == pytest.approx(0.7) and curve.at(5.25) == pytest.approx(0.6)
    assert [curve.needed(goal) for goal in (0.4, 0.6, 0.9)] == [3, pytest.approx(5.25), 12]
    assert math.isinf(curve.needed(0.91))


def test_random_needs_half_the_pool_and_others_a_share_of_it(bench):
    labels = np.array([10, 20, 30, 40])
    noisy = bench.Curves(60, labels, np.array([[0.2, 0.7, 0.4, 0.8], [0.2, 0.5, 0.6, 1.0]]))  # touches .55 at 19 labels
    quick = bench.Curves(60, labels, np.array([[0.5, 0.8, 0.9, 0.9], [0.3, 0.6, 0.9, 1.0]]))
    assert noisy.rising().at(30) == pytest.approx(2 / 3)
    assert bench.share(noisy, noisy) == pytest.approx(1)
    assert bench.share(quick, noisy) == pytest.approx((10 + 10 * (2 / 3 - 0.4) / 0.3) / 30)
    low, high = bench.interval(quick, noisy)
    assert low < bench.share(quick, noisy) < high
    assert bench.interval(noisy, noisy) == pytest.approx((1, 1))  # seeds are drawn together


def test_what_knows_the_labels_takes_classes_by_turns(bench):
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    counts = torch.tensor([2.0, 0, 0])
    pool = bench.Pool(torch.eye(10), torch.arange(2, 10), torch.arange(2), counts)
    for seed in range(6):
        rows = bench.ByTurns.of(labels).select(pool, 5, seed)
        assert torch.bincount(labels[rows]).tolist() == [1, 3, 1] and len(set(rows)) == 5 and not {0, 1} & set(rows)


def test_a_class_with_one_test_image_is_not_scored(bench):
    assert bench.score(np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 0, 1])) == pytest.approx(0.75)


def test_the_method_for_a_set_is_chosen_on_the_others(bench):
    shares = {
        "random": {"a": 1.0, "b": 1.0, "c": 1.0},
        "margin": {"a": 0.1, "b": 0.9, "c": 0.9},
        "default": {"a": 0.8, "b": 0.8, "c": math.inf},
    }
    rows = [line.split(" | ") for line in bench.chosen_elsewhere(shares, ["a", "b", "c"])][3:]
    assert [(row[0], row[1], row[2]) for row in rows[:3]] == [
        ("| a", "margin", "10"), ("| b", "margin", "90"), ("| c", "margin", "90"),
    ]  # fmt: skip
    assert rows[2][3] == "not reached |"


def test_pool_and_test_images_share_nothing_and_each_class_is_tested(bench):
    labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 2)
    pool, test = bench.divided(labels, 4, seed=1)
    assert sorted([*pool.tolist(), *test.tolist()]) == list(range(15))
    assert torch.bincount(labels[pool]).tolist() == [4, 3, 1]
    assert not torch.equal(pool, bench.divided(labels, 4, seed=2)[0])


def test_each_method_is_followed_on_the_same_pool(bench, tmp_path, monkeypatch):
    labels = torch.arange(3).repeat_interleave(8)
    draw = torch.Generator().manual_seed(0)
    features = F.one_hot(labels, 4).float() + 0.5 * torch.randn(24, 4, generator=draw)
    data = FeatureSet(features, labels, ("a", "b", "c"))
    given = (data, TextClassifier(torch.eye(4)[:3], class_names=("a", "b", "c")), 5, 2, ["random", "default"], tmp_path)
    made = bench.curves(*given)
    assert made["random"].pool == 15 and made["random"].labels.tolist() == list(range(1, 11))
    assert made["random"].scores.shape == made["default"].scores.shape == (2, 10)
    assert 1 / 3 <= made["default"].scores[:, -1].min() <= 1
    monkeypatch.setattr(bench, "run", None)  # nothing is measured again
    again = bench.curves(*given)
    assert np.array_equal(again["default"].scores, made["default"].scores)
    text = "\n".join(bench.table({"drawn": made}))
    assert "| random | 100 | 100 |" in text and "The default is pcb with first predicted." in text
    assert "* drawn: a pool of 15 images, 1 per round; with half of it random selection reaches" in text


def test_one_label_in_twenty_is_flipped(bench):
    import wrong_labels

    labels = torch.arange(100) % 4
    changed, wrong = wrong_labels.flipped(labels, 4, seed=1)
    assert wrong.sum() == 5 and torch.equal(changed != labels, wrong) and set(changed.tolist()) <= {0, 1, 2, 3}
