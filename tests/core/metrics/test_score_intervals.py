"""Each score of a classifier has an interval around it, except where too few images tell one."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from vladapt.core.metrics import classification_metrics, multilabel_metrics
from vladapt.core.metrics.score_intervals import (
    MOST_RANKED,
    answer_intervals,
    label_answer_intervals,
    precision_interval,
    score_intervals,
)
from vladapt.core.metrics.significance import f1_draws, percentiles

PATIENTS = tuple(f"patient {i // 5}" for i in range(300))


def one_label(counts=(180, 60, 60)):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(labels), len(counts), generator=torch.Generator().manual_seed(0))
    logits = noise + 1.5 * torch.nn.functional.one_hot(labels, len(counts))
    return logits, labels, classification_metrics(logits, labels, len(counts))


def several_labels(count=300):
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(count, 3, generator=generator) < 0.3).float()
    logits = torch.randn(count, 3, generator=generator) + 2 * labels - 1
    labels[::7, 1], labels[:, 2] = torch.nan, 0
    return logits, labels, multilabel_metrics(logits, labels, list("abc"))


@pytest.mark.parametrize("groups", [None, PATIENTS], ids=["images", "patients"])
@pytest.mark.parametrize("make", [one_label, several_labels])
def test_every_score_lies_in_its_interval(make, groups):
    logits, labels, values = make()
    found = score_intervals(logits, labels, values, groups)
    assert found.keys() == {name for name, value in values.items() if value is not None}
    for name, (low, high) in found.items():
        assert 0 <= low <= values[name] <= high <= 1 and low < high, name


def test_groups_that_answer_alike_widen_every_interval():
    _, labels, _ = one_label((100, 100, 100))
    right = torch.rand(60, generator=torch.Generator().manual_seed(1)).lt(0.7).repeat_interleave(5)
    logits = 2.0 * torch.nn.functional.one_hot(torch.where(right, labels, (labels + 1) % 3), 3)
    values = classification_metrics(logits, labels, 3)
    alone, grouped = (score_intervals(logits, labels, values, groups) for groups in (None, PATIENTS))
    for name in values:
        assert np.subtract(*grouped[name]) < 1.5 * np.subtract(*alone[name]), name


def test_means_of_f1_and_of_precision_are_withheld_where_a_class_has_fewer_than_ten():
    for count, told in ((9, False), (10, True)):
        _, labels, _ = one_label((50, count))
        answers, groups = (
            labels.clone(),
            [f"patient {i}" for i in range(50)] + ["last"] * 2 + list("abcdefgh")[: count - 2],
        )
        answers[::4] = 0
        assert ("macro_f1" in answer_intervals(answers, labels, {"macro_f1": 0.8})) == told
        assert "macro_f1" not in answer_intervals(answers, labels, {"macro_f1": 0.8}, groups)  # nine patients at most
        logits, several = torch.randn(60, 1), (torch.arange(60) < count).float()[:, None]
        values = multilabel_metrics(logits, several, ["a"])
        found = score_intervals(logits, several, values)
        assert ("macro_f1" in found, "mean_average_precision" in found) == (told, told)
        assert {"accuracy", "auroc", "auroc/a", "ece"} <= found.keys()


def test_draws_are_widened_by_the_smallest_class():
    logits, labels, values = one_label((200, 60, 12))
    answers = logits.argmax(dim=1)
    low, high = answer_intervals(answers, labels, values)["macro_f1"]
    plain = np.subtract(*reversed(percentiles(f1_draws(answers, labels, 3))))
    assert 1.1 * plain < high - low < 1.3 * plain  # Student's t of 11 degrees of freedom, over 1.96, is 1.12


def test_the_accuracy_of_several_labels_counts_images():
    """Where the labels of an image are right or wrong together, they tell no more than one of them."""
    right = (torch.arange(100) % 5 > 0)[:, None]
    labels = torch.ones(100, 1)
    one = label_answer_intervals(right, labels, {"macro_f1": 0.8})["accuracy"]
    six = label_answer_intervals(right.repeat(1, 6), labels.repeat(1, 6), {"macro_f1": 0.8})["accuracy"]
    assert six == pytest.approx(one, abs=0.02)


def test_no_auroc_is_ranked_of_very_large_sets(monkeypatch):
    logits, labels, values = one_label()
    assert logits.numel() < MOST_RANKED
    monkeypatch.setattr("vladapt.core.metrics.score_intervals.MOST_RANKED", logits.numel() - 1)
    assert score_intervals(logits, labels, values).keys() == values.keys() - {"auroc"}


def test_average_precision_has_an_interval_from_two_units_with_the_label_on():
    truth = torch.arange(60) < 20
    low, high = precision_interval(0.7, truth)
    assert low < 0.7 < high and math.log(high / (1 - high)) + math.log(low / (1 - low)) == pytest.approx(
        2 * math.log(7 / 3)
    )
    assert precision_interval(0.7, truth.repeat_interleave(2), [str(n // 2) for n in range(120)]) == [low, high]
    wide = precision_interval(0.7, truth, [str(n // 5) for n in range(60)])  # four patients have it
    assert wide[0] < low and high < wide[1]
    # that all are ranked right does not make it certain
    assert precision_interval(1.0, truth) == pytest.approx([0.025 ** (1 / 20), 1.0])
    assert precision_interval(0.7, torch.arange(60) < 1) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert precision_interval(1 - 1e-9, truth) == [0.0, 1.0]


def test_macro_f1_of_answers_that_are_all_right_is_not_certain():
    """As of AUROC: what the smallest class leaves open."""
    labels = torch.tensor([0] * 200 + [1] * 12)
    low, high = answer_intervals(labels, labels, {"macro_f1": 1.0})["macro_f1"]
    assert high == 1 and 0.6 < low < 0.025 ** (1 / 12)  # Student’s t makes it wider
