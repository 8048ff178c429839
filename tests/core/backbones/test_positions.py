"""Positions of image towers: where they are added, and RO-ViT's crops of them in training."""

import copy

import pytest
import torch

from vladapt import build_loss
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError

TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
OPEN_CLIP = {
    "open_clip": ({}, {}),
    "open_clip-timm": (TIMM, {"custom_text": True}),
    "open_clip-resnet": ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}, {}),
}
WITH_POSITIONS = ("open_clip", "open_clip-timm", "clip", "siglip", "chinese_clip")
WITHOUT = ("open_clip-resnet", "align", "siglip2")


@pytest.fixture
def backbone(tmp_path, hf_folder, small):
    """name -> backbone of its own."""

    def named(name):
        if name not in OPEN_CLIP:
            return load_backbone(f"hf:{hf_folder(name)}", "cpu")
        vision, top = OPEN_CLIP[name]
        config = small.open_clip_config(vision, None, **top)
        return load_backbone(small.write_open_clip(tmp_path / name, config, seed=2), "cpu")

    return named


def pixels_of(tower, count=3, seed=4):
    one = torch.randn(1, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(seed))
    return one.expand(count, -1, -1, -1)


@pytest.mark.parametrize("name", WITH_POSITIONS)
def test_a_change_of_the_patches_is_a_change_of_their_positions(backbone, name):
    tower = backbone(name)
    positions, pixels = tower.image_positions(), pixels_of(tower, 1)
    side = round((len(positions.table) - positions.prefix) ** 0.5)
    more = 0.3 * torch.randn(side * side, positions.table.shape[1], generator=torch.Generator().manual_seed(1))
    plain = tower.encode_image(pixels)
    on_patches = positions.patches.register_forward_hook(lambda m, i, out: out + more.T.view(1, -1, side, side))
    hooked = tower.encode_image(pixels)
    on_patches.remove()
    with torch.no_grad():
        positions.table[positions.prefix :] += more
    torch.testing.assert_close(hooked, tower.encode_image(pixels), rtol=1e-4, atol=1e-5)
    assert (hooked - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", WITHOUT)
def test_a_tower_without_positions_of_patches_is_refused_in_one_line(backbone, name):
    with pytest.raises(CapabilityError, match="adds no positions to the patches"):
        build_loss("ro-vit").prepare(backbone(name))
    build_loss("ro-vit", cropped_positions=False).prepare(backbone(name))


@pytest.mark.parametrize("name", WITH_POSITIONS)
def test_positions_are_cropped_in_train_mode_only_and_for_each_image(backbone, name):
    tower = backbone(name)
    pixels = pixels_of(tower)
    before, weights = tower.encode_image(pixels), set(tower.model.state_dict())
    build_loss("ro-vit").prepare(tower)
    torch.testing.assert_close(tower.encode_image(pixels), before)
    tower.model.train()
    made = {}
    ways = {
        "whole": tower.encode_image,
        "inside": lambda x: tower.pool_image(tower.run_blocks("image", tower.embed_image(x))),
    }
    for way, encode in ways.items():
        torch.manual_seed(0)
        made[way] = encode(pixels)
    torch.testing.assert_close(made["whole"], made["inside"], rtol=1e-4, atol=1e-5)
    assert (made["whole"] - before).abs().max() > 1e-3
    assert (made["whole"][0] - made["whole"][1]).abs().max() > 1e-3
    tower.model.eval()
    torch.testing.assert_close(tower.encode_image(pixels), before)
    assert set(tower.model.state_dict()) == weights


def test_crops_come_from_torchs_generator_and_reach_the_positions(backbone):
    tower = backbone("open_clip")
    build_loss("ro-vit").prepare(tower)
    tower.model.train().requires_grad_(True)
    pixels = pixels_of(tower)
    state = torch.get_rng_state()
    first, second = tower.encode_image(pixels), tower.encode_image(pixels)
    torch.set_rng_state(state)
    again = tower.encode_image(pixels)
    assert torch.equal(first, again) and not torch.equal(first, second)
    again.square().sum().backward()
    assert tower.model.visual.positional_embedding.grad[1:].abs().max() > 0


def test_prepared_twice_it_crops_once(backbone):
    tower = backbone("open_clip")
    loss, pixels = build_loss("ro-vit"), pixels_of(tower)
    made = []
    for _ in range(2):
        loss.prepare(tower)
        tower.model.train()
        torch.manual_seed(0)
        made.append(tower.encode_image(pixels))
    assert torch.equal(*made)


def test_a_copy_crops_its_own_positions(backbone):
    tower = backbone("open_clip")
    build_loss("ro-vit").prepare(tower)
    copied = copy.deepcopy(tower)
    with torch.no_grad():
        tower.model.visual.positional_embedding.zero_()
    pixels = pixels_of(tower, 1)
    copied.model.train()
    torch.manual_seed(0)
    cropped = copied.encode_image(pixels)
    with torch.no_grad():
        copied.model.visual.positional_embedding[1:] = 0
    torch.manual_seed(0)
    assert (cropped - copied.encode_image(pixels)).abs().max() > 1e-3


def test_images_of_another_size_have_crops_of_their_own_grid(backbone):
    tower = backbone("open_clip")
    build_loss("ro-vit").prepare(tower)
    tower.model.train()
    small = torch.randn(2, 3, 16, 24)
    assert tower.encode_image(small).shape == (2, 24)
