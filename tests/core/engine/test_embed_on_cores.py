"""Features in shards on a CPU: the same bytes on one core and on many."""

import pytest
import torch

from vladapt.core.engine.embed_shards import AT_ONCE, OnCores


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def encode(pixels):
    generator = torch.Generator().manual_seed(0)
    return pixels.flatten(1) @ torch.randn(3072, 16, generator=generator)


@pytest.mark.parametrize("count", [1, AT_ONCE, 3 * AT_ONCE + 1])
def test_the_number_of_cores_changes_no_bit(count, three_threads):
    pixels = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    one, four = OnCores(encode, 1)(pixels), OnCores(encode, 4)(pixels)
    assert torch.equal(one, four)
    torch.testing.assert_close(one, encode(pixels), rtol=1e-4, atol=1e-3)


def test_each_pass_is_small_and_of_one_thread_and_the_threads_of_the_caller_stay(three_threads):
    passes = []

    def encode(texts):
        passes.append((len(texts), torch.get_num_threads()))
        return torch.tensor([[float(text)] for text in texts])

    texts = [str(number) for number in range(2 * AT_ONCE + 3)]
    assert OnCores(encode, 2)(texts)[:, 0].tolist() == list(range(len(texts)))
    assert sorted(passes) == [(3, 1), (AT_ONCE, 1), (AT_ONCE, 1)]
    assert torch.get_num_threads() == 3
