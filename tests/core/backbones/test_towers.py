"""What is inside: every family's towers, opened step by step, are the towers the library runs whole."""

import copy

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.tower_steps import attend
from vladapt.core.errors import CapabilityError, ConfigError

TEXTS = ["a photo of a cat", "the small green sea lake . dog", "dog"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIGLIP_TEXT = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
SIGMOID = {"custom_text": True, "init_logit_bias": -10}
COCA_POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
# Changes to the vision part, the text part and the top of the small configuration.
OPEN_CLIP_VARIANTS = {
    "open_clip": ({}, {}, {}),
    "open_clip-siglip": ({"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}, SIGLIP_TEXT, SIGMOID),
    "open_clip-coca": (COCA_POOL, {}, {}),
    "open_clip-scaled": ({"ls_init_value": 0.1}, {"ls_init_value": 0.1}, {}),
    "open_clip-timm": (TIMM, {}, {"custom_text": True}),
    "open_clip-resnet": ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}, {}, {}),
}
HF_KINDS = ("clip", "siglip", "siglip2", "chinese_clip", "altclip", "align", "owlvit", "owlv2")
ALL = [*OPEN_CLIP_VARIANTS, *HF_KINDS]
WITH_IMAGE_BLOCKS = [name for name in ALL if name not in ("open_clip-resnet", "align")]
TRIMMING = [name for name in ALL if name not in ("open_clip-siglip", "siglip", "siglip2")]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, hf_folder, small):
    """name -> backbone, made once."""
    made = {}

    def named(name):
        if name not in made:
            if name in OPEN_CLIP_VARIANTS:
                vision, text, top = OPEN_CLIP_VARIANTS[name]
                config = small.open_clip_config(vision, text, **top)
                spec = small.write_open_clip(tmp_path_factory.mktemp("variant"), config, seed=2)
            else:
                spec = f"hf:{hf_folder(name)}"
            made[name] = load_backbone(spec, "cpu")
        return made[name]

    return named


def pixels_of(backbone, count=2):
    size = backbone.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", WITH_IMAGE_BLOCKS)
def test_all_image_blocks_are_encode_image(backbone, name):
    tower = backbone(name)
    pixels = pixels_of(tower)
    x = tower.run_blocks("image", tower.embed_image(pixels))
    whole = tower.encode_image(pixels, normalize=False)
    torch.testing.assert_close(tower.pool_image(x, normalize=False), whole, **CLOSE)
    torch.testing.assert_close(tower.pool_image(x), F.normalize(whole, dim=-1), **CLOSE)
    half = len(tower.blocks("image")) // 2
    again = tower.run_blocks("image", tower.run_blocks("image", tower.embed_image(pixels), 0, half), half)
    torch.testing.assert_close(again, x, **CLOSE)


@pytest.mark.parametrize("name", ALL)
def test_all_text_blocks_are_the_librarys_text_tower(backbone, name):
    tower = backbone(name)
    tokens = tower.tokenize(TEXTS)
    mask = tower.token_mask(tokens)
    x = tower.run_blocks("text", tower.embed_prompt(tower.embed_tokens(tokens), mask), mask=mask)
    native = tower.encode_tokens(tokens)
    assert native.std() > 0.1
    torch.testing.assert_close(tower.pool_text(x, mask, normalize=False), native, **CLOSE)
    torch.testing.assert_close(tower.encode_text(TEXTS, normalize=False), native, **CLOSE)
    torch.testing.assert_close(tower.encode_text(tokens), F.normalize(native, dim=-1), **CLOSE)
    torch.testing.assert_close(tower.encode_prompt(tower.embed_tokens(tokens), mask, False), native, **CLOSE)


@pytest.mark.parametrize("name", TRIMMING)
def test_trimming_changes_neither_features_nor_gradients(backbone, name):
    tower = backbone(name)
    tokens = tower.tokenize(TEXTS)
    mask = tower.token_mask(tokens)
    longest = int(mask.sum(dim=1).max())
    assert longest < tower.context_length
    ways = []
    for length in (tower.context_length, longest):
        words = tower.embed_tokens(tokens[:, :length]).detach().requires_grad_()
        features = tower.encode_prompt(words, mask[:, :length])
        weight = torch.linspace(-1, 1, features.numel()).view_as(features)
        (features * weight).sum().backward()
        ways.append((features, words.grad))
    torch.testing.assert_close(ways[0][0], ways[1][0], **CLOSE)
    torch.testing.assert_close(ways[0][1][:, :longest], ways[1][1], **CLOSE)
    assert ways[1][1].abs().max() > 1e-3
    assert ways[0][1][:, longest:].abs().max() == 0


@pytest.mark.parametrize("name", sorted(set(ALL) - set(TRIMMING)))
def test_a_tower_that_reads_padding_refuses_a_trimmed_prompt(backbone, name):
    tower = backbone(name)
    tokens = tower.tokenize(TEXTS)[:, :8]
    assert "trim" not in tower.capabilities
    assert tower.token_mask(tokens).all()
    with pytest.raises(CapabilityError, match="all 16 positions"):
        tower.encode_prompt(tower.embed_tokens(tokens), tower.token_mask(tokens))


@pytest.mark.parametrize("name", ["open_clip", "clip", "siglip", "altclip"])
def test_a_prompt_longer_than_the_context_is_refused(backbone, name):
    tower = backbone(name)
    words = torch.zeros(1, 17, 32)
    with pytest.raises(ConfigError, match="17 tokens does not fit"):
        tower.encode_prompt(words, torch.ones(1, 17, dtype=torch.bool))


@pytest.mark.parametrize("name", ["open_clip", "clip"])
def test_end_of_text_is_the_last_valid_position_wherever_padding_is(backbone, name):
    tower = backbone(name)
    tokens = tower.tokenize(["dog"])
    words, mask = tower.embed_tokens(tokens), tower.token_mask(tokens)
    noisy = torch.where(mask[..., None], words, torch.randn(words.shape))
    torch.testing.assert_close(tower.encode_prompt(noisy, mask), tower.encode_prompt(words, mask), **CLOSE)
    shorter = mask & (torch.arange(16) < mask.sum() - 1)
    assert (tower.encode_prompt(words, shorter) - tower.encode_prompt(words, mask)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["chinese_clip", "altclip", "align"])
def test_masked_towers_do_not_look_at_padding(backbone, name):
    tower = backbone(name)
    tokens = tower.tokenize(["dog"])
    words, mask = tower.embed_tokens(tokens), tower.token_mask(tokens)
    noisy = torch.where(mask[..., None], words, torch.randn(words.shape))
    torch.testing.assert_close(tower.encode_prompt(noisy, mask), tower.encode_prompt(words, mask), **CLOSE)
    every = torch.ones_like(mask)
    assert (tower.encode_prompt(noisy, every) - tower.encode_prompt(words, mask)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["open_clip", "open_clip-timm", "open_clip-scaled", "clip", "siglip"])
def test_hooks_replace_attention_and_insert_prompts(backbone, name):
    tower = backbone(name)
    x = tower.embed_image(pixels_of(tower))
    plain = tower.run_blocks("image", x)
    seen = []

    def same(i, block, normal):
        seen.append(i)
        return block.out(attend(block.qkv(normal), block.num_heads))

    def values_only(i, block, normal):
        return block.out(block.qkv(normal).chunk(3, dim=-1)[2])

    torch.testing.assert_close(tower.run_blocks("image", x, attention=same), plain, **CLOSE)
    assert seen == list(range(len(tower.blocks("image"))))
    assert (tower.run_blocks("image", x, attention=values_only) - plain).abs().max() > 1e-2
    last = len(tower.blocks("image")) - 1
    prompts = torch.randn(1, 3, x.shape[-1])

    def prompted(i, x):
        return torch.cat([x, prompts.expand(len(x), -1, -1)], dim=1) if i == last else x

    longer = tower.run_blocks("image", x, insert=prompted)
    assert longer.shape[1] == x.shape[1] + 3
    assert (longer[:, : x.shape[1]] - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["open_clip", "clip", "altclip"])
def test_hooks_reach_the_text_tower(backbone, name):
    tower = backbone(name)
    tokens = tower.tokenize(TEXTS)
    mask = tower.token_mask(tokens)
    x = tower.embed_prompt(tower.embed_tokens(tokens), mask)
    causal = tower._text.causal

    def same(i, block, given):
        return block.out(attend(block.qkv(given), block.num_heads, None if causal else mask, causal))

    plain = tower.run_blocks("text", x, mask=mask)
    torch.testing.assert_close(tower.run_blocks("text", x, mask=mask, attention=same), plain, **CLOSE)
    moved = tower.run_blocks("text", x, mask=mask, insert=lambda i, x: x * 2)
    assert (moved - plain).abs().max() > 1e-2


def test_blocks_can_be_numbered_from_the_end(backbone):
    tower = backbone("clip")
    x = tower.embed_image(pixels_of(tower))
    torch.testing.assert_close(tower.run_blocks("image", x, -1), tower.blocks("image")[-1](x), **CLOSE)


@pytest.mark.parametrize("name", ALL)
def test_hidden_is_before_and_tokens_are_after_the_projection(backbone, name):
    tower = backbone(name)
    pixels = pixels_of(tower)
    hidden = tower.hidden(pixels)
    projected = F.normalize(tower._image.project(hidden), dim=-1)
    torch.testing.assert_close(projected, tower.encode_image(pixels), **CLOSE)
    tokens, (height, width) = tower.image_tokens(pixels)
    assert tokens.shape == (2, height * width, tower.embed_dim)
    assert torch.isfinite(tokens).all() and tokens.std(dim=1).max() > 1e-3
    maps = tower.feature_maps(pixels)
    assert [m.ndim for m in maps] == [4] * len(maps)
    assert maps[-1].shape[-2:] == (height, width)
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("name", ["open_clip", "clip"])
def test_tokens_lie_where_their_patch_is(backbone, name):
    tower = backbone(name)
    pixels = torch.zeros(1, 3, 32, 32)
    changed = pixels.clone()
    changed[..., 8:16, 24:32] = 3.0  # row 1, column 3 of a 4 x 4 grid
    near, far = (tower.run_blocks("image", tower.embed_image(p), 0, 0) for p in (pixels, changed))
    assert (near - far).abs().sum(-1)[0].nonzero().flatten().tolist() == [1 + 1 * 4 + 3]
    shallow, altered = (tower.feature_maps(p)[0] for p in (pixels, changed))
    assert (shallow - altered).abs().sum(1)[0].flatten().argmax() == 1 * 4 + 3


@pytest.mark.parametrize("name", ["open_clip-resnet", "align"])
def test_a_convolutional_tower_has_no_blocks_and_names_families_that_do(backbone, name):
    tower = backbone(name)
    for ask in (
        lambda: tower.blocks("image"),
        lambda: tower.embed_image(pixels_of(tower)),
        lambda: tower.run_blocks("image", torch.zeros(1, 2, 32)),
        lambda: tower.pool_image(torch.zeros(1, 2, 32)),
    ):
        with pytest.raises(CapabilityError, match=r"transformer blocks of the image tower; towers that have it: .*hf"):
            ask()


def test_a_tower_of_another_name_is_refused(backbone):
    with pytest.raises(ConfigError, match="'audio' is not known"):
        backbone("clip").blocks("audio")


@pytest.mark.parametrize("name", ["open_clip-siglip", "siglip", "siglip2"])
def test_sigmoid_models_have_a_bias(backbone, name):
    tower = backbone(name)
    assert tower.logit_bias.shape == () and tower.logit_scale.shape == ()
    assert tower.logit_scale > 0
    assert torch.equal(tower.logit_bias, tower.model.logit_bias.reshape(()))


def test_softmax_models_have_none_and_align_divides_by_its_temperature(backbone):
    assert backbone("clip").logit_bias is None
    align = backbone("align")
    torch.testing.assert_close(align.logit_scale, 1 / align.model.temperature)


@pytest.mark.parametrize("name", ["open_clip", "clip"])
def test_a_copy_runs_on_its_own_weights(backbone, name):
    tower = backbone(name)
    pixels = pixels_of(tower)
    tower.blocks("image")  # opened before the copy
    twin = copy.deepcopy(tower)
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.mul_(1.5)
    inside = twin.pool_image(twin.run_blocks("image", twin.embed_image(pixels)))
    torch.testing.assert_close(inside, twin.encode_image(pixels), **CLOSE)
    assert (inside - tower.encode_image(pixels)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["open_clip", "clip", "siglip"])
def test_training_reaches_every_block(backbone, name):
    tower = copy.deepcopy(backbone(name))
    tower.model.requires_grad_(True)
    tokens = tower.tokenize(TEXTS)
    mask = tower.token_mask(tokens)
    x = tower.run_blocks("image", tower.embed_image(pixels_of(tower)))
    (tower.pool_image(x).sum() + tower.encode_prompt(tower.embed_tokens(tokens), mask).sum()).backward()
    without = [key for key, p in tower.model.named_parameters() if p.grad is None]
    assert [key for key in without if not key.startswith("logit_")] == []


@pytest.mark.parametrize("name", ["open_clip", "clip"])
def test_towers_built_while_inferring_still_serve_one_that_trains(backbone, name):
    built = load_backbone(backbone(name).spec, "cpu")
    with torch.inference_mode():
        _ = built.model
    tokens = built.tokenize(["a dog"])
    words = built.embed_tokens(tokens).clone().requires_grad_()
    built.encode_prompt(words, built.token_mask(tokens)).sum().backward()
    assert words.grad.abs().sum() > 0


def test_attend_is_softmax_attention():
    qkv = torch.randn(2, 5, 24)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    q, k, v = (part.view(2, 5, 2, 4).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    scores = q @ k.transpose(-1, -2) / 2
    for given, allowed in (
        ({}, torch.ones(2, 1, 5, 5, dtype=torch.bool)),
        ({"mask": mask}, mask[:, None, None].expand(2, 1, 5, 5)),
        ({"causal": True}, torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5)),
    ):
        expected = scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ v
        torch.testing.assert_close(attend(qkv, 2, **given), expected.transpose(1, 2).reshape(2, 5, 8), **CLOSE)


@pytest.mark.parametrize("changes", [{}, {"timm_model_name": "vit_wee_patch16_reg1_gap_256", "timm_pool": "avg"}])
def test_timms_vit_takes_any_size_at_the_positions_that_timm_would_resample(small, tmp_path, changes):
    vision = {**TIMM, **changes, "image_size": 256 if changes else 224}
    spec = small.write_open_clip(tmp_path, small.open_clip_config(vision, {}, custom_text=True), seed=2)
    own, resized = load_backbone(spec, "cpu"), load_backbone(spec, "cpu", image_size=96)
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(own.embed_image(pixels), resized.embed_image(pixels), **CLOSE)
    tokens, grid = own.image_tokens(pixels[..., :64])
    assert grid == (6, 4)
    assert tokens.shape == (2, 24, 24)
