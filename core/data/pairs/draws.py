"""Chance that depends on named numbers alone, in any process and in any order of calls."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_of(*parts: int | str) -> np.random.Generator:
    """A generator that is the same for the same parts, and unlike that of any others."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
