"""Towers of red, green and blue widened to more channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from vladapt import CapabilityError, DataError
from vladapt.core.backbones.channels import ChannelPreprocess, input_layer
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.contracts.images import InputChannels

FIVE = InputChannels(("red", "green", "blue", "nir", "swir16"))
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
KINDS = ("clip", "siglip", "align", "owlvit")


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory, small):
    config = small.open_clip_config(TIMM, None, custom_text=True)
    return small.write_open_clip(tmp_path_factory.mktemp("timm"), config)


@pytest.fixture
def spec_of(request, hf_folder):
    """Name -> spec: "open_clip_vit", "embedded", or a kind of transformers' models."""
    return lambda name: f"hf:{hf_folder(name)}" if name in KINDS else _named(request, name)


def _named(request, name):
    return name if name == "embedded" else request.getfixturevalue(name)


def drawn(count, side=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side + 8, count), dtype=np.uint8)


@torch.no_grad()
def features(backbone, *images):
    return backbone.encode_image(torch.stack([backbone.preprocess()(image) for image in images]))


@pytest.mark.parametrize("name", ["embedded", "open_clip_vit", "open_clip_resnet", "timm_vit", *KINDS])
def test_features_at_the_start_are_those_of_red_green_and_blue(spec_of, name):
    narrow, wide = load_backbone(spec_of(name), "cpu"), load_backbone(spec_of(name), "cpu", channels=FIVE)
    image = drawn(5)
    usual, same, picture = features(narrow, image[..., :3]), features(wide, image), features(wide, image[..., :3])
    torch.testing.assert_close(same, usual, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(picture, usual, atol=1e-5, rtol=1e-5)
    assert wide.input_layer().in_channels == 5 and narrow.input_layer() is None
    assert len(wide.image_mean) == 5 and wide.fingerprint != narrow.fingerprint
    if "image_blocks" in wide.capabilities:
        pixels = wide.preprocess()(image)[None]
        with torch.no_grad():
            stepwise = wide.pool_image(wide.run_blocks("image", wide.embed_image(pixels)))
        torch.testing.assert_close(stepwise, usual, atol=1e-5, rtol=1e-5)


def test_mean_start_has_the_weights_and_a_grey_picture_its_features(open_clip_vit):
    narrow = load_backbone(open_clip_vit, "cpu")
    wide = load_backbone(open_clip_vit, "cpu", channels=InputChannels(FIVE.names, InputChannels.MEAN))
    rgb, all_five = narrow.model.visual.conv1.weight, wide.model.visual.conv1.weight
    torch.testing.assert_close(all_five[:, :3], rgb * 3 / 5)
    torch.testing.assert_close(all_five[:, 4], rgb.mean(dim=1) * 3 / 5)
    pixels = torch.randn(2, 1, wide.image_size, wide.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grey = narrow.encode_image(pixels.expand(-1, 3, -1, -1))
        torch.testing.assert_close(wide.encode_image(pixels.expand(-1, 5, -1, -1)), grey, atol=1e-5, rtol=1e-5)
    image = drawn(5)
    other = image.copy()
    other[..., 4] = 255 - other[..., 4]
    assert (features(wide, image) - features(wide, other)).abs().max() > 1e-3


def test_gradients_reach_the_further_channels(open_clip_vit):
    wide = load_backbone(open_clip_vit, "cpu", channels=FIVE)
    layer = wide.input_layer().requires_grad_(True)
    wide.encode_image(wide.preprocess()(drawn(5))[None])[0, 0].backward()
    assert (layer.weight[:, 3:] == 0).all() and (layer.weight.grad[:, 3:] != 0).any()


def test_a_tower_whose_patches_come_as_rows_is_one_line(hf_folder):
    wide = load_backbone(f"hf:{hf_folder('siglip2')}", "cpu", channels=FIVE)
    with pytest.raises(CapabilityError, match="no convolution where image channels enter"):
        wide.model  # noqa: B018 (built here)


def test_a_backbone_of_ones_own_that_cannot_is_one_line():
    from vladapt.core.testing.towers import PlainTowers

    with pytest.raises(CapabilityError, match="takes pictures of three channels; give three channels"):
        PlainTowers().widen(FIVE)


# pixels ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(count=st.integers(4, 9), train=st.booleans(), deep=st.booleans(), seed=st.integers(0, 1000))
def test_each_channel_is_cut_and_resized_as_a_picture_is(count, train, deep, seed):
    usual = Preprocess(16, (0.2, 0.3, 0.4), (0.1, 0.2, 0.3), train=train)
    image = drawn(count, 24, seed)
    image = image.astype(np.float32) / 255 if deep else image
    made = ChannelPreprocess(usual, count)(image, seed=seed)
    assert made.shape == (count, 16, 16)
    assert torch.equal(made[:3], usual(image[..., :3], seed=seed))
    alone = Preprocess(16, (0.3,) * 3, (0.2,) * 3, train=train)  # the mean of the means, and of the deviations
    for channel in range(3, count):
        torch.testing.assert_close(made[channel], alone(image[..., channel], seed=seed)[0], atol=1e-5, rtol=1e-5)


def test_another_number_of_channels_is_one_line():
    with pytest.raises(DataError, match=r"shape \(4, 4, 6\) is not usable; give \(H, W, 5\)"):
        ChannelPreprocess(Preprocess(4, (0.5,) * 3, (0.5,) * 3), 5)(np.zeros((4, 4, 6), np.uint8))


# files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["open_clip_vit", "clip"])
def test_a_trained_tower_comes_back_with_its_channels(spec_of, name, tmp_path):
    wide = load_backbone(spec_of(name), "cpu", channels=FIVE)
    layer = wide.input_layer()
    with torch.no_grad():
        layer.weight += 0.01
    path = save_fine_tuned(wide, tmp_path / "out")
    again = load_backbone(str(path), "cpu")
    image = drawn(5)
    torch.testing.assert_close(features(again, image), features(wide, image), atol=1e-5, rtol=1e-5)
    assert again.channels == InputChannels(FIVE.names, InputChannels.TRAINED)
    assert torch.equal(again.input_layer().weight, layer.weight)
    again.check_channels("adapter 'tip-adapter'")  # they are trained: any method sees them
    own_name, _ = input_layer(wide.model, wide.spec, 5)
    assert load_file(path)[f"{own_name}.weight"].shape[1] == 3, "other libraries find the tower that they know"
    assert load_backbone(str(path), "cpu", channels=FIVE).channels == again.channels
    with pytest.raises(CapabilityError, match=r"takes 5 channels .*, the images have 4 .*; give images of the same"):
        load_backbone(str(path), "cpu", channels=InputChannels(FIVE.names[:4]))


def test_files_of_a_tower_of_three_channels_are_as_they_were(open_clip_vit, tmp_path):
    path = save_fine_tuned(load_backbone(open_clip_vit, "cpu"), tmp_path)
    assert not [name for name in load_file(path) if name.startswith("vladapt.")]
    wide = load_backbone(str(path), "cpu", channels=FIVE)
    assert wide.channels == FIVE and wide.input_layer().in_channels == 5
