"""Towers for images that are no squares: their positions are resampled, and all else follows from what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vladapt import load_backbone
from vladapt.core.backbones.checkpoints import resize_positions
from vladapt.core.backbones.load import save_fine_tuned
from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.contracts.images import as_image_size, height_and_width, size_in_words
from vladapt.core.contracts.recipe import Recipe, value_of
from vladapt.core.errors import ConfigError
from vladapt.core.training.views import Views, local_size, patch_size

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)


@pytest.mark.parametrize(
    ("said", "size"),
    [(224, 224), ("384x128", (384, 128)), ("64 × 64", 64), ([48, 16], (48, 16)), ((7, 7), 7), ("48,16", (48, 16))],
)
def test_a_size_in_any_spelling(said, size):
    assert as_image_size(said) == size
    assert height_and_width(as_image_size(said)) == (size if isinstance(size, tuple) else (size, size))
    assert value_of("image_size", said) == size
    assert Recipe(image_size=size).image_size == size
    assert str(height_and_width(size)[0]) in size_in_words(size)


@pytest.mark.parametrize("said", ["big", "0x3", "3x", [1, 2, 3], "20000x3"])
def test_what_is_no_size_is_refused(said):
    with pytest.raises(ConfigError, match="image_size"):
        value_of("image_size", said)


@pytest.mark.parametrize(("fixture", "size"), [("open_clip_vit", (48, 16)), ("open_clip_resnet", (128, 64))])
def test_positions_are_resampled_to_the_grid(request, fixture, size, tmp_path):
    own = load_backbone(request.getfixturevalue(fixture), "cpu")
    tall = load_backbone(request.getfixturevalue(fixture), "cpu", image_size=size)
    assert tall.image_size == tall.preprocess().image_size == size
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    grid = (size[0] // 8, size[1] // 8) if fixture == "open_clip_vit" else (size[0] // 32, size[1] // 32)
    holder = "visual.positional_embedding" if fixture == "open_clip_vit" else "visual.attnpool.positional_embedding"
    table = dict(own.model.named_parameters())[holder]
    expected = resize_positions(table, grid, 1)
    assert torch.equal(dict(tall.model.named_parameters())[holder], expected)
    assert tall.image_tokens(pixels)[1] == grid
    # the steps of the tower, which resample as they go, agree with the library's own forward pass
    torch.testing.assert_close(own.project(own.hidden(pixels)), tall.encode_image(pixels), rtol=1e-4, atol=1e-5)
    again = load_backbone(str(save_fine_tuned(tall, tmp_path)), "cpu")
    assert again.image_size == size and torch.equal(again.encode_image(pixels), tall.encode_image(pixels))
    square = load_backbone(str(tmp_path / "model.safetensors"), "cpu", image_size=own.image_size)
    assert dict(square.model.named_parameters())[holder].shape == table.shape


def test_a_table_of_a_tall_grid_is_resampled_from_that_grid():
    rows = torch.arange(6.0)[:, None, None].expand(6, 2, 1)  # what is learned differs from row to row alone
    table = torch.cat([torch.zeros(1, 1), rows.reshape(12, 1)])
    resized = resize_positions(table, (3, 4), 1, own=(6, 2))[1:].view(3, 4)
    torch.testing.assert_close(resized, resized[:, :1].expand(3, 4))
    assert (resized[1:, 0] > resized[:-1, 0]).all()


def test_other_towers_take_tall_images_too(hf_folder):
    tower = load_backbone(f"hf:{hf_folder('clip')}", "cpu", image_size=(64, 32))
    assert tower.image_size == (64, 32) and tower.blank_image().shape == (1, 3, 64, 32)
    features = tower.encode_image(torch.randn(1, 3, 64, 32))
    assert features.shape == (1, tower.embed_dim) and torch.isfinite(features).all()


def test_sizes_of_the_embedded_backbone():
    tall = load_backbone("embedded", image_size=(64, 32))
    assert tall.fingerprint != load_backbone("embedded").fingerprint
    with pytest.raises(ConfigError, match="too small"):
        load_backbone("embedded", image_size=(64, 16))
    with pytest.raises(ConfigError, match=r"takes images of 64 × 32.*image_size=32"):
        tall.encode_image(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(20, 30), (40, 10), (12, 6)])
def test_pixels_have_the_size_and_cover_it(mode, shape):
    image = np.full((*shape, 3), 200, np.uint8)
    plain = Preprocess((24, 8), MEAN, STD, mode=mode)
    for transform in (plain, Preprocess((24, 8), MEAN, STD, mode=mode, train=True)):
        pixels = transform(image, seed=3)
        assert pixels.shape == (3, 24, 8)
        assert torch.allclose(pixels[0], torch.tensor((200 / 255 - 0.5) / 0.2))  # no border anywhere
    assert plain.spec["image_size"] == [24, 8]


def test_the_crop_of_a_tall_picture_is_its_middle():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 8:12] = 255  # 20 x 20 becomes 24 x 24, of which 8 columns stay, the stripe in their middle
    columns = Preprocess((24, 8), (0.0,) * 3, (1.0,) * 3)(image)[0].mean(dim=0)
    assert columns[3:5].min() > 0.99 and columns[[0, 7]].max() < 0.01 and torch.allclose(columns, columns.flip(0))


def test_views_of_a_training_are_tall(open_clip_vit):
    tower = load_backbone(open_clip_vit, "cpu", image_size=(48, 16))
    assert patch_size(tower) == 8 and local_size(tower) == 8
    assert Views(tower).strong()(np.zeros((30, 30, 3), np.uint8), 1).shape == (3, 48, 16)
