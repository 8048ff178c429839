"""Alpha-CLIP's tower: its start is the backbone's, and what alpha says reaches the features."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.registry import MODELS


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def build(spec: str, **options):
    return MODELS.build({"type": "vladapt.AlphaCLIPBackbone", "backbone": spec, **options}).eval()


def pixels_of(tower, count: int = 2) -> torch.Tensor:
    side = tower.image.backbone.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def wake(tower) -> None:
    torch.nn.init.normal_(tower.alpha_conv.weight, std=0.3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["vit", "resnet", "timm", "embedded"])
@torch.no_grad()
def test_untrained_its_features_are_the_backbones(towers, name):
    tower = build(towers[name])
    pixels = pixels_of(tower, 1)
    alpha = torch.rand(1, *pixels.shape[-2:])
    expected = load_backbone(towers[name], device="cpu").encode_image(pixels)
    for given in (None, torch.ones_like(alpha), alpha):
        assert torch.equal(tower.encode_image(pixels, given), expected)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@torch.no_grad()
def test_towers_of_transformers_too(hf_towers, name):
    tower = build(hf_towers[name])
    pixels = pixels_of(tower)
    expected = load_backbone(hf_towers[name], device="cpu").encode_image(pixels)
    torch.testing.assert_close(tower.encode_image(pixels, torch.rand(2, 32, 32)), expected)
    wake(tower)
    assert not torch.allclose(tower.encode_image(pixels, torch.zeros(2, 32, 32)), tower.encode_image(pixels))


@torch.no_grad()
def test_alpha_enters_as_a_fourth_channel_of_the_first_convolution(towers):
    tower = build(towers["vit"])
    wake(tower)
    pixels = pixels_of(tower)
    alpha = torch.rand(2, 32, 32)
    wide = copy.deepcopy(tower.image.backbone.model.visual)  # the same tower over four channels
    weight = torch.cat([wide.conv1.weight, tower.alpha_conv.weight], dim=1)
    wide.conv1 = torch.nn.Conv2d(4, len(weight), 8, 8, bias=False)
    wide.conv1.weight.copy_(weight)
    four = torch.cat([pixels, (alpha[:, None] - 0.5) / 0.26], dim=1)
    expected = F.normalize(wide(four), dim=-1)
    torch.testing.assert_close(tower.encode_image(pixels, alpha), expected)
    torch.testing.assert_close(tower.encode_image(pixels, alpha[:, None]), expected)


@torch.no_grad()
def test_no_alpha_is_alpha_of_one_everywhere(towers):
    tower = build(towers["vit"])
    wake(tower)
    pixels = pixels_of(tower)
    assert torch.equal(tower.encode_image(pixels), tower.encode_image(pixels, torch.ones(2, 32, 32)))


def test_the_convolution_learns_first_and_the_tower_if_it_may(towers):
    for trainable in (True, False):
        tower = build(towers["vit"], trainable=trainable)
        pixels = pixels_of(tower)
        tower.encode_image(pixels, torch.rand(2, 32, 32))[:, 0].sum().backward()
        assert tower.alpha_conv.weight.grad.abs().sum() > 0
        moved = [p for p in tower.image.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert bool(moved) == trainable


def test_lora_trains_little(towers):
    tower = build(towers["vit"], lora={"r": 2})
    trained = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    assert "alpha_conv.weight" in trained and len(trained) > 1
    assert all("lora" in name or name.startswith("alpha_conv") for name in trained)


@torch.no_grad()
def test_maps_are_seen_with_alpha(towers):
    tower = build(towers["vit"])
    pixels = pixels_of(tower)
    plain = tower.image(pixels)
    assert all(torch.equal(a, b) for a, b in zip(tower(pixels), plain, strict=True))
    wake(tower)
    alpha = torch.zeros(2, 32, 32)
    assert all(not torch.allclose(a, b) for a, b in zip(tower(pixels, alpha), plain, strict=True))


@torch.no_grad()
def test_regions_are_the_whole_image_with_their_masks(towers):
    tower = build(towers["vit"])
    wake(tower)
    pixels = pixels_of(tower, 1)
    masks = torch.zeros(3, 32, 32)
    for place in range(3):
        masks[place, 8 * place : 8 * place + 8] = 1
    expected = tower.encode_image(pixels.expand(3, -1, -1, -1), masks)
    torch.testing.assert_close(tower.encode_regions(pixels[0], masks), expected)
    torch.testing.assert_close(tower.encode_regions(pixels[0], masks.bool()), expected)
    tower.region_batch = 2
    torch.testing.assert_close(tower.encode_regions(pixels[0], masks), expected)
    assert tower.encode_regions(pixels[0], masks[:0]).shape == (0, 24)


@torch.no_grad()
def test_images_that_are_not_square_are_padded_with_black_or_stretched(towers):
    tower = build(towers["vit"])
    wake(tower)
    pixels, mask = torch.randn(3, 16, 32), torch.rand(1, 16, 32)
    backbone = tower.image.backbone
    black = -torch.tensor(backbone.image_mean) / torch.tensor(backbone.image_std)
    canvas = black[:, None, None].expand(3, 32, 32).clone()
    canvas[:, 8:24] = pixels
    alpha = F.pad(mask, (0, 0, 8, 8))
    torch.testing.assert_close(tower.encode_regions(pixels, mask), tower.encode_image(canvas[None], alpha))
    stretched = build(towers["vit"], square="stretch")
    wake(stretched)
    assert not torch.allclose(stretched.encode_regions(pixels, mask), tower.encode_regions(pixels, mask))


@torch.no_grad()
def test_boxes_are_masks_of_the_pixels_they_cover(towers):
    from vladapt.domains.open_vocab.modules.backbones.alpha_clip import box_masks

    masks = box_masks(torch.tensor([[1.0, 0.0, 2.5, 2.0], [3.0, 3.0, 3.0, 3.0]]), (3, 4))
    assert masks[0].tolist() == [[0, 1, 0.5, 0], [0, 1, 0.5, 0], [0, 0, 0, 0]]
    assert masks[1].sum() == 0

    tower = build(towers["vit"])
    wake(tower)
    pixels, texts = pixels_of(tower, 1)[0], F.normalize(torch.randn(4, 24), dim=1)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 12.0], [16.0, 8.0, 32.0, 32.0]])
    logits = tower.classify_regions(pixels, texts, boxes=boxes)
    torch.testing.assert_close(logits, tower.classify_regions(pixels, texts, masks=box_masks(boxes, (32, 32))))
    assert logits.shape == (2, 4)
    assert logits.abs().max() <= float(tower.image.backbone.logit_scale) + 1e-3
    with pytest.raises(ConfigError, match="one of them"):
        tower.classify_regions(pixels, texts)


@torch.no_grad()
def test_weights_as_they_are_released_are_taken(towers, tmp_path):
    source = build(towers["vit"])
    wake(source)
    state = {
        key.replace("in_proj_", "in_proj."): torch.randn_like(value) * 0.05
        for key, value in source.image.tower["visual"].state_dict().items()
    }
    state["conv1_alpha.weight"] = source.alpha_conv.weight.detach().clone()
    torch.save(state, tmp_path / "alpha.pth")
    tower = build(towers["vit"], checkpoint=str(tmp_path / "alpha.pth"))
    assert torch.equal(tower.alpha_conv.weight, source.alpha_conv.weight)
    assert torch.equal(tower.image.tower["visual"].proj, state["proj"])
    torch.save({key: value for key, value in state.items() if key != "proj"}, tmp_path / "broken.pth")
    with pytest.raises(DataError, match="not the vision tower"):
        build(towers["vit"], checkpoint=str(tmp_path / "broken.pth"))


def test_what_cannot_be_used_is_said(towers):
    with pytest.raises(ConfigError, match="square"):
        build(towers["vit"], square="crop")
    with pytest.raises(ConfigError, match="region_batch"):
        build(towers["vit"], region_batch=0)
    tower = build(towers["vit"])
    with pytest.raises(ConfigError, match="alpha of shape"):
        tower.encode_image(pixels_of(tower), torch.ones(2, 16, 16))


def test_a_tower_without_one_convolution_for_colours_is_refused():
    from vladapt.domains.open_vocab.modules.backbones.alpha_clip import colour_convolution

    with pytest.raises(CapabilityError, match="0 convolutions"):
        colour_convolution(torch.nn.Linear(3, 4))


@torch.no_grad()
def test_a_copy_has_its_own_hook_and_the_state_goes_round(towers):
    tower = build(towers["vit"])
    wake(tower)
    twin = build(towers["vit"])
    twin.load_state_dict(copy.deepcopy(tower).state_dict())
    pixels, alpha = pixels_of(tower), torch.rand(2, 32, 32)
    assert torch.equal(twin.encode_image(pixels, alpha), tower.encode_image(pixels, alpha))
    assert not any("transformer.resblocks" in key and "visual" not in key for key in tower.state_dict())
