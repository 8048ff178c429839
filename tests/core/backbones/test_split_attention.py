import copy
import json
import re
import warnings

import pytest
import torch
from torch import nn

from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.separate_projections import SplitAttention
from vladapt.core.backbones.split_attention import merge_attention, split_attention
from vladapt.core.errors import CapabilityError, ConfigError

TEXTS = ["a photo of a cat", "the small green sea lake . dog", "dog"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
# Changes to the vision part, the text part and the top of the small configuration.
OPEN_CLIP = {
    "open_clip": ({}, {}, {}),
    "open_clip-both-ways": ({"pool_type": "avg"}, {"no_causal_mask": True, "pool_type": "last"}, {"custom_text": True}),
    "open_clip-coca": ({"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}, {}, {}),
    "open_clip-timm": (TIMM, {}, {"custom_text": True}),
    "open_clip-resnet": ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}, {}, {}),
}
HF = ("clip", "siglip", "siglip2", "chinese_clip", "altclip", "align", "owlvit", "owlv2")
ALL = [*OPEN_CLIP, *HF, "embedded"]
TEXT_ONLY = ("open_clip-resnet", "align", "embedded")


@pytest.fixture(scope="module")
def built(tmp_path_factory, hf_folder, small):
    """name -> backbone, made once; for reading only."""
    made = {}

    def named(name):
        if name not in made:
            if name in OPEN_CLIP:
                vision, text, top = OPEN_CLIP[name]
                config = small.open_clip_config(vision, text, **top)
                spec = small.write_open_clip(tmp_path_factory.mktemp("split"), config, seed=2)
            else:
                spec = "embedded" if name == "embedded" else f"hf:{hf_folder(name)}"
            made[name] = load_backbone(spec, "cpu", **({"image_size": 64} if name == "embedded" else {}))
        return made[name]

    return named


@pytest.fixture
def backbone(built):
    """name -> a backbone to change."""
    return lambda name: copy.deepcopy(built(name))


def quietly_split(backbone, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return split_attention(backbone, *args)


@torch.no_grad()
def outputs(backbone):
    """Everything that a backbone gives, by the library's forward pass and step by step."""
    side = backbone.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(4))
    tokens = backbone.tokenize(TEXTS)[:, :16]  # the context of the small ones, and enough for these texts
    mask = backbone.token_mask(tokens)
    words = backbone.embed_tokens(tokens)
    found = {
        "image": backbone.encode_image(pixels, False),
        "text": backbone.encode_text(TEXTS, False),
        "tokens": backbone.encode_tokens(tokens),
        "image_tokens": backbone.image_tokens(pixels)[0],
        "hidden": backbone.hidden(pixels),
        "prompt": backbone.encode_prompt(words, mask, False),
        "text_blocks": backbone.run_blocks("text", backbone.embed_prompt(words, mask), mask=mask)[mask],
    }
    if "image_blocks" in backbone.capabilities:
        found["image_blocks"] = backbone.run_blocks("image", backbone.embed_image(pixels))
    return found


@pytest.mark.parametrize("name", ALL)
def test_a_split_model_computes_what_it_did_and_goes_back(backbone, name):
    tower = backbone(name)
    before, state, kinds = outputs(tower), copy.deepcopy(tower.model.state_dict()), kinds_of(tower)
    layers = quietly_split(tower)
    for key, value in outputs(tower).items():
        torch.testing.assert_close(value, before[key], **CLOSE)
    linears = [tower.model.get_submodule(path) for layer in layers for path in (layer.q, layer.k, layer.v, layer.out)]
    assert all(isinstance(linear, nn.Linear) for linear in linears)
    assert len({id(linear) for linear in linears}) == len(linears)

    merge_attention(tower)
    assert all(torch.equal(tower.model.state_dict()[key], state[key]) for key in state)
    assert kinds_of(tower) == kinds
    assert {key: value.shape for key, value in tower.model.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }
    for key, value in outputs(tower).items():
        assert torch.equal(value, before[key])


def kinds_of(backbone):
    return [(name, type(module)) for name, module in backbone.model.named_modules()]


@pytest.mark.parametrize("name", ALL)
def test_layers_are_told_by_tower_and_block(backbone, name):
    tower = backbone(name)
    layers = quietly_split(tower)
    for kind in ("image", "text"):
        blocks = [layer.block for layer in layers if layer.tower == kind]
        expected = 0 if kind == "image" and name in TEXT_ONLY else len(tower.blocks(kind))
        assert blocks == list(range(expected))
    for layer in layers:
        assert re.search(rf"\.{layer.block}\.", layer.q)
        assert tower.blocks(layer.tower)[layer.block].out is tower.model.get_submodule(layer.out)


@pytest.mark.parametrize("name", ALL)
def test_each_role_is_its_own_part_of_the_blocks_projection(backbone, name):
    tower = backbone(name)
    for layer in quietly_split(tower):
        block = tower.blocks(layer.tower)[layer.block]
        x = torch.randn(1, 3, block.ln_1.normalized_shape[0])
        parts = [tower.model.get_submodule(path)(x) for path in (layer.q, layer.k, layer.v)]
        torch.testing.assert_close(torch.cat(parts, dim=-1), block.qkv(x), **CLOSE)


@pytest.mark.thorough(but=("clip", "open_clip", "siglip"))
@pytest.mark.parametrize("name", ALL)
def test_the_split_projections_are_the_ones_that_compute(backbone, name):
    tower = backbone(name)
    before = outputs(tower)
    for layer in quietly_split(tower):
        for path in (layer.q, layer.k, layer.v, layer.out):
            linear = tower.model.get_submodule(path)
            old = linear.weight.clone()
            with torch.no_grad():
                linear.weight.add_(torch.randn(linear.weight.shape) * linear.weight.std())
            after = outputs(tower)
            changed = {key for key in after if not torch.allclose(after[key], before[key], **CLOSE)}
            expected = {"image", "hidden", "image_blocks"} if layer.tower == "image" else {"text", "tokens", "prompt"}
            assert expected & set(after) <= changed, path
            with torch.no_grad():
                linear.weight.copy_(old)
        if name in ("embedded", "open_clip-timm"):
            break  # one block of the larger ones


def test_gradients_are_those_of_the_packed_weights(backbone):
    tower, twin = backbone("open_clip"), backbone("open_clip")
    (layer, *_) = split_attention(twin)
    for model in (tower, twin):
        model.model.requires_grad_(True)
        pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        (model.encode_image(pixels)[:, 0].sum() + model.encode_tokens(model.tokenize(TEXTS))[:, 1].sum()).backward()
    packed = tower.model.visual.transformer.resblocks[0].attn
    parts = [twin.model.get_submodule(path) for path in (layer.q, layer.k, layer.v)]
    torch.testing.assert_close(torch.cat([part.weight.grad for part in parts]), packed.in_proj_weight.grad, **CLOSE)
    torch.testing.assert_close(torch.cat([part.bias.grad for part in parts]), packed.in_proj_bias.grad, **CLOSE)


@pytest.mark.parametrize("name", ["open_clip", "open_clip-timm", "clip", "chinese_clip", "embedded"])
def test_splitting_twice_is_splitting_once(backbone, name):
    tower = backbone(name)
    layers = quietly_split(tower)
    kinds, linear = kinds_of(tower), tower.model.get_submodule(layers[0].q)
    assert quietly_split(tower) == layers
    assert kinds_of(tower) == kinds and tower.model.get_submodule(layers[0].q) is linear


def test_only_the_asked_towers_are_split(backbone):
    tower = backbone("open_clip")
    assert {layer.tower for layer in split_attention(tower, ("text",))} == {"text"}
    assert isinstance(tower.model.visual.transformer.resblocks[0].attn, nn.MultiheadAttention)
    assert {layer.tower for layer in split_attention(tower, "image")} == {"image"}
    assert [layer.tower for layer in split_attention(tower, ("text", "image"))] == ["text"] * 2 + ["image"] * 2
    with pytest.raises(ConfigError, match=r'towers=\["audio"\]'):
        split_attention(tower, ("audio",))
    with pytest.raises(ConfigError, match="give image, text or both"):
        split_attention(tower, ())


def test_attention_that_pools_is_no_block(backbone):
    for name, pool in (("open_clip-coca", "visual.attn_pool.attn"), ("siglip", "vision_model.head.attention")):
        tower = backbone(name)
        split_attention(tower)
        assert type(tower.model.get_submodule(pool)) is nn.MultiheadAttention


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_a_tower_without_attention_is_told_of(backbone, name):
    tower = backbone(name)
    kinds = kinds_of(tower)
    with pytest.raises(CapabilityError, match="no attention that can be split in its image tower; choose"):
        split_attention(tower, ("image",))
    assert kinds_of(tower) == kinds
    with pytest.warns(UserWarning, match="its image tower has no attention that can be split; it is left unchanged"):
        split_attention(tower)


@pytest.mark.parametrize("name", ["open_clip", "open_clip-timm"])
def test_what_trains_and_the_mode_are_kept_there_and_back(backbone, name):
    tower = backbone(name)
    tower.model.train()
    tower.model.visual.requires_grad_(True)
    trained = {key for key, p in tower.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        layers = split_attention(tower)
        for layer in layers:
            parts = [tower.model.get_submodule(path) for path in (layer.q, layer.k, layer.v, layer.out)]
            assert {p.requires_grad for part in parts for p in part.parameters()} == {layer.tower == "image"}
            assert all(part.training for part in parts)
        merge_attention(tower)
    assert {key for key, p in tower.model.named_parameters() if p.requires_grad} == trained
    assert all(module.training for module in tower.model.modules())


def test_splitting_draws_no_random_number(backbone):
    tower = backbone("open_clip-timm")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    split_attention(tower)
    merge_attention(tower)
    assert torch.equal(torch.rand(1), expected)


def test_trained_weights_load_into_the_library_under_its_names(backbone):
    tower = backbone("open_clip")
    split_attention(tower)
    with torch.no_grad():
        for parameter in tower.model.parameters():
            parameter.mul_(1.1)
    other, pixels = backbone("open_clip"), torch.randn(1, 3, 32, 32)
    expected = tower.encode_image(pixels)
    merge_attention(tower)
    other.model.load_state_dict(tower.model.state_dict())
    torch.testing.assert_close(other.encode_image(pixels), expected, **CLOSE)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", ["none", "added", "bool", "each head"])
def test_it_is_called_as_multi_head_attention_is(batch_first, bias, mask):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, bias=bias, batch_first=batch_first)
    if bias:
        nn.init.normal_(attention.in_proj_bias)
    query, other = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    seen = {
        "none": None,
        "added": torch.randn(5, 7),
        "bool": torch.rand(5, 7) > 0.7,
        "each head": torch.randn(12, 5, 7),
    }[mask]
    if not batch_first:
        query, other = query.transpose(0, 1), other.transpose(0, 1)
    expected, _ = attention(query, other, other + 1, need_weights=False, attn_mask=seen)
    given, weights = SplitAttention(attention)(query, other, other + 1, need_weights=False, attn_mask=seen)
    torch.testing.assert_close(given, expected, **CLOSE)
    assert weights is None


def test_dropout_of_the_weights_is_kept_and_only_trains():
    attention = nn.MultiheadAttention(16, 4, dropout=0.5, batch_first=True)
    split = SplitAttention(attention)
    x = torch.randn(1, 5, 16)
    assert not torch.allclose(split(x, x, x)[0], split(x, x, x)[0])
    split.eval()
    assert torch.equal(split(x, x, x)[0], split(x, x, x)[0])
    assert split.merged().dropout == 0.5


def test_weights_of_attention_are_refused_in_one_line():
    split = SplitAttention(nn.MultiheadAttention(16, 4))
    x = torch.randn(5, 1, 16)
    with pytest.raises(CapabilityError, match="keeps no weight matrix"):
        split(x, x, x, need_weights=True)


def test_it_runs_under_autocast(backbone):
    tower = backbone("open_clip")
    split_attention(tower)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = tower.encode_tokens(tower.tokenize(TEXTS))
    assert torch.isfinite(half).all()
    torch.testing.assert_close(half.float(), tower.encode_tokens(tower.tokenize(TEXTS)), atol=0.1, rtol=0.1)


def test_a_bert_inside_open_clip_has_its_projections_apart(small, tmp_path):
    import open_clip
    import transformers
    from safetensors.torch import save_file

    folder = tmp_path / "bert"
    transformers.BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    ).save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_model_pretrained": False, "hf_proj_type": "linear"}
    config = {**small.open_clip_config(), "text_cfg": {**text, "hf_pooler_type": "cls_pooler"}}
    model = open_clip.model.CustomTextCLIP(**copy.deepcopy(config))
    (tmp_path / "c.json").write_text(json.dumps(config))
    save_file(
        {key: value.contiguous().clone() for key, value in model.state_dict().items()}, tmp_path / "c.safetensors"
    )
    tower = load_backbone(f"open_clip:{tmp_path / 'c.json'}@{tmp_path / 'c.safetensors'}", "cpu")
    layers = split_attention(tower, ("text",))
    assert [layer.q for layer in layers] == [
        f"text.transformer.encoder.layer.{i}.attention.self.query" for i in range(2)
    ]
