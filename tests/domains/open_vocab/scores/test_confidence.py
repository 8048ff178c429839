"""The score of a label: the best F1 over all scores, as a loop finds it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.scores.confidence import best_confidence
from vladapt.domains.open_vocab.scores.detection import Detected, Truth


def _cells(places):
    """Boxes of cells that touch no other."""
    return np.array([[20 * p, 0, 20 * p + 10, 10] for p in places], float).reshape(-1, 4)


def _f1(truths, detected, score):
    """By hand: a box is right where an object of its class lies in its cell, once."""
    right = boxes = 0
    for truth, seen in zip(truths, detected):
        sure = seen.scores >= score
        boxes += sure.sum()
        right += len({(b[0], k) for b, k in zip(seen.boxes[sure].tolist(), seen.labels[sure])} & truth_set(truth))
    return 2 * right / (boxes + sum(len(truth.labels) for truth in truths))


def truth_set(truth):
    return {(box[0], label) for box, label in zip(np.asarray(truth.boxes).tolist(), truth.labels)}


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_of_all_scores(seed):
    random = np.random.default_rng(seed)
    truths, detected = [], []
    for _ in range(12):
        there = random.permutation(8)[: random.integers(1, 5)]
        truths.append(Truth(_cells(there), random.integers(0, 2, len(there))))
        seen = random.integers(0, 8, random.integers(0, 7))
        scores = random.integers(1, 20, len(seen)) / 20  # many are alike
        detected.append(Detected(_cells(seen), scores, random.integers(0, 2, len(seen))))
    chosen = best_confidence(truths, detected, 2)
    every = {score: _f1(truths, detected, score) for each in detected for score in each.scores.tolist()}
    assert chosen.f1 == pytest.approx(max(every.values())) and chosen.images == 12
    assert chosen.score == max(score for score, f1 in every.items() if f1 == pytest.approx(chosen.f1))


def test_ignored_objects_count_neither_way():
    truth = Truth(_cells([0, 1]), [0, 0], ignored=[False, True])
    seen = Detected(_cells([0, 1]), np.array([0.4, 0.9]), np.array([0, 0]))
    chosen = best_confidence([truth], [seen], 1)
    assert (chosen.score, chosen.f1) == (0.4, 1.0)


def test_nothing_is_chosen_where_nothing_is_met():
    assert (
        best_confidence([Truth(_cells([0]), [0])], [Detected(_cells([3]), np.array([0.9]), np.array([0]))], 1) is None
    )
    assert best_confidence([Truth(_cells([]), [])], [Detected(_cells([3]), np.array([0.9]), np.array([0]))], 1) is None
