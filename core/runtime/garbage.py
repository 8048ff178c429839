"""How often Python looks for circles of objects that nothing refers to."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 50_000
"""Objects made between two searches; usual are some hundreds."""


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """While many small objects are made that all stay, such as the items of a data set: each search passes over all of
    them, and finds nothing. As a decorator, during the function.
    """
    usual = gc.get_threshold()
    gc.set_threshold(max(SELDOM, usual[0]) if usual[0] else 0, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
