"""PLLaVA's pooling: the public code's numbers, what it starts from, and that patches, their places and times count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity_checks import video_patches

from vladapt import Batch, FeatureSet, TextClassifier, build_adapter, load_adapter
from vladapt.core.contracts.resources import HeldPatchTokens
from vladapt.core.errors import CapabilityError
from vladapt.domains.video.adapters._frames import average_of_unit
from vladapt.domains.video.adapters.pllava_pool import PoolingProjector

WIDTH, FRAMES, GRID = 12, 4, (3, 2)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips_of(count, seed=0):
    """Clips and patches of 4 classes: in the first half or in the second half of a clip one or the other sign lies in
    one patch; frames as a whole say nothing. Every third clip has a frame less."""
    labels = torch.arange(4).repeat(count)
    patches = 0.3 * drawn(4 * count, FRAMES, *GRID, WIDTH, seed=seed)
    sign, late = drawn(2, WIDTH, seed=77)[labels % 2], labels // 2
    for half in range(2):
        patches[late == half, 2 * half, 1, 1] += 3 * sign[late == half]
    mask = torch.ones(4 * count, FRAMES, dtype=torch.bool)
    mask[::3, 3] = False
    frames = drawn(4 * count, FRAMES, WIDTH, seed=seed + 1).masked_fill(~mask[..., None], 0)
    patches = patches.masked_fill(~mask[..., None, None, None], 0)
    return FeatureSet.of_parts(frames, mask, labels=labels), patches


@pytest.fixture(scope="module")
def texts():
    return TextClassifier(drawn(4, WIDTH, seed=3), logit_scale=20.0, class_names=tuple("abcd"))


def fitted(texts, count=8, **options):
    support, patches = clips_of(count)
    adapter = build_adapter("pllava-pool", **{"pooled_frames": 4, "frames": 4, "lr": 1e-2, **options})
    adapter.report = adapter.fit(support, texts, resources={"patch_tokens": HeldPatchTokens(patches)})
    return adapter


@pytest.fixture(scope="module")
def learned(texts):
    return fitted(texts, epochs=60)


def logits(adapter, clips, patches):
    return adapter.logits(Batch(features=clips.features, parts=clips.parts, parts_mask=clips.parts_mask,
                                patch_tokens=patches))  # fmt: skip


@pytest.mark.parametrize("comparison", [each for each in video_patches.GROUPS if each.method == "pllava-pool"])
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


def test_before_the_first_step_it_is_frame_averaging(texts):
    adapter = fitted(texts, epochs=1, lr=1e-30, weight_decay=0.0)
    clips, patches = clips_of(3, seed=5)
    wanted = 20.0 * average_of_unit(clips.parts, clips.parts_mask) @ texts.weights.T
    torch.testing.assert_close(logits(adapter, clips, patches), wanted, atol=1e-5, rtol=0)


def test_what_lies_in_one_patch_at_one_time_is_learned(learned, texts):
    """The frames' own features say nothing of it."""
    clips, patches = clips_of(12, seed=9)
    assert float((logits(learned, clips, patches).argmax(dim=1) == clips.labels).float().mean()) > 0.9
    blind = build_adapter("mean-pool", epochs=40, lr=1e-2)
    blind.fit(clips_of(8)[0], texts)
    assert float((blind.logits(clips).argmax(dim=1) == clips.labels).float().mean()) < 0.5


def test_times_are_told_by_learned_places(learned):
    """Without them a clip and its reverse score alike, where none has more frames than are pooled."""
    clips, patches = clips_of(4, seed=9)
    full = clips.select(clips.parts_mask.all(dim=1))
    patches = patches[clips.parts_mask.all(dim=1)]
    turned, scores = patches.flip(1), logits(learned, full, patches)
    assert not torch.allclose(logits(learned, full, turned), scores, atol=0.5)
    timeless = build_adapter("pllava-pool", **learned.options)
    for name in ("class_names_", "dim_", "multilabel_", "backbone_", "fitted_", *learned.state):
        setattr(timeless, name, getattr(learned, name))
    timeless.weights = {**learned.weights, "places": torch.zeros_like(learned.weights["places"])}
    torch.testing.assert_close(logits(timeless, full, turned), logits(timeless, full, patches), atol=1e-3, rtol=1e-4)


def test_bins_of_sides_that_are_no_multiple_overlap():
    """Written out for 7 rows in 3 bins: 0 to 2, 2 to 4, 4 to 6."""
    projector = PoolingProjector(WIDTH, WIDTH, 5, (2, 3, 1))
    patches, mask = drawn(1, 5, 7, 2, WIDTH), torch.ones(1, 5, dtype=torch.bool)
    pooled = projector.pooled(patches, mask)[0]  # (D, 2, 3, 1)
    torch.testing.assert_close(pooled[:, 1, 1, 0], patches[0, 2:5, 2:5].mean(dim=(0, 1, 2)))
    by_hand = F.linear(F.gelu(projector.linear_1(patches[0, :3, 4:])), *projector.linear_2.parameters())
    torch.testing.assert_close(projector(patches, mask)[0, 2], by_hand.mean(dim=(0, 1, 2)))


def test_a_shorter_clip_repeats_frames_over_its_whole_length():
    """The released rule drops the last ones: of 8 frames for 16 places the seventh and eighth."""
    ours = PoolingProjector(WIDTH, WIDTH, 16, (16, 1, 1)).chosen(torch.tensor([8, 16, 1, 40]))
    assert ours[0].unique().tolist() == list(range(8)) and ours[1].tolist() == list(range(16))
    assert not ours[2].any() and ours[3, 0] == 0 and ours[3, -1] == 39 and len(ours[3].unique()) == 16
    released = PoolingProjector(WIDTH, WIDTH, 16, (16, 1, 1), released_repeats=True).chosen(torch.tensor([8, 16]))
    assert released.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5], list(range(16))]


def test_what_pads_a_clip_changes_nothing(learned):
    clips, patches = clips_of(2, seed=6)
    wide = torch.zeros(len(clips), 7, *GRID, WIDTH)
    wide[:, [0, 2, 3, 6]] = patches
    frames, mask = torch.zeros(len(clips), 7, WIDTH), torch.zeros(len(clips), 7, dtype=torch.bool)
    frames[:, [0, 2, 3, 6]], mask[:, [0, 2, 3, 6]] = clips.parts, clips.parts_mask
    moved = learned.logits(Batch(features=clips.features, parts=frames, parts_mask=mask, patch_tokens=wide))
    torch.testing.assert_close(moved, logits(learned, clips, patches))


def test_the_size_that_it_pools_to_is_published_and_no_larger_than_the_grid(texts, learned, tmp_path):
    published = build_adapter("pllava-pool")
    assert (published.frames, published.pooled_frames, published.pooled_side) == (16, 16, 12)
    assert learned._net.projector.shape == (4, *GRID)
    clips, patches = clips_of(2, seed=6)
    again = load_adapter(learned.save(tmp_path / "head.safetensors"))
    assert torch.equal(logits(again, clips, patches), logits(learned, clips, patches))
    with pytest.raises(CapabilityError, match="was fitted on 3 x 2 patches, these are 2 x 2"):
        logits(learned, clips, patches[:, :, :2])


def test_classes_some_at_a_time_score_the_same(learned, monkeypatch):
    clips, patches = clips_of(2, seed=6)
    whole = logits(learned, clips, patches)
    monkeypatch.setattr("vladapt.domains.video.adapters.pllava_pool.ENTRIES", 1)
    with torch.no_grad():
        torch.testing.assert_close(logits(learned, clips, patches), whole)
