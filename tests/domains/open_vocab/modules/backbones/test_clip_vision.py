"""Vision towers as backbones of mm models: maps of any tower and size, what trains, what is saved."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.registry import MODELS

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError

TAPS = {"pyramid": "taps"}


def build(spec: str, **options):
    return MODELS.build({"type": "vladapt.CLIPVisionBackbone", "backbone": spec, **options})


def pixels(height: int, width: int | None = None, count: int = 2):
    return torch.randn(count, 3, height, width or height, generator=torch.Generator().manual_seed(3))


def trains(module) -> set[str]:
    return {name for name, parameter in module.tower.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["vit", "timm"])
def test_a_transformer_has_a_pyramid_for_any_size(towers, name):
    backbone = build(towers[name])
    patch = {"vit": 8, "timm": 16}[name]
    assert backbone.strides == (patch // 4, patch // 2, patch, patch * 2)
    assert backbone.out_channels == (256,) * 4
    maps = backbone(pixels(64, 90))  # 90 does not fill its last patch
    columns = -(-90 // patch)
    expected = [(64 * s // patch, columns * s) for s in (4, 2, 1)] + [(64 // patch // 2, -(-columns // 2))]
    assert [tuple(each.shape) for each in maps] == [(2, 256, *size) for size in expected]
    sum(each.square().mean() for each in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["resnet", "embedded"])
def test_a_cnn_gives_its_own_stages(towers, name):
    backbone = build(towers[name])
    assert backbone.strides == (4, 8, 16, 32)
    maps = backbone(pixels(64, 96))
    assert [each.shape[1] for each in maps] == list(backbone.out_channels)
    assert [tuple(each.shape[2:]) for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    own = load_backbone(towers[name], "cpu").feature_maps(pixels(64, 96))
    for mine, theirs in zip(maps, own):
        torch.testing.assert_close(mine, theirs)
    sum(each.square().mean() for each in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_towers_of_transformers_are_backbones_too(hf_towers, name):
    backbone = build(hf_towers[name], out_channels=16).eval()
    assert [tuple(each.shape) for each in backbone(pixels(40, 64))][2] == (2, 16, 5, 8)
    assert trains(backbone)
    assert not any("text" in key or "post_layernorm" in key for key in trains(backbone))


def test_taps_are_the_towers_maps_at_four_depths(towers):
    backbone = build(towers["vit"], **TAPS).eval()
    own = load_backbone(towers["vit"], "cpu").feature_maps(pixels(32))
    for mine, theirs in zip(backbone(pixels(32)), own, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert (backbone.strides, backbone.out_channels) == ((8,) * 4, (32,) * 4)


def test_the_pyramid_comes_from_the_last_map_alone(towers):
    backbone, taps = build(towers["vit"]).eval(), build(towers["vit"], **TAPS).eval()
    last = taps(pixels(32))[-1]
    deconvolved = F.conv_transpose2d(last, *backbone.pyramid.levels["1"][0].parameters(), stride=2)
    coarse = F.max_pool2d(last, 2)
    for level, start, tail in ((1, deconvolved, 1), (3, coarse, 1), (2, last, 0)):
        x = start
        for layer in backbone.pyramid.levels[str(level)][tail:]:
            x = layer(x)
        torch.testing.assert_close(backbone(pixels(32))[level], x)
        assert x.mean(dim=1).abs().max() < 1e-4  # a layer norm over channels comes last


def test_levels_and_channels_are_chosen(towers):
    backbone = build(towers["vit"], out_indices=(1, 4), out_channels=12, num_outs=5)
    maps = backbone(pixels(64))
    assert [tuple(each.shape[1:]) for each in maps] == [(12, 16, 16), (12, 2, 2)]
    assert (backbone.strides, backbone.out_channels) == ((4, 32), (12, 12))
    whole = build(towers["vit"], out_channels=12, num_outs=5)
    assert set(backbone.pyramid.levels) == {"1", "3"}  # what is not asked for has no parameters without a gradient
    assert whole.load_state_dict(backbone.state_dict(), strict=False).unexpected_keys == []
    torch.testing.assert_close(whole(pixels(64))[4], whole(pixels(64))[3][..., ::2, ::2])


def test_only_the_image_tower_is_saved(towers):
    backbone = build(towers["vit"])
    core = load_backbone(towers["vit"], "cpu").model
    own = {f"tower.visual.{name}" for name in core.visual.state_dict()}
    assert {key for key in backbone.state_dict() if not key.startswith("pyramid.")} == own
    tower = sum(parameter.numel() for parameter in backbone.tower.parameters())
    assert tower == sum(parameter.numel() for parameter in core.visual.parameters())


def test_initialising_a_model_leaves_the_tower_as_it_was_trained(towers):
    backbone = build(towers["vit"])
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_what_comes_after_the_blocks_trains_only_if_asked(towers):
    head = {"visual.proj", "visual.ln_post.weight", "visual.ln_post.bias"}
    assert not trains(build(towers["vit"])) & head
    backbone = build(towers["vit"], train_head=True)
    assert head <= trains(backbone)
    backbone.dense_tokens(pixels(32)).square().mean().backward()
    assert backbone.tower.visual.proj.grad.abs().max() > 0


def test_dense_tokens_lie_in_the_space_of_texts(towers):
    for name in ("vit", "resnet", "embedded"):
        backbone = build(towers[name]).eval()
        tokens, (h, w) = load_backbone(towers[name], "cpu").image_tokens(pixels(64, 96))
        dense = backbone.dense_tokens(pixels(64, 96))
        assert dense.shape == (2, backbone.backbone.embed_dim, h, w)
        torch.testing.assert_close(dense.flatten(2).transpose(1, 2), tokens)


def test_a_frozen_tower_stays_as_it_is(towers):
    backbone = build(towers["vit"], frozen=True).train()
    assert not trains(backbone)
    assert not any(module.training for module in backbone.tower.modules() if list(module.parameters()))
    assert backbone.pyramid.training
    assert all(parameter.requires_grad for parameter in backbone.pyramid.parameters())


def test_blocks_after_the_last_map_do_not_train(towers):
    backbone = build(towers["vit"], **TAPS, out_indices=(0, 1))
    assert {name.split(".")[3] for name in trains(backbone) if "resblocks" in name} == {"0", "1"}
    sum(each.square().mean() for each in backbone(pixels(32))).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_frozen_stages_count_from_the_stem(towers):
    names = [trains(build(towers["vit"], frozen_stages=stages)) for stages in (-1, 0, 2, 4)]
    assert "visual.conv1.weight" in names[0]
    assert "visual.positional_embedding" in names[0] - names[1]
    assert any("resblocks.1." in name for name in names[1])
    assert not any("resblocks.1." in name for name in names[2])
    assert any("resblocks.2." in name for name in names[2])
    assert not names[3]
    resnet = trains(build(towers["resnet"], frozen_stages=1))
    assert {name.split(".")[1] for name in resnet} == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize(
    ("options", "first_moves", "last_moves"),
    [({}, False, False), ({"norm_eval": False}, True, True), ({"norm_eval": False, "frozen_stages": 1}, False, True),
     ({"norm_eval": False, "frozen": True}, False, False)],
)  # fmt: skip
def test_batch_norms_of_what_is_frozen_keep_their_statistics(towers, options, first_moves, last_moves):
    backbone = build(towers["resnet"], **options).train()
    visual = backbone.tower.visual
    before = [visual.layer1[0].bn1.running_mean.clone(), visual.layer4[0].bn1.running_mean.clone()]
    backbone(pixels(64))
    assert torch.equal(before[0], visual.layer1[0].bn1.running_mean) is not first_moves
    assert torch.equal(before[1], visual.layer4[0].bn1.running_mean) is not last_moves


def test_lora_trains_in_place_of_the_tower(towers):
    torch.manual_seed(0)
    backbone = build(towers["vit"], lora={"r": 3, "params": ("q", "v")}, **TAPS)
    assert trains(backbone)
    assert all(".lora_" in name for name in trains(backbone))
    assert {value.shape[0] for name, value in backbone.tower.named_parameters() if "lora_A" in name} == {3}
    plain = build(towers["vit"], **TAPS).eval()
    for mine, theirs in zip(backbone.eval()(pixels(32)), plain(pixels(32))):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    backbone.train()(pixels(32))[-1].square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in backbone.tower.parameters())
    assert not any("text" in key.split(".")[1] or "transformer" in key.split(".")[1] for key in backbone.state_dict())


def test_cropped_positions_move_in_training_alone(towers):
    backbone = build(towers["vit"], cropped_positions={"fine_grid": 16}, **TAPS)
    plain = build(towers["vit"], **TAPS)
    torch.manual_seed(0)
    first, second = backbone(pixels(32))[0], backbone(pixels(32))[0]
    assert (first - second).abs().max() > 1e-4
    torch.testing.assert_close(backbone.eval()(pixels(32))[0], plain.eval()(pixels(32))[0])
    torch.manual_seed(0)
    finer = build(towers["vit"], cropped_positions=True, **TAPS)(pixels(32))[0]
    assert (first - finer).abs().max() > 1e-6  # another grid
    backbone.train()(pixels(40, 64))[0].sum().backward()  # any size
    assert backbone.tower.visual.positional_embedding.grad is not None


def test_drop_path_leaves_later_blocks_out_more_often(towers):
    torch.manual_seed(0)
    backbone = build(towers["vit"], drop_path=0.5, **TAPS).train()
    same = pixels(32, count=1).expand(64, -1, -1, -1)
    first, *_, last = backbone(same)
    assert (first - first[:1]).abs().max() < 1e-5  # block 0 always runs
    third = backbone.backbone.run_blocks("image", backbone.backbone.embed_image(same[:1]), 0, 1)
    assert third.shape[1] == 17
    dropped = torch.stack([(last[i] - last[0]).abs().max() > 1e-4 for i in range(64)]).float().mean()
    assert dropped > 0.3
    torch.testing.assert_close(backbone.eval()(same[:2])[-1], build(towers["vit"], **TAPS).eval()(same[:2])[-1])


def test_a_dropped_block_adds_nothing_and_a_kept_one_adds_more(towers):
    torch.manual_seed(0)
    backbone = build(towers["vit"], drop_path=0.5, **TAPS).train()
    x = backbone.backbone.embed_image(pixels(32, count=1)).expand(200, -1, -1)
    after, whole = backbone._block(3, x), backbone.eval()._block(3, x)
    kept = (after - x).flatten(1).abs().amax(dim=1) > 0
    assert 0.35 < kept.float().mean() < 0.65
    torch.testing.assert_close(after[kept] - x[kept], 2 * (whole - x)[kept], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_recomputed_activations_give_the_same_gradients(towers, name):
    gradients = []
    for with_cp in (False, True):
        backbone = build(towers[name], with_cp=with_cp, **TAPS).train()
        visual = backbone.tower.visual
        block = visual.transformer.resblocks[1].mlp if name == "vit" else visual.layer2[0].conv1
        runs = []
        block.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        backbone(pixels(64))[-1].square().mean().backward()
        gradients.append(block.c_fc.weight.grad if name == "vit" else block.weight.grad)
        assert len(runs) == 1 + with_cp
    torch.testing.assert_close(*gradients)


def test_a_copy_is_a_model_of_its_own(towers):
    backbone = build(towers["vit"], cropped_positions=True, **TAPS)
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in twin.tower.parameters():
            parameter.zero_()
    assert twin.eval()(pixels(32))[-1].abs().max() == 0
    assert backbone.eval()(pixels(32))[-1].abs().max() > 0


def test_it_goes_where_the_model_goes(towers):
    backbone = build("embedded").to(torch.float64)
    assert backbone.backbone.model.alignment.image is not None
    assert all(buffer.dtype == torch.float64 for buffer in backbone.backbone.model.alignment.buffers())
    backbone.to("meta")
    assert backbone.backbone.device.type == "meta"
    assert all(buffer.is_meta for buffer in backbone.backbone.model.alignment.buffers())


def test_it_runs_in_16_bits(towers):
    for name in ("vit", "resnet"):
        with torch.autocast("cpu", torch.bfloat16):
            maps = build(towers[name])(pixels(64))
        assert all(each.isfinite().all() for each in maps)


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("vit", {"pyramid": "fpn"}, ConfigError, "simple, taps"),
        ("vit", {"out_indices": (0, 4)}, ConfigError, "maps 0 to 3"),
        ("vit", {"out_channels": 8, "pyramid": "taps"}, ConfigError, "neck"),
        ("resnet", {"num_outs": 5}, ConfigError, "neck"),
        ("vit", {"num_outs": 3}, ConfigError, "4 or more"),
        ("vit", {"drop_path": 1.0}, ConfigError, "below 1"),
        ("resnet", {"drop_path": 0.1}, CapabilityError, "transformer blocks"),
        ("resnet", {"pyramid": "simple"}, CapabilityError, "transformer blocks"),
        ("resnet", {"lora": {}}, CapabilityError, "attention"),
        ("resnet", {"cropped_positions": True}, CapabilityError, "positions"),
        ("vit", {"frozen_stages": 5}, ConfigError, "4 blocks"),
        ("vit", {"frozen_stages": -2}, ConfigError, "-1 or more"),
        ("vit", {"frozen": True, "lora": {}}, ConfigError, "exclude"),
        ("vit", {"frozen": True, "train_head": True}, ConfigError, "exclude"),
        ("vit", {"frozen": True, "cropped_positions": True}, ConfigError, "positions"),
        ("vit", {"lora": {"towers": ("text",)}}, ConfigError, "towers"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(towers, name, options, error, says):
    with pytest.raises(error, match=says):
        build(towers[name], **options)
