"""In which order training windows are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Passes:
    """Which sample a draw shows: each one once in a pass, in an order that is a function of the seed and the pass.

    Args:
        count: of samples.
        seed: of one number or several.
    """

    def __init__(self, count: int, *seed: int):
        self.count, self.seed = count, seed
        self._newest: tuple[int, Sequence[int]] = -1, ()

    def __call__(self, draw: int) -> int:
        number, place = divmod(draw, self.count)
        if self._newest[0] != number:
            self._newest = number, np.random.default_rng([*self.seed, number]).permutation(self.count)
        return int(self._newest[1][place])
