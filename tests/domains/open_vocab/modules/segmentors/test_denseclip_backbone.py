"""DenseCLIP's image tower: four scales, and every place in the space of texts."""

import json

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.segmentors.denseclip.backbone import DenseCLIPBackbone

VIT = {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16}


@pytest.fixture(scope="module")
def write_tower(tmp_path_factory):
    """write_tower(vision config) -> spec of a random CLIP."""

    def write(vision):
        text = {"context_length": 16, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 1}
        path = tmp_path_factory.mktemp("tower") / "tiny.json"
        path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
        return f"open_clip:{path}@random"

    return write


@pytest.fixture(scope="module")
def towers_of_three(write_tower):
    return write_tower(VIT)


def test_a_transformer_gives_four_scales_and_each_place_in_the_space_of_texts(small_clip_spec):
    tower = DenseCLIPBackbone(small_clip_spec).eval()
    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        *maps, (pooled, places) = tower(pixels)
        backbone = load_backbone(small_clip_spec, "cpu")
        tokens, _ = backbone.image_tokens(pixels)
        whole = backbone.pool_image(backbone.run_blocks("image", backbone.embed_image(pixels)), normalize=False)
    assert [tuple(found.shape[1:]) for found in maps] == [(32, 8, 12), (32, 4, 6), (32, 2, 3), (32, 1, 1)]
    torch.testing.assert_close(places.flatten(2).transpose(1, 2), tokens)
    torch.testing.assert_close(pooled, whole)


def test_a_convolutional_tower_gives_its_own_maps():
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
    tower = DenseCLIPBackbone("embedded").eval()
    with torch.no_grad():
        *maps, (pooled, places) = tower(torch.zeros(1, 3, 64, 64))
    assert [found.shape[1] for found in maps] == tower.out_channels == [24, 40, 112, 320]
    assert pooled.shape == (1, 1664) and places.shape == (1, 1664, 2, 2)
    with pytest.raises(ConfigError, match="this tower has no blocks"):
        DenseCLIPBackbone("embedded", drop_path=0.1)


def test_the_tower_is_tapped_where_asked(towers_of_three):
    def maps(**options):
        torch.manual_seed(0)
        with torch.no_grad():
            return DenseCLIPBackbone(towers_of_three, **options).eval()(torch.ones(1, 3, 32, 32))

    assert torch.allclose(maps()[0], maps(out_indices=(0, 1, 1, 2))[0])
    assert not torch.allclose(maps()[0], maps(out_indices=(1, 1, 1, 2))[0])
    for wrong in ((0, 1, 2), (2, 1, 0, 2), (0, 0, 1, 1)):
        with pytest.raises(ConfigError, match="give four blocks in ascending order, the last one 2"):
            DenseCLIPBackbone(towers_of_three, out_indices=wrong)


def test_blocks_are_skipped_in_training_alone(towers_of_three):
    tower = DenseCLIPBackbone(towers_of_three, drop_path=0.9)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        calm = tower.eval()(pixels)[4][1]
        assert torch.equal(calm, tower(pixels)[4][1])
        torch.manual_seed(0)
        assert not torch.allclose(calm, tower.train()(pixels)[4][1])


def test_frozen_towers_do_not_train_and_norms_may_keep_their_statistics(small_clip_spec):
    frozen = DenseCLIPBackbone(small_clip_spec, frozen=True).train()
    assert not any(parameter.requires_grad for parameter in frozen.part.parameters())
    assert not any(module.training for module in frozen.part.modules())
    assert all(parameter.requires_grad for parameter in frozen.pyramid.parameters())


def test_norms_between_scales_are_those_asked_for(write_tower):
    sixteen = write_tower({**VIT, "patch_size": 16})
    assert DenseCLIPBackbone(sixteen).score_level == 2
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in DenseCLIPBackbone(sixteen).modules())
    normed = DenseCLIPBackbone(sixteen, norm_cfg={"type": "GN", "num_groups": 2})
    assert any(isinstance(module, torch.nn.GroupNorm) and module.num_groups == 2 for module in normed.modules())


def test_a_resnets_batch_norms_move_unless_they_are_to_stay(write_tower):
    spec = write_tower({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32})
    for norm_eval in (False, True):
        tower = DenseCLIPBackbone(spec, norm_eval=norm_eval).train()
        *maps, (_, places) = tower(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        assert [found.shape[1] for found in maps] == [32, 64, 128, 256] and places.shape == (2, 24, 2, 3)
        moved = [module.running_mean.abs().sum() > 0 for module in tower.modules() if hasattr(module, "running_mean")]
        assert any(moved) != norm_eval
