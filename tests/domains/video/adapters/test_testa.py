"""TESTA: the public code's numbers, what is merged and what is not, what it starts from, and what it says it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from parity_checks import video_patches

from vladapt import build_adapter, load_backbone
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import adapter_class
from vladapt.core.testing.method import Method
from vladapt.core.testing.towers import small_clip
from vladapt.core.training.tower_weights import copy_of
from vladapt.domains.video.adapters._divided_attention import TemporalAttention, divided, mean_keys
from vladapt.domains.video.adapters.testa import (
    FRAME_SHARE,
    PATCH_SHARE,
    AggregatingFrames,
    schedule,
    tower_cost,
    uneven,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def towers():
    """A small CLIP of two blocks and 2 x 2 patches."""
    return small_clip()


@pytest.fixture(scope="module")
def trained():
    """A fit on clips of three frames, two steps."""
    method = Method(adapter_class("testa"), options={"lr": 1e-2, "merge_patches": 1, "merge_frames": 1})
    fit = method.fit(also=("parts",))
    return fit.adapter, fit.report, method


def aggregating(towers, frames, **merges):
    made = copy_of(towers)
    AggregatingFrames(made, frames, **merges).attach(made)
    return made


@pytest.mark.parametrize("comparison", [each for each in video_patches.GROUPS if each.method == "testa"])
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


def test_published_shares_are_the_published_numbers():
    """Of 32 frames of 14 x 14 patches in 12 blocks; of fewer about as large a share in all."""
    assert uneven(32 * FRAME_SHARE, 0.0, 12) == [1] * 12 and uneven(196 * PATCH_SHARE, 0.0, 12) == [12] * 12
    assert sum(uneven(8 * FRAME_SHARE, 0.0, 12)) == 3 and sum(uneven(49 * PATCH_SHARE, -1.0, 12)) == 36
    assert schedule(12, -1.0, 3) == [24, 12, 0] and schedule(5, 1.0, 1) == [5]


def test_a_clip_of_one_frame_is_an_image_where_nothing_is_merged(towers):
    """Exactly: attention in time ends in zeros, times are zeros."""
    pixels = drawn(2, 3, *[towers.image_size] * 2)
    single, wanted = aggregating(towers, 1, merge_patches=2), towers.encode_image(pixels, normalize=False)
    assert not torch.allclose(single.encode_image(pixels, normalize=False), wanted, atol=1e-3)
    single.joint.aggregates = False
    torch.testing.assert_close(single.encode_image(pixels, normalize=False), wanted, rtol=1e-5, atol=1e-5)
    still = aggregating(towers, 4, merge_frames=0, merge_patches=0)  # of the same frame again and again too
    again = pixels[:, None].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(still.encode_image(again, normalize=False), wanted, rtol=1e-5, atol=1e-5)


def test_attention_in_time_starts_as_the_block_s_own(towers):
    block = towers.blocks("image")[0]
    width = block.ln_1.weight.shape[0]
    x = drawn(2, 5, width)
    temporal = TemporalAttention.beside(block)
    added, keys = temporal(x)
    own = block.qkv(block.ln_1(x))
    torch.testing.assert_close(temporal.qkv(temporal.temporal_norm1(x)), own)
    torch.testing.assert_close(keys, mean_keys(own, block.num_heads))
    assert not added.any()
    temporal.temporal_fc.weight.data.copy_(torch.eye(width))
    torch.testing.assert_close(temporal(x)[0], block.attended(own))


def test_times_count_by_what_is_learned(towers):
    """Attention in time leaves zero at the first step, and learned times tell a clip from its reverse."""
    clip = drawn(1, 3, 3, *[towers.image_size] * 2)
    learning = aggregating(towers, 3, merge_frames=1, merge_patches=1)
    layer = learning.joint.temporal[0].temporal_fc.requires_grad_(True)
    learning.encode_image(clip, normalize=False).sum().backward()
    assert float(layer.weight.grad.abs().max()) > 0
    timed = aggregating(towers, 3, merge_frames=0, merge_patches=0)
    torch.testing.assert_close(timed.encode_image(clip), timed.encode_image(clip.flip(1)))
    timed.joint.time_embed.data.copy_(drawn(*timed.joint.time_embed.shape))
    assert not torch.allclose(timed.encode_image(clip), timed.encode_image(clip.flip(1)), atol=1e-3)


def test_tokens_and_operations_are_those_that_are_left(towers):
    """Written out for the tower without merging; fewer with it, as many tokens as the blocks leave."""
    frames, side = 5, towers.image_size
    merging = aggregating(towers, frames, merge_frames=1, merge_patches=1)
    block, blocks = towers.blocks("image")[0], len(towers.blocks("image"))
    width, hidden = block.ln_1.weight.shape[0], next(p.shape[0] for p in block.mlp.parameters())
    rows, columns = towers.image_grid(drawn(1, 3, side, side))
    patches = rows * columns
    whole, less = tower_cost(merging, aggregates=False), tower_cost(merging, aggregates=True)
    assert merging.joint.aggregates and whole.tokens == frames * patches
    tokens, length = frames * patches, 1 + patches
    in_time = 2 * tokens * width * (3 + 1 + 1) * width + 4 * tokens * frames * width
    in_space = 2 * frames * length * 4 * width**2 + 4 * frames * length**2 * width
    mlp = 4 * (1 + tokens) * width * hidden
    around = 2 * tokens * width * 3 * (side * side // patches) + 2 * width * towers.embed_dim
    assert whole.flops == blocks * (in_time + in_space + mlp) + around
    left = [frames, patches]
    for _ in range(blocks):
        left = [left[0] - min(1, (left[0] - 1) // 2), left[1] - min(1, left[1] // 2)]
    assert less.tokens == left[0] * left[1] and less.flops < whole.flops


def test_a_fit_says_what_merging_leaves_and_loses(trained):
    adapter, report, method = trained
    assert adapter.frames == 3
    tokens, operations, lost = (report.chosen[name] for name in ("tokens kept", "FLOPs kept", "accuracy lost"))
    less, whole = (tower_cost(adapter._made, aggregates) for aggregates in (True, False))
    assert tokens == less.tokens / whole.tokens < 1 and operations == less.flops / whole.flops < 1
    told = f"Merging leaves {less.tokens:,} of {whole.tokens:,} patch tokens of a clip ({tokens:.1%})"
    assert any(note.startswith(told) for note in report.notes)
    on = [note for note in report.notes if note.startswith("On val (12 clips) the accuracy is")]
    assert on and on[0].endswith(f"without: {100 * lost:.1f} points lost")
    unmerged = build_adapter("testa", **{**adapter.options, "merge_frames": 0, "merge_patches": 0})
    report = method.world.fit(unmerged, also=("parts",)).report
    assert report.chosen["tokens kept"] == report.chosen["FLOPs kept"] == 1 and report.chosen["accuracy lost"] == 0


def test_where_there_is_no_val_it_is_said_of_the_training_clips(trained):
    adapter, _, method = trained
    images = method.world.inputs(adapter)["resources"]["images"]
    images.__dict__["val"] = ()
    given = method.world.inputs(adapter, use_val=False)
    given["resources"]["images"] = images
    report = build_adapter("testa", **adapter.options).fit(**given)
    assert any(note.startswith("On the 9 training clips the accuracy is") for note in report.notes)


def test_towers_that_cannot_are_refused_in_one_line(towers):
    with pytest.raises(CapabilityError):
        build_adapter("testa").check_towers(load_backbone("embedded", device="cpu"))
    block = towers.blocks("image")[0]
    width = block.ln_1.weight.shape[0]
    first, patches = drawn(1, width), drawn(1, 4, 3, width)
    one, left, sizes = divided(block, TemporalAttention.beside(block), first, patches, None, (9, 9))
    assert left.shape == (1, 3, 2, width) and one.shape == (1, width) and float(sizes.sum()) == 12 + 3


def test_blocks_that_normalise_sums_are_refused(towers, monkeypatch):
    without = [replace(block, attended=None) for block in towers.blocks("image")]
    monkeypatch.setattr(type(towers), "blocks", lambda self, tower: without)
    with pytest.raises(
        CapabilityError, match=r"merges tokens behind attention, and the blocks of backbone .* normalise"
    ):
        AggregatingFrames(towers, 2)
