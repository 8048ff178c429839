"""Whatever the number of cores, a product is one thread's."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.features.on_cores import ROWS, OnCores


@pytest.mark.parametrize("rows", [1, ROWS, ROWS + 1, 5 * ROWS + 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_keep_their_order_and_each_few_are_one_threads(rows, threads):
    seen = []

    def encode(some):
        seen.append((len(some), torch.get_num_threads()))
        return 2 * some

    before, given = torch.get_num_threads(), torch.randn(rows, 3)
    assert torch.equal(OnCores(encode, threads)(given), 2 * given)
    assert {count for _, count in seen} == {1} and max(size for size, _ in seen) <= ROWS
    assert sum(size for size, _ in seen) == rows and torch.get_num_threads() == before


def test_the_number_of_cores_changes_no_bit():
    rows, matrix = torch.randn(33, 3072), torch.randn(3072, 16)
    one, four = (OnCores(lambda some: some @ matrix, threads)(rows) for threads in (1, 4))
    assert torch.equal(one, four)
    torch.testing.assert_close(one, rows @ matrix, rtol=1e-4, atol=1e-3)


def test_texts_too():
    texts = [f"{number}" for number in range(2 * ROWS + 1)]
    lengths = OnCores(lambda some: torch.tensor([[float(text)] for text in some]), 2)(texts)
    assert lengths.flatten().tolist() == list(range(len(texts)))


def test_what_goes_wrong_in_a_thread_is_raised():
    def fails(some):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        OnCores(fails, 2)(torch.zeros(9, 1))
