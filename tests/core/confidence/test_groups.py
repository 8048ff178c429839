"""Rows of patients: what is promised counts each patient once, and holds for patients that the rows never saw."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from vladapt.core.confidence import (
    Calibration,
    Conformal,
    LabelSets,
    answer_threshold,
    coverage_range,
    held_by_class,
    label_set_metrics,
)
from vladapt.core.confidence.conformal import set_metrics, unit_means
from vladapt.core.confidence.selective import Selective, fewest_groups, hoeffding_bentkus

CLASSES = 4


def patients(count: int, seed: int, images: int | None = 12, bound: bool = True, alike: float = 1.5):
    """Logits, labels and patient of images: those of one patient share an error, and where `bound` their class.

    Args:
        images: of each patient; None: 1 to 40, more for patients that are harder.
        alike: how large the error is that images of a patient share, beside one of 1 of their own.
    """
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(count, CLASSES))
    hard = shared.max(axis=1) - shared.mean(axis=1)
    sizes = np.full(count, images) if images else np.clip(np.round(4 * np.exp(hard * rng.normal(1, 0.3, count))), 1, 40)
    of = np.repeat(np.arange(count), sizes.astype(int))
    labels = rng.integers(CLASSES, size=count)[of] if bound else rng.integers(CLASSES, size=len(of))
    logits = 3 * np.eye(CLASSES)[labels] + alike * shared[of] + rng.normal(size=(len(of), CLASSES))
    return torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(of)


def coverage_of(made: Conformal, probs, labels, of) -> float:
    return float(unit_means(made.sets(probs).gather(1, labels[:, None]).squeeze(1), of).mean())


@pytest.mark.parametrize(("images", "bound"), product((12, None), (True, False)))
def test_sets_hold_the_right_class_for_new_patients_as_often_as_asked(images, bound):
    """The mean over draws of patients; counting images misses it where patients with many images are harder."""
    logits, *others = patients(1500, 10_000, images, bound)
    others, held, counted_images = (logits.softmax(dim=1), *others), [], []
    for seed in range(200):
        logits, labels, of = patients(25, seed, images, bound)
        probs = logits.softmax(dim=1)
        held.append(coverage_of(Conformal.of_rows(probs, labels, 0.9, groups=of), *others))
        counted_images.append(coverage_of(Conformal.of_rows(probs, labels, 0.9), *others))
    assert np.mean(held) >= 0.9
    assert np.mean(counted_images) < np.mean(held) and min(counted_images) < min(held)
    assert np.mean(np.array(held) >= coverage_range(25, 0.9)[0]) >= 0.95


def test_images_of_a_patient_that_are_all_alike_are_one_row():
    logits, labels, _ = patients(40, 3, images=1)
    probs, times = logits.softmax(dim=1), torch.arange(40) % 5 + 1
    one = Conformal.of_rows(probs, labels, 0.9)
    of = torch.arange(40).repeat_interleave(times)
    many = Conformal.of_rows(probs[of], labels[of], 0.9, groups=of)
    assert torch.equal(many.thresholds, one.thresholds) and (many.rows, many.groups) == (len(of), 40)


@given(st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.booleans())
def test_patients_of_one_image_each_are_rows_that_stand_alone(count, coverage, weighted):
    logits, labels, of = patients(count, count, images=1)
    probs, weights = logits.softmax(dim=1), 1.0 + labels if weighted else None
    alone, grouped = (Conformal.of_rows(probs, labels, coverage, weights=weights, groups=each) for each in (None, of))
    assert torch.equal(alone.thresholds, grouped.thresholds)


def test_too_few_patients_give_all_classes_and_say_so():
    logits, labels, of = patients(8, 0)
    made = Conformal.of_rows(logits.softmax(dim=1), labels, 0.9, groups=of)
    assert made.sets(logits.softmax(dim=1)).all()
    assert "96 calibration rows of 8 groups" in made.note and "at least 9 groups are needed" in made.note
    logits, labels, of = patients(9, 0)
    assert not Conformal.of_rows(logits.softmax(dim=1), labels, 0.9, groups=of).of_all_classes


def test_the_range_of_the_coverage_is_that_of_the_number_of_patients():
    assert coverage_range(25, 0.9) == pytest.approx(beta.ppf([0.025, 0.975], 24, 2))
    assert coverage_range(8, 0.9) == (1.0, 1.0)
    logits, labels, of = patients(25, 0)
    note = Conformal.of_rows(logits.softmax(dim=1), labels, 0.9, groups=of).note
    assert "25 groups" in note and "80% to 99%" in note
    assert Conformal.of_rows(logits.softmax(dim=1), labels, 0.9).note == ""


def test_a_patient_counts_once_on_test_images():
    sets = torch.tensor([[True, False]] * 9 + [[False, True]])
    labels = torch.zeros(10, dtype=torch.int64)
    many = ["a"] * 9 + ["b"]
    assert set_metrics(sets, labels)["coverage"] == pytest.approx(0.9)
    found = set_metrics(sets, labels, many)
    assert (found["coverage"], found["groups"]) == (0.5, 2)
    of_labels = label_set_metrics(sets, torch.eye(2)[labels], many)
    assert (of_labels["coverage"], of_labels["groups"]) == (0.5, 2)
    right = torch.tensor([True] * 9 + [False])
    answers = [Selective.of_answers(~right & right, right, many, 0.1, by_group=each) for each in (False, True)]
    assert [each.error for each in answers] == [pytest.approx(0.1), 0.5]
    assert answers[1]["groups"] == 2 and "groups" not in answers[0] and "each of 2 groups" in answers[1].words


@given(st.integers(2, 30), st.sampled_from(["lac", "aps", "raps"]), st.sampled_from([0.2, 0.5, 0.9]))
def test_a_set_holds_the_answer(rows, method, coverage):
    logits, labels, of = patients(rows, rows, images=2)
    probs = logits.softmax(dim=1)
    sets = Conformal.of_rows(probs, labels, coverage, method, groups=of).sets(probs)
    assert sets.gather(1, probs.topk(1).indices).all()


def test_a_set_of_labels_holds_those_that_are_named():
    rng = np.random.default_rng(0)
    truth = torch.from_numpy((rng.random((200, 3)) < 0.3).astype("f4"))
    calibration = Calibration.of_rows(
        torch.from_numpy(rng.normal(size=(200, 3))) + 4 * truth, truth, ("a", "b", "c"), ""
    )
    probs = calibration.probabilities(torch.from_numpy(rng.normal(1, 3, size=(300, 3))))
    sets, named = calibration.conformal(0.2).sets(probs), calibration.answers_of(probs)
    assert (named & (probs < calibration.conformal(0.2).threshold)).any()
    assert (sets | ~named).all()


def test_labels_of_a_patient_count_once():
    """By the formula: of K patients the mean share missed times K / (K + 1), and 1 / (K + 1)."""
    rng = np.random.default_rng(1)
    truth = torch.from_numpy((rng.random((120, 3)) < 0.4).astype("f4"))
    probs, of = torch.from_numpy(rng.random((120, 3))), torch.from_numpy(np.sort(rng.integers(30, size=120)))
    made, some = LabelSets.of_rows(probs, truth, 0.8, groups=of), truth.any(dim=1)

    def bound(least: float) -> float:
        missed = 1 - ((probs >= least) & (truth == 1)).sum(dim=1)[some] / truth.sum(dim=1)[some]
        means = [float(missed[of[some] == each].mean()) for each in of[some].unique()]
        return (sum(means) + 1) / (len(means) + 1)

    above = probs[some][truth[some] == 1]
    assert bound(made.threshold) <= 0.2 < bound(float(above[above > made.threshold].min()))
    assert made.groups == len(of[some].unique())
    assert made.threshold != LabelSets.of_rows(probs, truth, 0.8).threshold


def test_each_class_is_held_as_often_as_asked():
    """The rare class is the harder one, and is missed where all images are held as often."""
    per_class, all_alike, others = [], [], _unequal(4000, 10_000)
    of_class = [[each[others[1] == c] for each in others] for c in (0, 1)]
    for seed in range(200):
        probs, labels, of = _unequal(150, seed)
        for found, asked in ((per_class, True), (all_alike, False)):
            made = Conformal.of_rows(probs, labels, 0.8, groups=of, per_class=asked)
            found.append([coverage_of(made, *own) for own in of_class])
    assert np.mean(per_class, axis=0).min() >= 0.8 - 0.005
    assert np.mean(all_alike, axis=0)[1] < 0.65


def _unequal(count: int, seed: int):
    logits, _, of = patients(count, seed, images=3)
    labels = (of % 8 == 0).long()
    return torch.stack([logits[:, 2] + 1, logits[:, 3] + 1.5 * labels - 1], dim=1).softmax(dim=1), labels, of


def test_a_class_of_too_few_patients_is_in_every_set():
    probs, labels, of = _unequal(30, 0)  # 4 patients of the rare class
    made = Conformal.of_rows(probs, labels, 0.8, groups=of, per_class=True)
    assert not made.thresholds[1].isinf() and made.sets(probs)[:, 1].double().mean() < 1
    rare = Conformal.of_rows(probs, labels, 0.9, groups=of, per_class=True)
    assert rare.sets(probs)[:, 1].all() and "1 rare classes are in every set" in rare.note
    none = Conformal.of_rows(probs, labels, 0.99, groups=of, per_class=True)
    assert none.sets(probs).all() and "no class has the 99 groups of calibration rows that are needed" in none.note


def answers(count: int, seed: int, images: int = 12):
    """Confidence, whether it is right, and patient, of images whose patients differ in difficulty."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(count), images)
    margin = 2.5 + 1.1 * rng.normal(size=count)[of] + 1.7 * rng.normal(size=len(of))
    right = rng.random(len(of)) < 1 / (1 + np.exp(-margin - 1.5 * rng.normal(size=count)[of]))
    return torch.from_numpy(margin).sigmoid(), torch.from_numpy(right), torch.from_numpy(of)


def mean_error(confidence, right, of, least: float) -> float:
    given = confidence >= least
    return float(unit_means(~right[given], of[given]).mean()) if given.any() else 0.0


def test_the_mean_error_over_patients_stays_below_in_nine_of_ten_draws():
    others, over, shares = answers(2000, 10_000), 0, []
    for seed in range(60):
        confidence, right, of = answers(60, seed)
        found = answer_threshold(confidence, right, 0.2, groups=of)
        over += mean_error(*others, found.least) > 0.2
        shares.append(float((others[0] >= found.least).double().mean()))
    assert over <= 6 and np.mean(shares) > 0.3


def test_the_bound_is_that_of_hoeffding_and_bentkus():
    mean, count, most = 0.03, 80, 0.1
    divergence = mean * math.log(mean / most) + (1 - mean) * math.log((1 - mean) / (1 - most))
    expected = min(math.exp(-count * divergence), math.e * binom.cdf(math.ceil(count * mean), count, most))
    assert hoeffding_bentkus(mean, count, most) == pytest.approx(expected)
    assert hoeffding_bentkus(0.1, count, most) == 1.0
    assert hoeffding_bentkus(0, count, most) == pytest.approx(0.9**80)


@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.2])
def test_patients_enough_without_a_mistake_answer_all_and_one_fewer_none(max_error):
    count = fewest_groups(max_error)
    confidence = torch.linspace(0.5, 1, 3 * count, dtype=torch.float64)
    of, right = torch.arange(3 * count) % count, torch.ones(3 * count, dtype=torch.bool)
    assert answer_threshold(confidence, right, max_error, groups=of).least == 0.5
    few = answer_threshold(confidence[of > 0], right[of > 0], max_error, groups=of[of > 0])
    assert few.least == math.inf
    assert f"of {count - 1} groups" in few.note and f"at least {count} groups without a mistake" in few.note


def test_a_patient_with_many_images_counts_once_among_answers():
    """One patient in 30 is wrong throughout, on nine images in ten of all."""
    times = torch.ones(30, dtype=torch.int64)
    times[0] = 270
    of = torch.arange(30).repeat_interleave(times)
    confidence, right = torch.full((len(of),), 0.9), of != 0
    assert answer_threshold(confidence, right, 0.2, groups=of).least == pytest.approx(0.9)
    assert answer_threshold(confidence, right, 0.2).least == math.inf


def test_weights_of_classes_hold_with_patients_too():
    logits, labels, of = patients(60, 5)
    probs, weights = logits.softmax(dim=1), torch.tensor([4.0, 1.0, 1.0, 1.0])[labels]
    least = [Conformal.of_rows(probs, labels, 0.8, weights=each, groups=of).thresholds for each in (None, weights)]
    assert not torch.equal(*least) and len(least[1].unique()) == 2
    confidence, right = probs.max(dim=1).values, probs.argmax(dim=1) == labels
    found = [answer_threshold(confidence, right, 0.3, each, groups=of).least for each in (None, weights)]
    assert math.isfinite(found[0]) and found[0] != found[1]


def test_a_file_gives_back_the_same_patients(tmp_path):
    logits, labels, of = patients(25, 0)
    names = tuple("abcd")
    made = Calibration.of_rows(logits, labels, names, "some rows", groups=of)
    made.save(tmp_path)
    read, probs = Calibration.load(tmp_path), made.probabilities(logits)
    alone = Calibration.of_rows(logits, labels, names, "some rows")
    assert torch.equal(read.conformal(0.9).thresholds, made.conformal(0.9).thresholds)
    assert not torch.equal(read.conformal(0.9).thresholds, alone.conformal(0.9).thresholds)
    assert torch.equal(read.open_answers(probs, 0.2), made.open_answers(probs, 0.2))
    assert not torch.equal(read.open_answers(probs, 0.2), alone.open_answers(probs, 0.2))
    assert made.facts()["groups"] == 25 and "groups" not in alone.facts()


def test_the_class_that_is_held_least_often_is_named():
    sets = torch.tensor([[True, False, False]] * 4 + [[False, True, False]] * 3)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    found = held_by_class(sets, labels, ("a", "b", "c"))
    assert list(found) == ["a", "b"]
    assert (found["a"]["coverage"], found["b"]["coverage"], found["b"]["images"]) == (1.0, 0.75, 4)
    assert found["b"]["interval"][0] < 0.75 < found["b"]["interval"][1]
