"""The greedy k-centre algorithm: as the loop over all rows does it, with few passes over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.data import farthest_first, k_centre


def one_by_one(rows, count, centres=None, first=0):
    chosen = [] if centres is not None else [first]
    while len(chosen) < count:
        centre = rows[chosen] if centres is None else torch.cat([centres, rows[chosen]])
        nearest = (rows[:, None] - centre).square().sum(dim=2).amin(dim=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


@settings(max_examples=8)
@given(st.integers(0, 999), st.integers(1, 12), st.integers(2, 25), st.booleans())
def test_choices_are_those_of_the_loop(seed, candidates, count, labelled):
    """Whole numbers, so that many are equally far, and no distance is rounded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_centre, "CANDIDATES", candidates)
        patch.setattr(k_centre, "ROWS_AT_ONCE", 7)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(0, 6, (25, 3), generator=generator).float()
        centres = rows[5:8] + 0.5 if labelled else None
        chosen, nearest = farthest_first(rows.__getitem__, 25, count, centres, first=3)
    assert chosen == one_by_one(rows, count, centres, 3)
    every = rows[chosen] if centres is None else torch.cat([centres, rows[chosen]])
    torch.testing.assert_close(nearest, (rows[:, None] - every).square().sum(dim=2).amin(dim=1))


def test_few_passes_choose_many():
    passes, done = [], []
    rows = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))

    def read(some):
        passes.append(isinstance(some, slice))
        return rows[some]

    chosen, _ = farthest_first(read, 3000, 300, progress=done.append)
    assert len(set(chosen)) == 300
    assert sum(passes) < 20
    assert done[0] == 1 and done[-1] == 300
