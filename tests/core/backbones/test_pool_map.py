"""The last map of a tower without blocks, pooled: the whole as `encode_image` has it, and each cell."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError


def test_a_resnets_whole_is_its_feature_and_cells_are_pooled_like_it(open_clip_resnet):
    backbone = load_backbone(open_clip_resnet, device="cpu")
    size = backbone.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = backbone.feature_maps(pixels)[-1]
        pooled = backbone.pool_map(last)
        assert pooled.shape == (2, 1 + last.shape[2] * last.shape[3], backbone.embed_dim)
        assert torch.allclose(pooled[:, 0], backbone.encode_image(pixels, normalize=False), atol=1e-5)
        wider = backbone.pool_map(torch.cat([last, last], dim=3))  # another shape: positions are resampled
    assert wider.shape[1] == 1 + 2 * last.shape[2] * last.shape[3]


def test_the_embedded_towers_whole_is_its_feature_and_its_cells_are_its_tokens():
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
    backbone = load_backbone("embedded", device="cpu")
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = backbone.pool_map(backbone.feature_maps(pixels)[-1])
        assert torch.allclose(pooled[:, 0], backbone.project(backbone.hidden(pixels), normalize=False), atol=1e-4)
        assert torch.allclose(pooled[:, 1:], backbone.image_tokens(pixels)[0], atol=1e-4)


def test_a_tower_with_blocks_says_what_to_use(small_clip):
    with pytest.raises(CapabilityError, match="has blocks: use pool_image and project_patches"):
        small_clip.pool_map(torch.zeros(1, 32, 2, 2))
    assert small_clip.image_grid(torch.zeros(1, 3, 16, 24)) == (2, 3)
