"""The frozen tower's names of masks, and both classifiers together, as FC-CLIP has them."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("open_clip", reason="extra open-clip is not installed")

from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.classifiers.frozen_tower import (
    FrozenTowerClassifier,
    combined_logits,
    raw_images,
)
from vladapt.domains.open_vocab.modules.segmentors.maskclip import value_features

TEXT = {"context_length": 16, "vocab_size": 8192, "width": 16, "heads": 2, "layers": 1}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64}


@pytest.fixture(scope="module")
def convnext(tmp_path_factory) -> str:
    """Spec of a ConvNeXt, FC-CLIP's kind of tower."""
    path = tmp_path_factory.mktemp("convnext") / "tiny.json"
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": CONVNEXT, "text_cfg": TEXT, "custom_text": True}))
    return f"open_clip:{path}@random"


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(side: int = 64, count: int = 2) -> torch.Tensor:
    return (128 + 60 * drawn(count, 3, side, side)).clamp(0, 255)


def texts(count: int = 5) -> torch.Tensor:
    return F.normalize(drawn(count, 24, seed=3), dim=-1)


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.0, 0.0), (1.0, 0.3)])
def test_both_are_the_geometric_mean_of_fc_clip(alpha, beta):
    head, tower = drawn(2, 4, 6, seed=1) * 3, drawn(2, 4, 5, seed=2) * 3
    trained = torch.tensor([True, False, True, False, False])
    everywhere = torch.ones(2, 4, dtype=torch.bool)
    found = combined_logits(head, tower, trained, everywhere, torch.ones(5, dtype=torch.bool), alpha, beta).exp()
    inside, outside = head[..., :5].softmax(-1), tower.softmax(-1)
    known, other = inside ** (1 - alpha) * outside**alpha, inside ** (1 - beta) * outside**beta
    mixed = torch.where(trained, known, other)
    nothing = head.softmax(-1)[..., 5:]
    wanted = torch.cat([mixed / mixed.sum(-1, keepdim=True) * (1 - nothing), nothing], dim=-1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.log().softmax(-1), wanted)


def test_where_the_tower_has_no_say_the_head_decides():
    head, tower = drawn(1, 3, 5, seed=1) * 3, drawn(1, 3, 4, seed=2) * 3
    covered = torch.tensor([[True, False, True]])
    named = torch.tensor([False, True, True, True])  # the first is a learned background
    found = combined_logits(head, tower, torch.zeros(4, dtype=torch.bool), covered, named, 0.4, 1.0).exp()
    torch.testing.assert_close(found[:, 1], head.softmax(-1)[:, 1])
    torch.testing.assert_close(found[..., [0, 4]], head.softmax(-1)[..., [0, 4]])
    share = found[:, ::2, 1:4] / found[:, ::2, 1:4].sum(-1, keepdim=True)
    torch.testing.assert_close(share, tower[:, ::2, 1:].softmax(-1))


def test_a_mask_of_all_is_named_as_the_tower_names_the_picture(convnext):
    tower = load_backbone(convnext, device="cpu")
    whole = torch.ones(2, 1, 16, 16)
    mean, std = (torch.tensor(side)[:, None, None] for side in (tower.image_mean, tower.image_std))
    wanted = tower.logit_scale * tower.encode_image((images() / 255 - mean) / std) @ texts().T
    found, covered = FrozenTowerClassifier(convnext).logits(images(), whole, texts())
    torch.testing.assert_close(found[:, 0], wanted.detach(), atol=1e-4, rtol=1e-4)
    assert covered.all()


def test_cells_under_a_mask_are_averaged_before_the_towers_head(convnext):
    tower = load_backbone(convnext, device="cpu")
    mean, std = (torch.tensor(side)[:, None, None] for side in (tower.image_mean, tower.image_std))
    last = tower.feature_maps((images() / 255 - mean) / std)[-1].detach()  # (2, W, 2, 2)
    masks = torch.full((2, 3, 2, 2), -1.0)
    masks[:, 0, 0] = 1  # the upper two cells
    masks[:, 1, 1, 1] = 1
    found, covered = FrozenTowerClassifier(convnext).logits(images(), masks, texts())
    for query, cells in ((0, last[:, :, 0].mean(dim=-1)), (1, last[:, :, 1, 1])):
        alone = tower.pool_map(cells[..., None, None])[:, 0]
        wanted = tower.logit_scale * F.normalize(alone, dim=-1) @ texts().T
        torch.testing.assert_close(found[:, query], wanted.detach(), atol=1e-4, rtol=1e-4)
    assert covered.tolist() == [[True, True, False]] * 2


def test_of_a_transformer_the_values_are_averaged_at_the_size_asked_for(small_clip_spec, small_clip):
    mean, std = (torch.tensor(side)[:, None, None] for side in (small_clip.image_mean, small_clip.image_std))
    masks = drawn(1, 2, 12, 18, seed=5)
    picture = (128 + 60 * drawn(1, 3, 40, 60)).clamp(0, 255)
    side = 3 * small_clip.image_stride
    larger = F.interpolate(picture, size=(side, round(1.5 * 3) * small_clip.image_stride), mode="bilinear")
    values = value_features(small_clip, (larger / 255 - mean) / std)[0]
    inside = F.interpolate(masks, size=values.shape[-2:], mode="bilinear") > 0
    pooled = torch.stack([values[0][:, each].mean(dim=-1) for each in inside[0]])
    wanted = small_clip.logit_scale * F.normalize(pooled, dim=-1) @ texts().T
    found, _ = FrozenTowerClassifier(small_clip_spec, short_side=side).logits(picture, masks, texts())
    torch.testing.assert_close(found[0], wanted.detach(), atol=1e-4, rtol=1e-4)
    other, _ = FrozenTowerClassifier(small_clip_spec).logits(picture, masks, texts())
    assert (found - other).abs().max() > 1e-3


@pytest.mark.parametrize("bgr_to_rgb", [True, False])
def test_images_come_back_from_what_a_preprocessor_made(bgr_to_rgb):
    mine = ImgDataPreprocessor(mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=bgr_to_rgb)
    loaded = images(8).round()  # BGR
    made = mine({"inputs": list(loaded)})["inputs"]
    torch.testing.assert_close(raw_images(made, mine), loaded.flip(1))
    torch.testing.assert_close(raw_images(loaded, BaseDataPreprocessor()), loaded.flip(1))


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.5), ("beta", -0.1), ("short_side", 0)])
def test_what_cannot_be_is_refused(small_clip_spec, name, value):
    with pytest.raises(ConfigError, match=name):
        FrozenTowerClassifier(small_clip_spec, **{name: value})
