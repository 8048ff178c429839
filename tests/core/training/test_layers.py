import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError, UnknownNameError
from vladapt.core.training.layers import TowerLayers

TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
OPEN_CLIP = {
    "open_clip": ({}, {}, {}),
    "open_clip-custom": ({}, {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}, {"custom_text": True}),
    "open_clip-coca": ({"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}, {}, {}),
    "open_clip-timm": (TIMM, {}, {"custom_text": True}),
    "open_clip-convnext": (CONVNEXT, {}, {"custom_text": True}),
    "open_clip-resnet": ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}, {}, {}),
}
HF = ("clip", "siglip", "siglip2", "chinese_clip", "altclip", "align")
ALL = [*OPEN_CLIP, *HF, "embedded"]
WITH_IMAGE_BLOCKS = [
    name for name in ALL if name not in ("open_clip-convnext", "open_clip-resnet", "align", "embedded")
]
TEXTS = ["a photo of a cat", "the small green sea lake . dog", "dog"]


@pytest.fixture(scope="module")
def built(tmp_path_factory, hf_folder, small):
    """name -> backbone, made once; for reading only."""
    made = {}

    def named(name):
        if name not in made:
            if name in OPEN_CLIP:
                vision, text, top = OPEN_CLIP[name]
                config = small.open_clip_config(vision, text, **top)
                spec = small.write_open_clip(tmp_path_factory.mktemp("layers"), config, seed=2)
            else:
                spec = "embedded" if name == "embedded" else f"hf:{hf_folder(name)}"
            made[name] = load_backbone(spec, "cpu")
        return made[name]

    return named


@pytest.fixture
def backbone(built):
    """name -> a backbone to change."""
    return lambda name: copy.deepcopy(built(name))


def names_of(backbone, tower):
    return [name for name, _ in backbone.model.named_parameters() if backbone.tower_of(name) == tower]


def reached(backbone):
    """Names of the parameters with a gradient, which is taken away."""
    found = {name for name, p in backbone.model.named_parameters() if p.grad is not None}
    backbone.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", ALL)
def test_each_tower_is_what_its_own_features_come_from(backbone, name):
    tower = backbone(name)
    tower.model.requires_grad_(True)
    pixels = torch.randn(2, 3, tower.image_size, tower.image_size)
    tower.encode_image(pixels, False).sum().backward()
    image = reached(tower)
    tower.encode_text(TEXTS, False).sum().backward()
    text = reached(tower)
    unused = {"text_model.pooler.dense.weight", "text_model.pooler.dense.bias"}  # of ALIGN's BERT
    assert image == set(names_of(tower, "image"))
    assert text == set(names_of(tower, "text")) - unused
    assert set(names_of(tower, "shared")) <= {"logit_scale", "logit_bias", "temperature"}
    assert names_of(tower, "shared")


@pytest.mark.parametrize("name", WITH_IMAGE_BLOCKS)
def test_image_depths_are_the_order_of_the_forward_pass(backbone, name):
    tower = backbone(name)
    tower.model.requires_grad_(True)
    x = tower.embed_image(torch.randn(2, 3, tower.image_size, tower.image_size))
    check_order(tower, "image", x, None, lambda x: tower.pool_image(x))


@pytest.mark.thorough(but=("open_clip", "clip", "siglip"))
@pytest.mark.parametrize("name", ALL)
def test_text_depths_are_the_order_of_the_forward_pass(backbone, name):
    tower = backbone(name)
    tower.model.requires_grad_(True)
    tokens = tower.tokenize(TEXTS)
    mask = tower.token_mask(tokens)
    x = tower.embed_prompt(tower.embed_tokens(tokens), mask)
    check_order(tower, "text", x, mask, lambda x: tower.pool_text(x, mask))


def check_order(backbone, tower, x, mask, pool):
    """What is cut off before block i is what has depth i or less."""
    names, last = names_of(backbone, tower), len(backbone.blocks(tower))
    assert TowerLayers(backbone).count(tower) == last
    depth = {name: TowerLayers(backbone).depth(name) for name in names if "pooler" not in name}
    assert depth.keys() and set(depth.values()) <= set(range(last + 2))
    for stop in range(last + 1):
        x = x.detach().requires_grad_()  # nothing trains after the last block of some
        pool(backbone.run_blocks(tower, x, stop, mask=mask)).sum().backward()
        assert reached(backbone) == {name for name in names if depth.get(name, 0) > stop}
        x = backbone.run_blocks(tower, x, stop, stop + 1, mask=mask)


def test_a_resnet_has_four_layers(built):
    tower = built("open_clip-resnet")
    assert TowerLayers(tower).count("image") == 4
    expected = {
        "visual.conv1.weight": 0,
        "visual.bn3.bias": 0,
        "visual.layer1.0.conv1.weight": 1,
        "visual.layer4.0.bn2.weight": 4,
        "visual.attnpool.positional_embedding": 5,
        "visual.attnpool.q_proj.weight": 5,
    }
    assert {name: TowerLayers(tower).depth(name) for name in expected} == expected


def test_the_embedded_image_tower_has_sixteen_layers(built):
    tower = built("embedded")
    assert (TowerLayers(tower).count("image"), TowerLayers(tower).count("text")) == (16, 6)
    expected = {
        "image.stem.0.weight": 0,
        "image.blocks.0.layers.0.weight": 1,
        "image.blocks.15.layers.4.bias": 16,
        "image.head.0.weight": 17,
        "image.classifier.bias": 17,
    }
    assert {name: TowerLayers(tower).depth(name) for name in expected} == expected


def test_other_networks_of_timm_are_ordered_as_timm_says(built):
    tower = built("open_clip-convnext")
    found = {name: TowerLayers(tower).depth(name) for name in names_of(tower, "image")}
    assert found["visual.trunk.stem.0.weight"] == 0
    blocks = [name for name in found if ".blocks." in name]
    assert [found[name] for name in blocks] == sorted(found[name] for name in blocks)
    assert max(found[name] for name in blocks) == TowerLayers(tower).count("image") > 4
    assert found["visual.head.proj.weight"] == TowerLayers(tower).count("image") + 1


def test_aligns_image_tower_is_counted_by_its_blocks(built):
    tower = built("align")
    assert TowerLayers(tower).count("image") == 3
    assert TowerLayers(tower).depth("vision_model.embeddings.batchnorm.weight") == 0
    assert TowerLayers(tower).depth("vision_model.encoder.blocks.2.projection.project_bn.bias") == 3


def test_what_is_in_no_tower_has_no_depth(built, small, tmp_path):
    tower = built("open_clip")
    assert tower.tower_of("logit_scale") == "shared"
    with pytest.raises(ConfigError, match=r"'logit_scale' .* is in no tower"):
        TowerLayers(tower).depth("logit_scale")
    for missing in ("visual.nothing", "nothing", ""):
        with pytest.raises(UnknownNameError, match="no parameter"):
            tower.tower_of(missing)
    with pytest.raises(ConfigError, match='tower="audio"'):
        TowerLayers(tower).count("audio")
    alone = load_backbone(small.write_open_clip(tmp_path, small.open_clip_config(), image_only=True), "cpu")
    with pytest.raises(CapabilityError, match="no text tower"):
        TowerLayers(alone).count("text")


@pytest.mark.parametrize("name", ALL)
def test_without_decay_by_layer_the_groups_are_open_clips(backbone, name):
    tower = backbone(name)
    TowerLayers(tower).set_trainable()
    groups = TowerLayers(tower).parameter_groups(lr=0.1, weight_decay=0.2)
    assert {group["lr"] for group in groups} == {0.1}
    bare = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}

    def excluded(name, parameter):  # open_clip's training loop
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    assert bare == {id(p) for name, p in tower.model.named_parameters() if excluded(name, p)}
    count = sum(len(group["params"]) for group in groups)
    assert count == len(list(tower.model.parameters()))
    torch.optim.AdamW(groups)  # refuses a parameter that is in two groups


def test_rates_fall_from_the_last_layer_to_the_first(backbone):
    tower = backbone("open_clip")
    TowerLayers(tower).set_trainable()
    rate = rates(tower, TowerLayers(tower).parameter_groups(lr=1.0, weight_decay=0, layer_decay=0.5))
    assert rate["logit_scale"] == rate["visual.proj"] == rate["text_projection"] == 1
    assert rate["visual.transformer.resblocks.1.mlp.c_fc.weight"] == 0.5
    assert rate["visual.transformer.resblocks.0.mlp.c_fc.weight"] == 0.25
    assert rate["visual.conv1.weight"] == 0.125
    assert rate["token_embedding.weight"] == 0.125


def rates(backbone, groups):
    by_id = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in backbone.model.named_parameters()}


def test_what_does_not_train_is_in_no_group(backbone):
    tower = backbone("clip")
    assert TowerLayers(tower).parameter_groups(lr=1.0, weight_decay=0) == []
    tower.model.logit_scale.requires_grad_(True)
    (group,) = TowerLayers(tower).parameter_groups(lr=1.0, weight_decay=0.5, layer_decay=0.5)
    assert group["params"][0] is tower.model.logit_scale and group["weight_decay"] == 0


@pytest.mark.parametrize("bad", [{"layer_decay": 0}, {"layer_decay": 1.5}])
def test_a_factor_out_of_range_is_refused(built, bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        TowerLayers(built("clip")).parameter_groups(lr=1.0, weight_decay=0, **bad)


@settings(max_examples=20, deadline=None)
@given(decay=st.floats(0.1, 1), lr=st.floats(1e-6, 1))
def test_every_rate_is_its_depths(built, decay, lr):
    tower = built("open_clip-custom")
    tower.model.requires_grad_(True)
    found = rates(tower, TowerLayers(tower).parameter_groups(lr=lr, weight_decay=0, layer_decay=decay))
    for name, rate in found.items():
        kind = tower.tower_of(name)
        steps = 0 if kind == "shared" else TowerLayers(tower).count(kind) + 1 - TowerLayers(tower).depth(name)
        assert rate == pytest.approx(lr * decay**steps)
    tower.model.requires_grad_(False)


@pytest.mark.parametrize("name", ["open_clip", "clip", "embedded", "open_clip-resnet"])
def test_a_locked_tower_stays_and_the_other_trains(backbone, name):
    tower = backbone(name)
    for lock in (("image",), "image"):
        chosen = TowerLayers(tower).set_trainable(lock=lock)
        assert chosen == [key for key, p in tower.model.named_parameters() if p.requires_grad]
        assert set(chosen) == set(names_of(tower, "text")) | set(names_of(tower, "shared"))
    assert set(TowerLayers(tower).set_trainable(lock=("text",))) == set(names_of(tower, "image")) | set(
        names_of(tower, "shared")
    )
    assert len(TowerLayers(tower).set_trainable()) == len(list(tower.model.parameters()))


def test_only_the_last_layers_of_a_tower_train(backbone):
    tower = backbone("embedded")
    chosen = TowerLayers(tower).set_trainable(lock=("text",), last=2)
    assert {name.rsplit(".", 3)[0] for name in chosen if ".layers." in name} == {"image.blocks.15"}
    assert {name for name in chosen if ".layers." not in name} == {
        "logit_scale",
        "image.head.0.weight",
        "image.head.0.bias",
        "image.classifier.weight",
        "image.classifier.bias",
    }
    both = TowerLayers(tower).set_trainable(last=2)
    assert {name for name in both if name.startswith("text.")} == {
        name for name in names_of(tower, "text") if name.startswith("text.layers.5.")
    }
    assert len(TowerLayers(tower).set_trainable(last=18)) == len(list(tower.model.parameters()))


def test_locks_that_mean_nothing_are_refused(built):
    with pytest.raises(ConfigError, match='lock=\\["audio"\\]'):
        TowerLayers(built("clip")).set_trainable(lock=("audio",))
    with pytest.raises(ConfigError, match="last=0"):
        TowerLayers(built("clip")).set_trainable(last=0)


@pytest.mark.parametrize("name", ["open_clip-resnet", "align"])
def test_frozen_batch_norm_keeps_its_statistics_in_train_mode(backbone, name):
    tower = backbone(name)
    pixels = torch.randn(4, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = copy.deepcopy(tower)
        moved.model.train()
        moved.encode_image(pixels)
        statistics = {key for key in tower.model.state_dict() if "running" in key}
        assert any(not torch.equal(moved.model.state_dict()[key], tower.model.state_dict()[key]) for key in statistics)
    before = {key: tower.model.state_dict()[key].clone() for key in statistics}
    names = TowerLayers(tower).freeze_batch_norm()
    assert {f"{name}.running_mean" for name in names} == {key for key in statistics if "mean" in key}
    tower.model.requires_grad_(True)
    tower.model.train()
    alone = torch.cat([tower.encode_image(part) for part in pixels.split(1)])
    whole = tower.encode_image(pixels)
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)
    whole.sum().backward()
    assert all(torch.equal(tower.model.state_dict()[key], value) for key, value in before.items())
    assert all(tower.model.get_submodule(key).weight.grad.abs().sum() > 0 for key in names)


def test_frozen_batch_norm_is_the_copys_own(backbone):
    tower = backbone("open_clip-resnet")
    names = TowerLayers(tower).freeze_batch_norm()
    assert TowerLayers(tower).freeze_batch_norm() == names
    for twin in (copy.deepcopy(tower.model), pickle.loads(pickle.dumps(tower.model))):
        twin.train()
        norm = twin.get_submodule(names[0])
        assert not norm.training and norm.train.args[0] is norm
        assert twin.get_submodule("visual.layer1").training


def test_a_tower_without_batch_norm_has_none_to_freeze(backbone):
    assert TowerLayers(backbone("open_clip")).freeze_batch_norm() == []
    assert TowerLayers(backbone("embedded")).freeze_batch_norm() == []


@pytest.mark.parametrize(
    ("name", "projections"),
    [
        ("open_clip", {"visual.proj", "text_projection"}),
        ("open_clip-custom", {"visual.proj", "text.text_projection.weight"}),
        ("open_clip-timm", {"visual.head.proj.weight", "text.text_projection"}),
        ("clip", {"visual_projection.weight", "text_projection.weight"}),
        ("siglip", set()),
    ],
)
def test_projections_have_a_rate_of_their_own(built, name, projections):
    backbone = built(name)
    backbone.model.requires_grad_(True)
    names = {parameter: name for name, parameter in backbone.model.named_parameters()}
    groups = TowerLayers(backbone).parameter_groups(lr=1.0, weight_decay=0.1, projection_rate=5.0)
    assert {names[p] for group in groups if group["lr"] == 5.0 for p in group["params"]} == projections
    assert {group["lr"] for group in groups} <= {1.0, 5.0}
    assert {name for name in names.values() if TowerLayers.is_projection(name)} == projections
