"""Scores of images and captions that differ by a detail: Winoground, SugarCrepe, ARO."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.compositional import compositional_scores

from vladapt.core.errors import DataError
from vladapt.core.metrics.compositional import (
    GUESSED_PAIRS,
    chosen_rightly,
    paired_rightly,
    shares_of_kinds,
)


def test_numbers_are_those_of_the_released_code(agrees):
    agrees(compositional_scores)


def test_of_equal_scores_none_is_right_and_by_position_the_first_is_chosen():
    scores, answers = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    assert chosen_rightly(scores, answers).tolist() == [False, False, True]
    assert chosen_rightly(scores, answers, "position").tolist() == [True, False, True]


def test_guessing_rates_are_those_of_random_orders():
    orders = torch.tensor(list(itertools.permutations(range(4))), dtype=torch.float32).view(-1, 2, 2)
    shares = {name: float(right.double().mean()) for name, right in paired_rightly(orders).items()}
    assert shares == pytest.approx(GUESSED_PAIRS)


def test_text_is_asked_of_each_image_and_image_of_each_text():
    brighter = torch.tensor([[[0.9, 0.8], [0.3, 0.4]]])  # image 0 is nearer to either text
    assert {name: right.item() for name, right in paired_rightly(brighter).items()} == {
        "text": True,
        "image": False,
        "group": False,
    }
    told = paired_rightly(brighter.transpose(1, 2))
    assert told["image"].item() and not told["text"].item()


def test_kinds_with_few_questions_do_not_count():
    right, kinds = torch.tensor([True, False, True]), ["a", "a", "b"]
    assert shares_of_kinds(right, kinds) == {"a": 0.5, "b": 1.0}
    assert shares_of_kinds(right, kinds, least=2) == {"a": 0.5}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 5))
def test_the_order_of_the_options_changes_nothing(seed, questions, options):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(4, (questions, options), generator=generator).double()
    answers = torch.randint(options, (questions,), generator=generator)
    order = torch.randperm(options, generator=generator)
    moved = order.argsort()[answers]
    assert torch.equal(chosen_rightly(scores[:, order], moved), chosen_rightly(scores, answers))
    assert torch.equal(chosen_rightly(3 * scores - 1, answers), chosen_rightly(scores, answers))
    assert (chosen_rightly(scores, answers) <= chosen_rightly(scores, answers, "position")).all()


@pytest.mark.parametrize(
    ("scores", "answers", "words"),
    [
        (torch.zeros(2, 3), torch.tensor([0]), "2, 3.* scores and 1 answers"),
        (torch.zeros(1, 2), torch.tensor([2]), "from 2 to 2"),
        (torch.tensor([[0.0, float("nan")]]), torch.tensor([0]), "NaN"),
    ],
)
def test_bad_scores_are_one_line(scores, answers, words):
    with pytest.raises(DataError, match=words):
        chosen_rightly(scores, answers)


def test_pairs_must_be_square():
    with pytest.raises(DataError, match="Q, K, K"):
        paired_rightly(torch.zeros(1, 2, 3))
