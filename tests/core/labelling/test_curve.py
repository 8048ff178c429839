"""Whether labels pay, by the paired interval of the last two models."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.labelling.curve import PAYS, PAYS_NOT, UNKNOWN, CurvePoint, payoff
from vladapt.core.metrics import exact_interval, paired_shares


def right(count, images=100) -> torch.Tensor:
    return torch.arange(images) < count


def test_what_the_last_doubling_brought_decides():
    points = [CurvePoint(0, right(40)), CurvePoint(10, right(60)), CurvePoint(20, right(61)), CurvePoint(45, right(90))]
    made = payoff(points)
    assert (made.verdict, made.before, made.after) == (PAYS, 20, 45) and made.gain == pytest.approx(0.29)
    assert made.interval == paired_shares(right(61), right(90)).interval()
    assert payoff([CurvePoint(40, right(900, 1000)), CurvePoint(80, right(905, 1000))]).verdict == PAYS_NOT
    assert payoff([CurvePoint(8, right(6, 10)), CurvePoint(16, right(6, 10))]).verdict == UNKNOWN


def test_without_two_models_nothing_is_said():
    assert payoff([]) is None and payoff([CurvePoint(0, right(3)), CurvePoint(8, right(4))]) is None
    assert payoff([CurvePoint(20, right(3)), CurvePoint(30, right(4))]) is None


def test_a_point_has_an_exact_interval():
    point = CurvePoint(8, right(7, 10))
    assert point.accuracy == pytest.approx(0.7) and point.interval == exact_interval(7, 10)
