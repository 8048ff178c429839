"""What dense methods stand on: where patches are, what each is in the shared space, and the keys of a pooling."""

import pytest
import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError


@pytest.fixture
def spec_of(open_clip_vit, open_clip_resnet, hf_folder):
    def spec(kind):
        own = {"vit": open_clip_vit, "resnet": open_clip_resnet}
        return own[kind] if kind in own else f"hf:{hf_folder(kind)}"

    return spec


@pytest.mark.parametrize("kind", ["vit", "clip", "siglip", "siglip2", "chinese_clip"])
def test_patches_are_projected_as_the_tower_does(spec_of, kind):
    backbone = load_backbone(spec_of(kind), "cpu")
    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, grid = backbone.image_tokens(pixels)
        x = backbone.run_blocks("image", backbone.embed_image(pixels))
        torch.testing.assert_close(backbone.project_patches(x), tokens)
    assert backbone.image_grid(pixels) == grid == (4, 6)
    assert backbone.image_stride == 8


def test_cells_of_a_resnet_come_with_the_keys_of_its_pooling(spec_of):
    backbone = load_backbone(spec_of("resnet"), "cpu")
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, keys, grid = backbone.value_tokens(pixels)
        cells = backbone.feature_maps(pixels)[-1].flatten(2).transpose(1, 2)
        torch.testing.assert_close(tokens, backbone.image_tokens(pixels)[0])
        torch.testing.assert_close(keys, backbone.model.visual.attnpool.k_proj(cells))
    assert (grid, backbone.image_stride) == ((2, 3), 32)
    for step in (backbone.project_patches, backbone.image_grid):
        with pytest.raises(CapabilityError):
            step(pixels)


def test_a_tower_that_averages_compares_nothing():
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
    backbone = load_backbone("embedded", "cpu")
    with torch.no_grad():
        tokens, keys, grid = backbone.value_tokens(torch.zeros(1, 3, 64, 96))
    assert keys is None
    assert (tokens.shape, grid, backbone.image_stride) == ((1, 6, backbone.embed_dim), (2, 3), 32)
