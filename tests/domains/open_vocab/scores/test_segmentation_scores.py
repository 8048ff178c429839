"""Overlap of masks: perfect is 1, ignored pixels do not count, and it is the literal definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vladapt import ConfigError
from vladapt.domains.open_vocab.scores import confusion, score_segmentation

NAMES = ("sky", "sea", "sand")
TRUE = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 255]))
FOUND = arrays(np.uint8, (4, 5), elements=st.integers(0, 2))


@given(TRUE)
def test_what_is_true_is_perfect(truth):
    metrics = score_segmentation(confusion(truth, truth, 3), NAMES).metrics
    assert all(value == 1 for value in metrics.values())
    assert bool(metrics) == bool((truth != 255).any())


@given(TRUE, FOUND)
def test_scores_are_the_literal_definition(truth, found):
    scores = score_segmentation(confusion(truth, found, 3), NAMES)
    counted = truth != 255
    overlaps = []
    for label, name in enumerate(NAMES):
        union = (((truth == label) | (found == label)) & counted).sum()
        both = ((truth == label) & (found == label)).sum()
        expected = both / union if union else None
        assert scores.per_class[name]["IoU"] == (None if expected is None else pytest.approx(expected))
        overlaps += [] if expected is None else [expected]
    if counted.any():
        assert scores.metrics["mIoU"] == pytest.approx(np.mean(overlaps))
        assert scores.metrics["pixel_accuracy"] == pytest.approx((truth == found)[counted].mean())


@given(TRUE, FOUND, st.permutations(range(20)), st.permutations(range(3)))
def test_order_of_pixels_and_of_classes_means_nothing(truth, found, pixels, classes):
    one = score_segmentation(confusion(truth, found, 3), NAMES)
    new = np.full(256, 255, np.uint8)
    new[:3] = np.argsort(classes)
    moved = [new[values.ravel()[list(pixels)]] for values in (truth, found)]
    other = score_segmentation(confusion(*moved, 3), [NAMES[place] for place in classes])
    assert other.metrics == pytest.approx(one.metrics)
    assert {name: v["IoU"] for name, v in other.per_class.items()} == {n: v["IoU"] for n, v in one.per_class.items()}


def test_counts_are_those_of_torchmetrics():
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    chance = np.random.default_rng(0)
    truth, found = chance.choice([0, 1, 2, 255], (3, 4, 5)), chance.integers(0, 3, (3, 4, 5))
    expected = multiclass_confusion_matrix(
        torch.from_numpy(found), torch.from_numpy(truth), num_classes=3, ignore_index=255
    )
    assert (sum(confusion(t, f, 3) for t, f in zip(truth, found))[:, :3] == expected.numpy()).all()


def test_a_prediction_of_no_class_is_a_mistake():
    matrix = confusion(np.array([0, 0, 1, 255]), np.array([0, 255, 1, 255]), 3)
    scores = score_segmentation(matrix, NAMES)
    assert matrix[0].tolist() == [1, 0, 0, 1]
    assert scores.per_class["sky"]["IoU"] == 0.5 and scores.metrics["pixel_accuracy"] == pytest.approx(2 / 3)


def test_base_and_novel_classes_have_their_own_and_a_harmonic_mean():
    matrix = confusion(np.array([0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 1]), 3)
    metrics = score_segmentation(matrix, NAMES, novel=("sand",)).metrics
    assert metrics["base_mIoU"] == pytest.approx((1 + 2 / 3) / 2) and metrics["novel_mIoU"] == pytest.approx(0.5)
    assert metrics["hIoU"] == pytest.approx(2 * 0.5 * (5 / 6) / (0.5 + 5 / 6))


def test_shapes_and_class_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"a mask of shape \(2,\) against one of \(3,\)"):
        confusion(np.zeros(2), np.zeros(3), 3)
    with pytest.raises(ConfigError, match="a mask has class number 7, but there are 3 classes"):
        confusion(np.array([7]), np.array([0]), 3)
    with pytest.raises(ConfigError, match=r"a matrix of shape \(2, 3\) for 3 classes"):
        score_segmentation(np.zeros((2, 3), np.int64), NAMES)


def test_a_draw_has_the_mean_iou_of_the_drawn_images(monkeypatch):
    from vladapt.core.metrics.significance import drawn_weights
    from vladapt.domains.open_vocab.scores import intervals

    rng = np.random.default_rng(0)
    matrices = []
    for _ in range(10):
        truth = rng.integers(0, 3, size=(8, 8))
        predicted = np.where(rng.random((8, 8)) < 0.7, truth, rng.integers(0, 4, size=(8, 8)))
        matrices.append(confusion(truth, predicted, 3))
    counts, names = np.stack([intervals.image_counts(matrix) for matrix in matrices]), ("a", "b", "c")
    monkeypatch.setattr(intervals, "SAMPLES", 1)
    monkeypatch.setattr(
        intervals, "_around", lambda found, units: {name: [float(of[1])] * 2 for name, of in found.items()}
    )
    (weight,) = drawn_weights(10, None, 1)
    rows = np.repeat(np.arange(10), weight[0].long())
    got = intervals.mean_iou_intervals(counts, names, ("c",))
    wanted = score_segmentation(sum(matrices[n] for n in rows), names, novel=("c",)).metrics
    assert set(got) == {"mIoU", "pixel_accuracy", "mean_accuracy", "base_mIoU", "novel_mIoU", "hIoU"}
    for name, (low, high) in got.items():
        assert low == high == pytest.approx(wanted[name]), name


def test_mean_iou_has_an_interval_that_draws_groups():
    from vladapt.domains.open_vocab.scores import intervals

    rng = np.random.default_rng(1)
    right = rng.integers(10, 90, size=(6, 2)).repeat(5, axis=0).astype(float)  # images of a group are alike
    counts = np.stack([right, np.full((30, 2), 100.0), np.full((30, 2), 100.0)], axis=1)
    groups = [str(n // 5) for n in range(30)]
    alone, grouped = (intervals.mean_iou_intervals(counts, ("a", "b"), groups=each)["mIoU"] for each in (None, groups))
    assert grouped[1] - grouped[0] > 1.5 * (alone[1] - alone[0])
