"""What was hidden is guessed: which places, at which positions, and how wrong."""

import math

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.losses.masked_decoder import (
    MaskedDecoder,
    grid_positions,
    keep_some,
    line_positions,
    pixel_loss,
    square_patches,
    word_loss,
)

CPU = torch.device("cpu")


def test_so_many_places_stay_in_their_order():
    torch.manual_seed(0)
    kept = keep_some(3, (4, 10), CPU)
    assert kept.places.shape == (4, 3) and (kept.places.diff(dim=1) > 0).all()
    assert (kept.hidden.sum(dim=1) == 7).all()
    assert not kept.hidden.gather(1, kept.places).any()
    assert len({tuple(row) for row in kept.places.tolist()}) > 1


def test_forced_places_stay_always():
    forced = torch.zeros(50, 6, dtype=torch.bool)
    forced[:, [0, 4]] = True
    torch.manual_seed(0)
    assert not keep_some(3, (50, 6), CPU, forced).hidden[:, [0, 4]].any()


def test_what_stays_goes_back_to_its_place():
    torch.manual_seed(0)
    kept = keep_some(2, (2, 4), CPU)
    x = torch.arange(8.0).view(2, 4, 1)
    whole = kept.spread(kept.of(x), torch.tensor([-1.0]))
    assert torch.equal(whole, torch.where(kept.hidden[..., None], -1.0, x))


def test_patches_are_cut_row_by_row():
    pixels = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    cut = square_patches(pixels, (2, 3))
    assert cut.shape == (2, 6, 12)
    assert torch.equal(cut[1, 4], pixels[1, :, 2:4, 2:4].permute(1, 2, 0).flatten())


def test_the_error_of_hidden_patches_alone_counts():
    pixels = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    guess = square_patches(pixels, (2, 2)).clone()
    guess[0, 0] += 100
    guess[0, 1] += 2
    guess[0, 2] += 1
    hidden = torch.tensor([[False, True, True, False]])
    assert pixel_loss(guess, pixels, hidden, (2, 2)) == pytest.approx((4 + 1) / 2, rel=1e-5)


def test_hidden_words_alone_count():
    guess = torch.zeros(1, 3, 5)
    guess[0, 1, 2] = math.log(4)  # 4 of 8
    tokens = torch.tensor([[1, 2, 3]])
    assert word_loss(guess, tokens, torch.tensor([[False, True, False]])) == pytest.approx(math.log(2), rel=1e-5)
    assert word_loss(guess, tokens, torch.zeros(1, 3, dtype=torch.bool)) == 0


def test_positions_are_sines_of_columns_then_of_rows():
    made = grid_positions(8, (2, 3), CPU)
    assert made.shape == (6, 8)
    torch.testing.assert_close(made[4, :4], torch.tensor([math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]))
    torch.testing.assert_close(made[5, 4:], line_positions(4, torch.tensor([1.0]))[0])
    torch.testing.assert_close(made[5, :4], line_positions(4, torch.tensor([2.0]))[0])


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return MaskedDecoder(16, 5, depth=2, heads=2)


def test_hidden_places_are_told_apart_by_their_positions(decoder):
    torch.manual_seed(0)
    kept = keep_some(2, (1, 6), CPU)
    guess = decoder(torch.randn(1, 2, 16), kept, line_positions(8, torch.arange(6)))
    assert guess.shape == (1, 6, 5)
    rows = guess[0][kept.hidden[0]]
    assert not torch.allclose(rows[0], rows[1], atol=1e-5)


def test_a_token_of_the_whole_and_ignored_places_change_the_guess(decoder):
    torch.manual_seed(0)
    kept, seen = keep_some(3, (1, 6), CPU), torch.randn(1, 3, 16)
    positions = line_positions(8, torch.arange(6))
    plain = decoder(seen, kept, positions)
    with_whole = decoder(seen, kept, positions, first=seen.mean(dim=1))
    assert with_whole.shape == plain.shape and not torch.allclose(plain, with_whole, atol=1e-5)
    ignored = torch.tensor([[False] * 4 + [True] * 2])
    assert not torch.allclose(plain, decoder(seen, kept, positions, ignored=ignored), atol=1e-5)


def test_a_width_that_heads_do_not_divide_is_named():
    with pytest.raises(ConfigError, match=r"option decoder width=8 .* give a multiple of 4 and of its 3 heads"):
        MaskedDecoder(16, 5, heads=3)
    with pytest.raises(ConfigError, match="option decoder depth=0"):
        MaskedDecoder(16, 5, depth=0)
