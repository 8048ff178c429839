"""UniPT's sum beside the released code's numbers; hidden patches are rebuilt as MAE has it."""

import pytest
import torch
import torch.nn.functional as F
from parity_checks.person import unipt

from vladapt import CapabilityError, ConfigError, build_loss, load_backbone
from vladapt.domains.person.losses._masked_patches import (
    MaskedPatchDecoder,
    image_patches,
    sine_positions,
    standardised,
)

DIMS = {"text_width": 32, "vocab_size": 49408}
NARROW = {"decoder_width": 32, "decoder_depth": 1}


def test_values_and_gradients_are_the_released_ones(agrees):
    agrees(unipt)


def out(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((5, 4), -100)
    labels[torch.arange(5), torch.arange(5) % 4] = torch.arange(5)
    return {
        "image_features": torch.randn(5, 8, generator=generator),
        "text_features": torch.randn(5, 8, generator=generator),
        "patch_errors": torch.rand(5, 1, generator=generator),
        "masked_tokens": torch.randn(5, 4, 6, generator=generator),
        "masked_labels": labels,
    }


def test_the_loss_is_the_sum_of_its_terms_and_each_counts():
    torch.manual_seed(0)
    loss = build_loss("unipt", {"text_width": 6, "vocab_size": 9}, words=0.5, patches=2.0)
    made, parts = out(), loss(out())
    image, text = (F.normalize(made[name], dim=1) for name in ("image_features", "text_features"))
    cosines, right = image @ text.T, torch.arange(5)
    contrast = (F.cross_entropy(cosines, right) + F.cross_entropy(cosines.T, right)) / 2
    logits = loss.vocabulary(made["masked_tokens"])
    words = F.cross_entropy(logits.flatten(0, 1), made["masked_labels"].flatten(), ignore_index=-100)
    torch.testing.assert_close(parts["contrast"], contrast)
    torch.testing.assert_close(parts["words"], words)
    torch.testing.assert_close(parts["loss"], contrast + 2 * made["patch_errors"].mean() + 0.5 * words)
    for term in ("contrast", "patches", "words"):
        left = build_loss("unipt", {"text_width": 6, "vocab_size": 9}, **{term: 0.0})(out())
        assert term not in left and abs(left["loss"] - parts["loss"]) > 1e-3
    assert build_loss("unipt", patches=0, words=0, logit_scale=10)(out())["loss"] != contrast


def test_no_word_hidden_costs_nothing():
    made = {**out(), "masked_labels": torch.full((5, 4), -100)}
    assert build_loss("unipt", {"text_width": 6, "vocab_size": 9})(made)["words"] == 0


def test_patches_are_cut_in_the_order_of_the_grid():
    pixels = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches = image_patches(pixels, (2, 3))
    assert patches.shape == (2, 6, 12)
    torch.testing.assert_close(patches[0, 4], pixels[0, :, 2:4, 2:4].flatten())
    plain = standardised(patches)
    torch.testing.assert_close(plain.mean(dim=-1), torch.zeros(2, 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.var(dim=-1), torch.ones(2, 6), atol=1e-4, rtol=0)
    places = sine_positions(2, 3, 16)
    assert len(places.unique(dim=0)) == 6
    torch.testing.assert_close(places[4, 4:8], places[4, 0:4].arcsin().cos())  # sine and cosine of one angle
    torch.testing.assert_close(places[0], torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1] * 2))


def test_only_hidden_patches_count_and_none_of_them_is_seen(small_clip):
    torch.manual_seed(0)
    decoder = MaskedPatchDecoder(small_clip, 32, 1, 0.5).eval()  # 2 of 4 patches
    generator = torch.Generator().manual_seed(1)
    pixels, draws = torch.randn(3, 3, 16, 16, generator=generator), torch.rand(3, 4, 8, generator=generator)
    errors = decoder(pixels, draws)
    seen, places = decoder._seen(pixels, draws)
    assert places.shape == (3, 2) and torch.equal(places, draws[:, 0, :4].argsort(dim=1)[:, :2].sort(dim=1).values)
    wanted = standardised(image_patches(pixels, decoder.grid))
    each = (decoder._rebuilt(seen, places) - wanted).square().mean(dim=2)
    hidden = torch.ones(3, 4).scatter(1, places, 0).bool()
    torch.testing.assert_close(errors[:, 0], torch.stack([row[mask].mean() for row, mask in zip(each, hidden)]))
    changed = pixels.clone()
    for image, mask in zip(changed, hidden):
        for number in mask.nonzero().flatten().tolist():
            row, column = 8 * (number // 2), 8 * (number % 2)
            image[:, row : row + 8, column : column + 8] += 1 + torch.randn(3, 8, 8, generator=generator)
    torch.testing.assert_close(decoder._seen(changed, draws)[0], seen)
    assert (decoder(changed, draws) - errors).abs().min() > 1e-3


def test_options_reach_the_decoder(small_clip):
    for options, blocks, kept in (({}, 1, 1), ({"decoder_depth": 2, "hidden_share": 0.25}, 2, 3)):
        loss = build_loss("unipt", DIMS, **{**NARROW, **options})
        loss.prepare(small_clip)
        assert len(loss.decoder.blocks) == blocks and loss.decoder.norm.weight.shape == (32,)
        _, places = loss.decoder._seen(torch.randn(1, 3, 16, 16), torch.rand(1, 4, 8))
        assert places.shape == (1, kept)


def test_what_is_wrong_is_said():
    with pytest.raises(ConfigError, match=r"decoder_width.*multiple of 32"):
        build_loss("unipt", DIMS, decoder_width=48)
    with pytest.raises(CapabilityError, match="text_width"):
        build_loss("unipt")


def test_towers_without_blocks_leave_patches_out():
    embedded = load_backbone("embedded", device="cpu")
    with pytest.raises(CapabilityError):
        build_loss("unipt", DIMS, **NARROW).prepare(embedded)
    build_loss("unipt", DIMS, patches=0).prepare(embedded)
