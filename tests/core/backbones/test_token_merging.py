"""Token merging in image towers: the public code's numbers, each family beside a loop that is written out, and what it
means for a backbone: its fingerprint, what is open of it, what is trained and saved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import faster_towers
from torchvision.models import VisionTransformer
from transformers import AutoModel, Dinov2Config, Dinov2WithRegistersConfig

from vladapt import Backbone
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.spec_options import Reduction
from vladapt.core.backbones.specs import bare, check_spec, find_published, split_options, with_own_code
from vladapt.core.backbones.split_attention import split_attention
from vladapt.core.backbones.stretching import stretch_context
from vladapt.core.backbones.token_merging import TokenMerge
from vladapt.core.contracts.backbone import offered
from vladapt.core.errors import CapabilityError, ConfigError, UnknownNameError
from vladapt.core.sharing.card import base_model
from vladapt.core.training.layers import TowerLayers

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
NAMES = ("clip", "mean", "timm", "no class token", "registers", "hf", "siglip", "naflex", "dinov2", "torchvision")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def specs(tmp_path_factory, hf_folder, small):
    """name -> spec of a small tower, made once."""
    made = {}

    def of(name: str) -> str:
        if name not in made or name == "torchvision":  # of this process, and forgotten after each test
            made[name] = _spec(name)
        return made[name]

    def _spec(name: str) -> str:
        changes = {"clip": {}, "mean": {"pool_type": "avg"}}
        if name in changes:
            folder = tmp_path_factory.mktemp(name)
            return small.write_open_clip(folder, small.open_clip_config(changes[name]), seed=3)
        if name == "torchvision":
            torch.manual_seed(2)
            own = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)
            own.heads = torch.nn.Identity()
            return offered(Backbone.from_module(own, image_size=32, embed_dim=16))
        timm = {"timm": "test_vit", "no class token": "test_vit2"}
        if name in timm:
            return f"timm:{timm[name]}@random:1"
        dino = {"dinov2": Dinov2Config, "registers": Dinov2WithRegistersConfig}
        if name in dino:
            tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
            config = dino[name](**tower, image_size=32, patch_size=8)
            folder = tmp_path_factory.mktemp(name)
            small.scrambled(AutoModel.from_config(config), 4).save_pretrained(folder)
            return f"hf:{folder}"
        kinds = {"hf": "clip", "siglip": "siglip", "naflex": "siglip2"}
        return f"hf:{hf_folder(kinds[name])}"

    return of


def pixels(backbone, count=2):
    return drawn(count, 3, *backbone.transform.sides, seed=5)


def literally(plain, images, counts, proportional=True):
    """(B, N, W) after the last block, each image alone, tokens merged one after the other."""
    rows = []
    for image in images:
        x, prefix = plain.embed_image(image[None])[0], plain.image_prefix
        groups = [[place] for place in range(len(x))]
        count_at_first = len(x)
        for block, count in zip(plain.blocks("image"), counts, strict=True):
            sizes = torch.tensor([float(len(group)) for group in groups])
            query, key, value = block.qkv(block.ln_1(x)).view(len(x), 3, block.num_heads, -1).permute(1, 2, 0, 3)
            scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5 + (sizes.log() if proportional else 0)
            mixed = (scores.softmax(dim=-1) @ value).transpose(0, 1).flatten(1)
            # Attention's output projection and layer scale: those of a sequence that attends to itself alone, token by
            # token, by values that are what was mixed.
            alone = torch.cat([torch.zeros(len(mixed), 2 * mixed.shape[1]), mixed], dim=1)[:, None]  # (T, 1, 3 W)
            x = x + block.attended(alone)[:, 0]
            x, groups = _merged(x, key.mean(dim=0), groups, sizes, count, prefix)
            x = block(x[None], attention=torch.zeros_like)[0]
        whole = torch.empty(count_at_first, x.shape[1])
        for token, group in zip(x, groups, strict=True):
            whole[group] = token
        rows.append(whole)
    return torch.stack(rows)


def _merged(x, keys, groups, sizes, count, prefix):
    unit = keys / keys.norm(dim=1, keepdim=True)
    evens = [place for place in range(prefix, len(x)) if place % 2 == 0]
    odds = [place for place in range(prefix, len(x)) if place % 2 == 1]
    count = min(count, (len(x) - prefix) // 2)
    best = {place: max(odds, key=lambda other: float(unit[place] @ unit[other])) for place in evens}
    ranked = sorted(evens, key=lambda place: -float(unit[place] @ unit[best[place]]))
    moved, x, sums = ranked[:count], x.clone(), sizes.clone()
    x = x * sizes[:, None]
    groups = [list(group) for group in groups]
    for place in moved:
        x[best[place]] += x[place]
        sums[best[place]] += sizes[place]
        groups[best[place]] += groups[place]
    stay = ranked[count:] if not prefix else sorted(ranked[count:])
    order = [*range(prefix), *stay, *odds]
    return (x / sums[:, None])[order], [groups[place] for place in order]


@pytest.mark.parametrize("comparison", [each for each in faster_towers.GROUPS if each.method == "token-merging"])
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_each_family_merges_as_a_loop_that_is_written_out(specs, name):
    size = 64 if specs(name).startswith("timm:") else None  # instead of 160: the loop is slow
    plain = load_backbone(specs(name), "cpu", size)
    merging = load_backbone(f"{specs(name)}#merge=3", "cpu", size)
    images = pixels(plain)
    whole = literally(plain, images, [3] * len(plain.blocks("image")))
    torch.testing.assert_close(merging.encode_image(images, False), plain.pool_image(whole, False), **CLOSE)
    tokens, grid = merging.image_tokens(images)
    torch.testing.assert_close(tokens, plain.project_patches(whole), **CLOSE)
    assert tokens.shape[1] == grid[0] * grid[1]
    if name != "no class token":  # its layer scales start near zero
        assert not torch.allclose(merging.encode_image(images), plain.encode_image(images), atol=1e-4)
    outputs = merging.image_outputs(images, frozenset({"image_features", "image_hidden", "image_tokens"}))
    torch.testing.assert_close(outputs["image_features"], merging.encode_image(images))
    torch.testing.assert_close(outputs["image_hidden"], merging.hidden(images))
    torch.testing.assert_close(outputs["image_tokens"], tokens)


@torch.no_grad()
def test_every_part_of_the_option_changes_the_features_and_the_fingerprint(specs):
    options = ("", "#merge=2", "#merge=3", "#merge=3:-1", "#merge=3:plain", "#merge=3/0", "#merge=0/3")
    made = [load_backbone(f"{specs('mean')}{option}", "cpu") for option in options]
    features = [backbone.encode_image(pixels(made[0])) for backbone in made]
    assert len({backbone.fingerprint for backbone in made}) == len(options)
    assert made[3].spec.endswith("#merge=3:-1")
    gaps = [(one - other).abs().max() for place, one in enumerate(features) for other in features[:place]]
    assert min(gaps) > 1e-5


def test_what_lies_between_blocks_is_open_no_more(specs):
    backbone = load_backbone(f"{specs('clip')}#merge=2", "cpu")
    assert backbone.capabilities >= {"hidden", "image_tokens", "prompt", "text_blocks"}
    for inside in (lambda: backbone.blocks("image"), lambda: backbone.feature_maps(pixels(backbone))):
        with pytest.raises(CapabilityError, match=r"merges tokens from block to block.*without #merge"):
            inside()
    torch.testing.assert_close(
        backbone.encode_text(["a cat"]), load_backbone(specs("clip"), "cpu").encode_text(["a cat"])
    )


@pytest.mark.parametrize("spec", ["timm:eva02_tiny_patch14_224@random:0", "timm:test_resnet@random:0", "embedded"])
def test_towers_whose_tokens_cannot_be_merged_say_so_before_they_are_built(spec):
    with pytest.raises(CapabilityError, match="omit #merge"):
        load_backbone(f"{spec}#merge=4", "cpu")


@pytest.mark.parametrize("value", ["", "x", "0", "-3", "3:2", "3:nan", "3:", "3/2:1", "3:plain:1", "1e3", "3//2"])
def test_a_value_that_is_none_is_one_line(value):
    with pytest.raises(ConfigError, match="#merge=R"):
        check_spec(f"embedded#merge={value}")


def test_what_stands_behind_a_spec_is_told_from_the_spec(tmp_path):
    assert split_options("a#merge=13") == ("a", Reduction((13,))) and bare("join:a#merge=13+b") == "join:a#merge=13+b"
    assert find_published("openai-b-32#merge=13") == find_published("openai-b-32")
    (tmp_path / "a#merge=3").mkdir()
    assert bare(str(tmp_path / "a#merge=3")) == str(tmp_path / "a#merge=3")  # a folder that is there wins
    (tmp_path / "b#lr=3").mkdir()
    assert bare(f"hf:{tmp_path / 'b#lr=3'}") == f"hf:{tmp_path / 'b#lr=3'}"
    with pytest.raises(UnknownNameError, match="no option 'marge'; did you mean merge"):
        bare("a#marge=3")
    with pytest.raises(ConfigError, match="has two options"):
        bare("a#merge=3#merge=4")


OWN_CODE = """
import torch
from torchvision.models import VisionTransformer
from vladapt import Backbone

def make():
    torch.manual_seed(0)
    own = VisionTransformer(image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=24)
    own.heads = torch.nn.Identity()
    return Backbone.from_module(own, image_size=32, embed_dim=16)
"""


def test_code_of_the_users_own_takes_the_option_too(tmp_path):
    (tmp_path / "own.py").write_text(OWN_CODE)
    spec = with_own_code(f"{tmp_path / 'own.py'}:make#merge=3, embedded")
    assert spec == "own.py:make#merge=3,embedded"
    assert load_backbone(spec.partition(",")[0], "cpu").reduction == Reduction((3,))


def test_a_card_names_the_published_model_that_merges():
    assert base_model("openai-vit-b-16#merge=13") == base_model("openai-vit-b-16") is not None


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 99), min_size=1, max_size=4).filter(lambda counts: sum(counts) > 0),
    inflection=st.sampled_from([-1.0, -0.5, 0.0, 0.123456789, 1.0]),
    proportional=st.booleans(), blocks=st.integers(1, 24),
)  # fmt: skip
def test_an_option_is_read_as_it_is_written(counts, inflection, proportional, blocks):
    reduction = Reduction(tuple(counts), inflection if len(counts) == 1 else 0.0, proportional)
    assert Reduction.of(str(reduction)) == reduction
    made = reduction.per_block(blocks)
    assert len(made) == blocks and min(made) >= 0
    if len(counts) == 1:
        assert counts[0] * blocks - blocks <= sum(made) <= counts[0] * blocks


def test_a_tower_trains_with_merging_and_the_same_with_activations_computed_again(specs):
    """In both the gradients are those of central differences in one direction of one weight."""
    gradients = []
    for again in (False, True):
        backbone = load_backbone(f"{specs('clip')}#merge=3", "cpu")
        split_attention(backbone, "image")
        if again:
            TowerLayers(backbone).checkpoint()
        backbone.model.train().requires_grad_(True)
        backbone.encode_image(pixels(backbone))[:, 0].sum().backward()
        weights = {name: weight for name, weight in backbone.model.named_parameters() if weight.grad is not None}
        assert any("resblocks.0" in name for name in weights)
        gradients.append({name: weight.grad.clone() for name, weight in weights.items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, **CLOSE)
    name, step = "visual.transformer.resblocks.0.mlp.c_fc.bias", 1e-3
    with torch.no_grad():
        weight, sums = backbone.model.get_parameter(name), []
        for sign in (1, -2):
            weight[3] += sign * step
            sums.append(float(backbone.encode_image(pixels(backbone))[:, 0].double().sum()))
    assert (sums[0] - sums[1]) / (2 * step) == pytest.approx(float(gradients[0][name][3]), rel=0.05, abs=1e-3)


@torch.no_grad()
def test_what_was_trained_with_merging_merges_when_it_is_loaded_again(specs, tmp_path):
    backbone = load_backbone(f"{specs('clip')}#merge=3:plain", "cpu")
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path)), "cpu")
    images = pixels(backbone)
    torch.testing.assert_close(again.encode_image(images), backbone.encode_image(images))
    assert again.reduction == Reduction((3,), proportional=False) and "image_blocks" not in again.capabilities
    with pytest.raises(ConfigError, match="was trained with #merge=3:plain"):
        load_backbone(f"{tmp_path / 'model.safetensors'}#merge=2", "cpu")


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 12), count=st.integers(0, 9), seed=st.integers(0, 99), protected=st.integers(0, 5),
    together=st.booleans(),
)  # fmt: skip
def test_merging_keeps_the_weighted_sum_and_what_is_protected(tokens, count, seed, protected, together):
    x, sizes = drawn(2, 3, tokens, 3, seed=seed), torch.arange(1.0, tokens + 1).expand(2, 3, -1)[..., None]
    merge = TokenMerge.matching(drawn(2, 3, tokens, 5, seed=seed + 1), count, protected=protected, together=together)
    expected = min(count, max(0, (tokens - protected) // 2))
    assert (merge is None) == (expected == 0)
    if merge is None:
        return
    made, total = merge.means(x, sizes)
    assert made.shape[2] == tokens - expected
    torch.testing.assert_close((made * total).sum(dim=2), (x * sizes).sum(dim=2))
    torch.testing.assert_close(made[:, :, :protected], x[:, :, :protected])
    assert torch.equal(total[:, :, :protected], sizes[:, :, :protected])
    spread = made.gather(2, merge.source(tokens)[..., None].expand_as(x))
    torch.testing.assert_close(spread.mul(sizes).sum(dim=2), x.mul(sizes).sum(dim=2))
    if together:
        assert all(torch.equal(each, each[:, :1].expand_as(each)) for each in (merge.staying, merge.joined, merge.into))


def test_the_most_similar_are_merged():
    """Three tokens of one kind and three of another, two of which point the same way exactly."""
    metric = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])][None, None]
    metric = metric + 0.01 * drawn(1, 1, 6, 3)
    metric[..., 3, :] = 2 * metric[..., 0, :]
    merge = TokenMerge.matching(metric, 1)
    assert merge.joined.item() == 0 and merge.into.item() == 1  # the tokens 0 and 3, of the even and of the odd ones
    made, sizes = merge.means(torch.arange(6.0).view(1, 1, 6, 1), None)
    assert made.flatten().tolist() == [2, 4, 1, 1.5, 5] and sizes.flatten().tolist() == [1, 1, 1, 2, 1]


@torch.no_grad()
def test_half_precision_merges_too(specs):
    backbone = load_backbone(f"{specs('mean')}#merge=3", "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.encode_image(pixels(backbone))
    torch.testing.assert_close(half, backbone.encode_image(pixels(backbone)), atol=0.1, rtol=0.1)


def test_a_longer_context_leaves_merging_in_the_fingerprint(specs):
    plain, merging = (load_backbone(f"{specs('clip')}{option}", "cpu") for option in ("", "#merge=3"))
    for backbone in (plain, merging):
        stretch_context(backbone, keep=4, factor=2)
    assert plain.fingerprint != merging.fingerprint
