"""Scores that kinds of sets share: their rules, by counting; intervals and gains."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.bench.scoring import class_ranks, classification_scores, guessed_recall, retrieval_scores
from vladapt.core.contracts.bench import BenchScore


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 30))
@settings(max_examples=15)
def test_the_rank_of_a_class_is_its_place_in_the_order_of_scores(seed, classes, images):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randn(images, 4, generator=generator), torch.randn(classes, 4, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    order = (rows @ columns.T).argsort(dim=1, descending=True)
    assert torch.equal(class_ranks(rows, columns, labels), (order == labels[:, None]).int().argmax(dim=1) + 1)


def test_of_classes_that_score_alike_the_first_is_the_answer():
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert class_ranks(torch.tensor([[1.0, 0.0]] * 3), alike, torch.tensor([0, 1, 2])).tolist() == [1, 2, 3]


def test_mean_per_class_recall_weighs_classes_alike():
    images = torch.eye(3)[[0, 0, 0, 0, 1, 2]]
    scores = classification_scores(images, torch.eye(3), torch.tensor([0, 0, 0, 0, 0, 1]))
    assert [score.measure for score in scores] == ["acc1", "mean_per_class_recall"]
    assert scores[0].value == pytest.approx(4 / 6) and scores[1].value == pytest.approx((4 / 5 + 0) / 2)


@pytest.mark.parametrize(("gallery", "relevant", "k"), [(6, 2, 1), (6, 2, 3), (5, 1, 5), (4, 3, 2)])
def test_guessed_recall_is_the_share_of_draws_that_hit(gallery, relevant, k):
    draws = list(itertools.combinations(range(gallery), k))
    hits = sum(any(item < relevant for item in draw) for draw in draws)
    assert guessed_recall([relevant], gallery, k) == pytest.approx(hits / len(draws))


def test_captions_of_an_image_count_together():
    images, image_of_text = torch.eye(12), torch.arange(12).repeat_interleave(5)
    texts = torch.eye(12)[image_of_text]
    texts[:30] = torch.eye(12)[11]  # all captions of half of the images miss
    of = {score.measure: score for score in retrieval_scores(images, texts, image_of_text)}
    alone = BenchScore.share("r1", of["text_to_image/r1"].right)
    widths = [score.interval[1] - score.interval[0] for score in (of["text_to_image/r1"], alone)]
    assert of["text_to_image/r1"].value == 0.5 and widths[0] > 1.5 * widths[1]


def test_a_gain_is_over_the_same_images():
    one, other = torch.tensor([True] * 30 + [False] * 30), torch.tensor([True] * 50 + [False] * 10)
    before, after = BenchScore.share("acc1", one), BenchScore.share("acc1", other)
    gain = after.gain_over(before)
    assert gain.value == pytest.approx(20 / 60) and gain.bounds[0] > 0.2  # far narrower than of two samples
    assert after.gain_over(BenchScore.share("acc1", one[:59])) is None
    assert after.gain_over(BenchScore("map", 0.5, 60)) is None


def test_a_gain_of_mean_recall_weighs_classes_alike():
    labels = torch.tensor([0] * 40 + [1] * 10)
    before = BenchScore.share("recall", torch.tensor([True] * 40 + [False] * 10), labels=labels)
    after = BenchScore.share("recall", torch.tensor([True] * 40 + [True] * 10), labels=labels)
    assert after.gain_over(before).value == pytest.approx(0.5)
