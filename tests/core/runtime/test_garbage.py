"""Circles are looked for seldom while a data set is made, and as before afterwards."""

import gc

import pytest

from vladapt.core.runtime.process import SELDOM, collecting_seldom


@pytest.fixture(params=[(700, 10, 10), (10 * SELDOM, 5, 5), (0, 10, 10)], ids=["usual", "seldom", "never"])
def usual(request):
    before = gc.get_threshold()
    gc.set_threshold(*request.param)
    yield request.param
    gc.set_threshold(*before)


def test_the_threshold_is_raised_within_and_as_before_after_an_error(usual):
    with pytest.raises(KeyError), collecting_seldom():
        assert gc.get_threshold()[0] == (max(SELDOM, usual[0]) if usual[0] else 0)
        raise KeyError
    assert gc.get_threshold() == usual
