"""What every domain keeps, found by its folder's name: the checks of `vladapt.testing` on its sample.

Sets that a domain reads are held to the same in the tests of that domain.
"""

from __future__ import annotations

import pytest

from vladapt import CapabilityError, load_domain
from vladapt.core.registry import catalogue
from vladapt.testing import check_domain

NAMES = sorted(name for name, entry in catalogue.domains().items() if entry.entry_point is None)


def test_all_are_here():
    assert {"medical", "natural", "open-vocab", "remote-sensing", "video"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name):
    try:
        domain = load_domain(name)
    except CapabilityError as error:
        pytest.skip(str(error))
    check_domain(domain)
