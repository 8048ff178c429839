"""Images at their own aspect ratio: the public code's numbers, and SigLIP 2's towers as transformers runs them."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import faster_towers
from toy_pairs import ToyPairs
from transformers import Siglip2ImageProcessorPil

from vladapt import build_adapter
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.native_aspect import fitting_grid, packed, unpacked
from vladapt.core.backbones.spec_options import Patches
from vladapt.core.contracts.images import InputChannels
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.explanation.evidence import OCCLUSION, check_method
from vladapt.core.training.parts import Parts, TrainingTask
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.tower_passes import seen_by

MOST = 12
SIZES = ((32, 32), (20, 90), (100, 9), (8, 8), (64, 48))


@pytest.fixture(scope="module")
def backbone(hf_folder):
    return load_backbone(f"hf:{hf_folder('siglip2')}#patches={MOST}", "cpu")


def picture(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("comparison", [each for each in faster_towers.GROUPS if each.method == "native-aspect"])
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


@torch.no_grad()
def test_features_are_those_of_transformers_in_any_batch(backbone):
    images = [picture(*size) for size in SIZES]
    theirs = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=MOST)(images, return_tensors="pt")
    expected = backbone.model.get_image_features(**theirs).pooler_output
    pixels = torch.stack([backbone.preprocess()(image) for image in images])
    torch.testing.assert_close(backbone.encode_image(pixels, False), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(backbone.hidden(pixels), expected, atol=1e-5, rtol=1e-4)
    for place in range(len(images)):  # alone, with no padding or less of it
        alone = backbone.encode_image(pixels[place : place + 1], False)
        torch.testing.assert_close(alone, expected[place : place + 1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_a_loss_asks_for_sees_no_padding_either(backbone):
    pixels = torch.stack([backbone.preprocess()(picture(*size)) for size in ((8, 80), (32, 32))])
    made = backbone.image_outputs(pixels, frozenset({"image_features", "image_hidden"}))
    torch.testing.assert_close(made["image_hidden"], backbone.hidden(pixels))
    torch.testing.assert_close(made["image_features"], backbone.encode_image(pixels))
    with pytest.raises(CapabilityError, match="patch"):
        backbone.image_outputs(pixels, frozenset({"image_features", "image_tokens"}))


def test_rows_of_patches_go_to_a_teacher_that_takes_them_and_to_no_other(backbone, hf_folder):
    pixels = torch.stack([backbone.preprocess()(picture(*size)) for size in ((8, 80), (32, 32))])
    assert seen_by(deepcopy(backbone), backbone, pixels) is pixels
    squares = load_backbone(f"hf:{hf_folder('siglip2')}", "cpu")
    for other in (squares, load_backbone(f"hf:{hf_folder('siglip2')}#patches=9", "cpu")):
        with pytest.raises(CapabilityError, match="keep their aspect ratio; omit #patches"):
            Parts(
                backbone, TrainingTask(ToyPairs(4), {"distill": 1.0}, teachers=[other]), TrainingSettings(batch_size=2)
            )
        with pytest.raises(CapabilityError, match="keep their aspect ratio; omit #patches"):
            seen_by(other, backbone, pixels)
    assert seen_by(backbone, squares, torch.zeros(1, 3, 24, 24)).shape == (1, 3, 24, 24)


def test_a_batch_is_as_long_as_its_longest_image(backbone, monkeypatch):
    lengths = []
    own = backbone.model.get_image_features
    monkeypatch.setattr(
        backbone.model,
        "get_image_features",
        lambda **pixels: (lengths.append(pixels["pixel_values"].shape[1]), own(**pixels))[1],
    )
    short, long = (backbone.preprocess()(picture(*size)) for size in ((8, 80), (32, 32)))
    counts = [int(each[0, 0, 0] * each[1, 0, 0]) for each in (short, long)]
    backbone.encode_image(torch.stack([short, short]))
    backbone.encode_image(torch.stack([short, long]))
    assert lengths == [counts[0], max(counts)]


@torch.no_grad()
def test_what_stands_in_the_padding_changes_nothing(backbone):
    short, long = (backbone.preprocess()(picture(*size)) for size in ((32, 32), (100, 9)))
    used = (1 + int(short[0, 0, 0] * short[1, 0, 0])) * 8
    assert used < short.shape[-1]
    filled = short.clone()
    filled[..., used:] = 7.0
    one, other = (backbone.encode_image(torch.stack([each, long]))[0] for each in (short, filled))
    torch.testing.assert_close(one, other)


def test_squares_are_not_made_and_the_fingerprint_says_so(backbone, hf_folder):
    squares = load_backbone(f"hf:{hf_folder('siglip2')}", "cpu")
    fewer = load_backbone(f"hf:{hf_folder('siglip2')}#patches=9", "cpu")
    assert len({each.fingerprint for each in (backbone, squares, fewer)}) == 3
    assert backbone.preprocess()(picture(20, 90)).shape == (3, 8, (1 + MOST) * 8)
    assert "image_blocks" not in backbone.capabilities and "prompt" in backbone.capabilities


def test_training_crops_keep_their_aspect_and_follow_the_seed(backbone):
    made = backbone.preprocess(train=True)
    rows = [made(picture(60, 200), seed) for seed in (1, 1, 2)]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    whole = made.with_crop((1.0, 1.0))(picture(60, 200), 3)
    assert whole.shape == rows[0].shape and whole[0, 0, 0] * whole[1, 0, 0] <= MOST


@torch.no_grad()
def test_what_was_trained_keeps_the_aspect_when_it_is_loaded_again(backbone, tmp_path):
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path)), "cpu")
    assert again.native == Patches(MOST)
    pixels = again.preprocess()(picture(20, 90))[None]
    torch.testing.assert_close(again.encode_image(pixels), backbone.encode_image(pixels))
    with pytest.raises(ConfigError, match="image_size=64"):
        load_backbone(str(tmp_path / "model.safetensors"), "cpu", image_size=64)


def test_what_does_not_go_together_is_one_line(hf_folder):
    spec = f"hf:{hf_folder('siglip2')}"
    with pytest.raises(CapabilityError, match="takes images of one size"):
        load_backbone(f"hf:{hf_folder('siglip')}#patches=9", "cpu")
    with pytest.raises(ConfigError, match="has two options"):
        load_backbone(f"{spec}#patches=9#merge=2", "cpu")
    with pytest.raises(ConfigError, match="image_size=64"):
        load_backbone(f"{spec}#patches=9", "cpu", image_size=64)
    five = InputChannels(("a", "b", "c", "d", "e"))
    with pytest.raises(CapabilityError, match="omit #patches"):
        load_backbone(f"{spec}#patches=9", "cpu", channels=five)
    for value in ("", "0", "-1", "x", "9.5", "999999"):
        with pytest.raises(ConfigError, match="give #patches=N"):
            load_backbone(f"{spec}#patches={value}", "cpu")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([4, 14, 16]), st.integers(1, 300))
def test_the_grid_fits_and_no_larger_common_scale_would(height, width, patch, most):
    rows, columns = fitting_grid(height, width, patch, most)
    assert min(rows, columns) >= 1
    if rows * columns <= most:
        scale = max((rows * patch) / height, (columns * patch) / width) * 1.01 + 2e-5
        if scale < 100:
            assert -(-height * scale // patch) * -(-width * scale // patch) > most
    else:  # the smallest scale makes a side of one patch, and the other is still too long
        assert min(rows, columns) == 1


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), patch=st.integers(1, 4), more=st.integers(0, 6))
def test_packing_and_unpacking_lose_nothing(rows, columns, patch, more):
    pixels = torch.randn(3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(rows))
    patches, mask, grid = unpacked(packed(pixels, patch, rows * columns + more)[None], patch)
    assert grid.tolist() == [[rows, columns]] and mask[0].tolist() == [1] * (rows * columns) + [0] * more
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        block = pixels[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        assert torch.equal(patches[0, place], block.permute(1, 2, 0).flatten())


def test_rows_of_patches_have_no_heat_map(hf_folder):
    towers = load_backbone(f"hf:{hf_folder('siglip2')}#patches=12", "cpu")
    with pytest.raises(CapabilityError, match="rows of patches, so there is no heat map"):
        check_method(OCCLUSION, SimpleNamespace(towers=towers, adapter=build_adapter("zero-shot")))
