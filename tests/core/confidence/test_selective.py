from __future__ import annotations

import math

import pytest
import torch

from vladapt.core.confidence import answer_threshold, error_bound
from vladapt.core.confidence.selective import rows_without_mistake


def drawn(rows, seed):
    """Confidences that are right as often as they say."""
    generator = torch.Generator().manual_seed(seed)
    confidence = 1 - 0.6 * torch.rand(rows, generator=generator, dtype=torch.float64) ** 2
    return confidence, torch.rand(rows, generator=generator) < confidence


def test_the_error_of_the_answers_given_stays_below_in_nine_of_ten_draws():
    confidence, right = drawn(20000, seed=99)
    over, answered = 0, []
    for seed in range(40):
        found = answer_threshold(*drawn(400, seed), max_error=0.15)
        given = confidence >= found.least
        answered.append(float(given.double().mean()))
        over += float((~right[given]).double().mean()) > 0.15 if given.any() else 0
    assert over <= 4
    assert min(answered) > 0.2


def test_the_bound_is_clopper_and_pearson():
    assert error_bound(0, 59, 0.05) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert error_bound(5, 5, 0.05) == 1.0


def test_too_few_rows_leave_all_open_and_say_how_many_are_needed():
    found = answer_threshold(torch.ones(20), torch.ones(20, dtype=torch.bool), 0.05)
    assert found.least == math.inf
    assert f"at least {rows_without_mistake(0.05)}" in found.note


def test_rows_enough_without_a_mistake_answer_all():
    count = rows_without_mistake(0.05)
    confidence = torch.linspace(0.5, 1, count)
    found = answer_threshold(confidence, torch.ones(count, dtype=torch.bool), 0.05)
    assert found.least == pytest.approx(0.5) and found.note == ""


def test_a_row_fewer_can_promise_nothing():
    """Each of the thresholds that are tried takes its share of the risk."""
    count = rows_without_mistake(0.05) - 1
    found = answer_threshold(torch.linspace(0.5, 1, count), torch.ones(count, dtype=torch.bool), 0.05)
    assert found.least == math.inf


def test_equal_confidences_are_answered_together():
    confidence = torch.full((300,), 0.8)
    right = torch.arange(300) >= 100
    assert answer_threshold(confidence, right, 0.05).least == math.inf
