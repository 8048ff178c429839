"""Forgetting and transfer between data sets, beside loops, and intervals that see pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vladapt.core.metrics.continual import ContinualScores, SetRanks

SIDES = ("image_to_text", "text_to_image")


def ranks(right: list[int], texts: int = 1) -> SetRanks:
    """Images with so many texts each; those of 1 find each other first, in both directions."""
    of_images = torch.tensor([1 if hit else 7 for hit in right])
    images = torch.arange(len(right))
    of_texts, of = of_images.repeat_interleave(texts), images.repeat_interleave(texts)
    return SetRanks(dict(zip(SIDES, (of_images, of_texts))), dict(zip(SIDES, (images, of))))


def share(value: float, count: int = 20) -> SetRanks:
    return ranks([int(i < value * count) for i in range(count)])


TABLE = [[0.1, 0.2, 0.3], [0.8, 0.3, 0.3], [0.9, 0.7, 0.4], [0.5, 0.6, 0.9]]


def test_each_number_by_hand():
    table = ContinualScores([[share(value) for value in row] for row in TABLE])
    assert table.average.value == pytest.approx((0.5 + 0.6 + 0.9) / 3)
    assert table.backward_transfer.value == pytest.approx(((0.5 - 0.8) + (0.6 - 0.7)) / 2)
    assert table.forgetting.value == pytest.approx(((0.9 - 0.5) + (0.7 - 0.6)) / 2)
    assert table.forward_transfer.value == pytest.approx(((0.3 - 0.2) + (0.4 - 0.3)) / 2)
    assert table.transfer(0).value == pytest.approx(-0.3) and table.transfer(2) is None
    assert table.score(2, 1).value == pytest.approx(0.7)


def test_a_further_row_is_the_end():
    rows = [[share(value) for value in row] for row in [*TABLE, [0.7, 0.7, 0.8]]]
    assert ContinualScores(rows).backward_transfer.value == pytest.approx(((0.7 - 0.8) + (0.7 - 0.7)) / 2)


def test_recall_at_k_counts_directions_alike():
    of = SetRanks(
        {"image_to_text": torch.tensor([1, 6]), "text_to_image": torch.tensor([2, 4, 9, 1])},
        {"image_to_text": torch.tensor([0, 1]), "text_to_image": torch.tensor([0, 0, 1, 1])},
    )
    assert of.score(1) == pytest.approx((1 / 2 + 1 / 4) / 2) and of.score(5) == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert ContinualScores([[of], [of]], k=5).score(1, 0).value == pytest.approx(of.score(5))


def test_intervals_are_of_pairs():
    """The same images right before and after make a narrow interval of the difference, other images a wide one."""
    first, second = ([int(i % 2 == odd) for i in range(400)] for odd in (0, 1))
    (few,) = (ranks([0, *first[1:]]),)
    some, other = ranks(first), ranks(second)  # as many right
    low, high = ContinualScores([[some, some], [some, some], [few, some]]).backward_transfer.interval
    assert -0.02 < low < high <= 0.0
    low, high = ContinualScores([[some, some], [some, some], [other, some]]).backward_transfer.interval
    assert low < -0.07 and high > 0.07


def test_no_interval_claims_certainty():
    some = share(0.5)
    table = ContinualScores([[some, some], [some, share(1.0)], [some, share(1.0)]])
    low, high = table.backward_transfer.interval
    assert low < -0.1 and high > 0.1 and table.score(1, 1).interval[0] < 0.9


def test_captions_of_one_image_are_drawn_together():
    """Ten captions of an image say no more than one."""
    rows = [[ranks([int(i % 3 == 0) for i in range(30)], texts)] for texts in (1, 10)]
    one, ten = (ContinualScores([row, row]).score(1, 0).interval for row in rows)
    assert one == pytest.approx(ten)


def test_a_set_that_is_gone_is_left_out():
    rows = [[share(0.2), share(0.2)], [share(0.9), share(0.2)], [None, share(0.8)]]
    table = ContinualScores(rows)
    assert table.backward_transfer is None and table.score(2, 0) is None and table.average.value == pytest.approx(0.8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 4), st.integers(3, 9))
@example(3, 2, 3)  # all draws agree on a difference near 1
def test_against_loops(seed, sets, images):
    generator = torch.Generator().manual_seed(seed)
    rows = [
        [ranks((torch.rand(images, generator=generator) < 0.5).int().tolist(), 2) for _ in range(sets)]
        for _ in range(sets + 1)
    ]
    table, scores = ContinualScores(rows, samples=20), [[each.score() for each in row] for row in rows]
    lost = [max(scores[stage][i] for stage in range(i + 1, sets)) - scores[sets][i] for i in range(sets - 1)]
    gained = [scores[sets][i] - scores[i + 1][i] for i in range(sets - 1)]
    assert table.forgetting.value == pytest.approx(sum(lost) / len(lost))
    assert table.backward_transfer.value == pytest.approx(sum(gained) / len(gained))
    low, high = table.backward_transfer.interval
    assert -1 <= low <= high <= 1
