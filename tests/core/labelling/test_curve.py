"""Whether labels pay: the paired interval by its formula, and what is said of it."""

from __future__ import annotations

import math

import pytest
import torch

from vladapt.core.errors import DataError
from vladapt.core.labelling.curve import PAYS, PAYS_NOT, UNKNOWN, Point, paired_interval, payoff
from vladapt.core.metrics.significance import wilson_interval


def right(count, images=100) -> torch.Tensor:
    return torch.arange(images) < count


def test_the_interval_is_agrestis_and_mins():
    """b + 0.5 gained and c + 0.5 lost of n + 2."""
    first = torch.tensor([True] * 4 + [False] * 26)
    second = torch.tensor([True] * 2 + [False] * 2 + [True] * 12 + [False] * 14)
    gained, lost, images = 12.5, 2.5, 32
    gain = (gained - lost) / images
    deviation = math.sqrt((gained + lost) / images - gain**2) / math.sqrt(images)
    low, high = paired_interval(first, second)
    assert (low, high) == pytest.approx((gain - 1.959964 * deviation, gain + 1.959964 * deviation), abs=1e-6)
    assert paired_interval(second, first) == pytest.approx((-high, -low))


def test_two_models_that_agree_are_not_known_to_be_alike():
    low, high = paired_interval(right(5, 10), right(5, 10))
    assert low == -high and high > 0.1


def test_what_the_last_doubling_brought_decides():
    points = [Point(0, right(40)), Point(10, right(60)), Point(20, right(61)), Point(45, right(90))]
    made = payoff(points)
    assert (made.verdict, made.before, made.after) == (PAYS, 20, 45) and made.gain == pytest.approx(0.29)
    assert payoff([Point(40, right(900, 1000)), Point(80, right(905, 1000))]).verdict == PAYS_NOT
    assert payoff([Point(8, right(6, 10)), Point(16, right(6, 10))]).verdict == UNKNOWN


def test_without_two_models_nothing_is_said():
    assert payoff([]) is None and payoff([Point(0, right(3)), Point(8, right(4))]) is None
    assert payoff([Point(20, right(3)), Point(30, right(4))]) is None


def test_a_point_has_wilsons_interval():
    point = Point(8, right(7, 10))
    assert point.accuracy == pytest.approx(0.7) and point.interval == wilson_interval(7, 10)
    with pytest.raises(DataError, match="the same images"):
        paired_interval(right(1, 2), right(1, 3))
