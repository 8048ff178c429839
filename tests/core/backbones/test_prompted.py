"""Learned tokens inside the towers: where they stand, how deep they go, and that nothing else of a tower sees them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, ConfigError
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.positions import insert_after_start
from vladapt.core.backbones.prompted import (
    TowerPrompts,
)
from vladapt.core.prompts.context import PromptLearner
from vladapt.core.training.layers import TowerLayers
from vladapt.core.training.tower_outputs import Outputs
from vladapt.core.training.tower_passes import image_outputs
from vladapt.core.training.tower_weights import copy_of

sys.path.insert(0, str(Path(__file__).parent))

from test_towers import (
    ALL,
    OPEN_CLIP_VARIANTS,
    TEXTS,
    TRIMMING,
    WITH_IMAGE_BLOCKS,
    pixels_of,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
N = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory, hf_folder, small):
    """name -> backbone, made once."""
    made = {}

    def named(name):
        if name not in made:
            spec = f"hf:{hf_folder(name)}" if name not in OPEN_CLIP_VARIANTS else None
            if spec is None:
                vision, text, top = OPEN_CLIP_VARIANTS[name]
                config = small.open_clip_config(vision, text, **top)
                spec = small.write_open_clip(tmp_path_factory.mktemp("variant"), config, seed=2)
            made[name] = load_backbone(spec, "cpu")
        return made[name]

    return named


def tokens(backbone, tower, depth=2, count=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(depth, count, backbone.width(tower), generator=generator)


def prompted(backbone, image=2, text=2, count=N):
    """A copy with tokens in its towers."""
    copied = copy_of(backbone)
    of = {"image": image, "text": text}
    copied.attach_prompts(**{tower: tokens(backbone, tower, depth, count) for tower, depth in of.items() if depth})
    return copied


# What they do, written out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", WITH_IMAGE_BLOCKS)
def test_image_tokens_stand_behind_the_patches(base, name, depth):
    plain = base(name)
    ours, own = prompted(plain, image=depth, text=0), tokens(plain, "image", depth)
    pixels, tower = pixels_of(plain), plain._image

    def insert(block, x):
        if not 0 < block < depth:
            return x
        return torch.cat([x[:, :-N], own[block].expand(len(x), -1, -1)], dim=1)

    x = torch.cat([tower.start(pixels), own[0].expand(len(pixels), -1, -1)], dim=1)
    x = plain.run_blocks("image", tower.enter(x), insert=insert)[:, :-N]
    torch.testing.assert_close(ours.encode_image(pixels), plain.pool_image(x), **CLOSE)
    torch.testing.assert_close(ours.run_blocks("image", ours.embed_image(pixels)), x, **CLOSE)
    torch.testing.assert_close(ours.encode_image(pixels), ours.pool_image(x), **CLOSE)
    torch.testing.assert_close(ours.image_tokens(pixels)[0], tower.project_patches(x), **CLOSE)
    assert not torch.allclose(ours.encode_image(pixels), plain.encode_image(pixels), atol=1e-3)
    assert [m.shape for m in ours.feature_maps(pixels)] == [m.shape for m in plain.feature_maps(pixels)]
    outputs = image_outputs(ours, pixels, frozenset({"image_features", "image_hidden"}))
    torch.testing.assert_close(outputs["image_features"], ours.encode_image(pixels), **CLOSE)
    torch.testing.assert_close(outputs["image_hidden"], ours.hidden(pixels), **CLOSE)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_text_tokens_stand_before_the_words(base, name, depth):
    plain = base(name)
    ours, own = prompted(plain, image=0, text=depth), tokens(plain, "text", depth)
    ids, lead = plain.tokenize(TEXTS), plain.start_tokens()
    mask = plain.token_mask(ids)

    def insert(block, x):
        if not 0 < block < depth:
            return x
        return torch.cat([x[:, :lead], own[block].expand(len(x), -1, -1), x[:, lead + N :]], dim=1)

    first = own[0].expand(len(ids), -1, -1)
    words, seen = insert_after_start(plain.embed_tokens(ids), mask, first, plain.context_length, lead)
    x = plain.run_blocks("text", plain.embed_prompt(words, seen), insert=insert, mask=seen)
    expected = plain.pool_text(torch.cat([x[:, :lead], x[:, lead + N :]], dim=1), seen[:, N:])
    torch.testing.assert_close(ours.encode_text(TEXTS), expected, **CLOSE)
    assert not torch.allclose(expected, plain.encode_text(TEXTS), atol=1e-3)
    assert ours.text_tokens(ids).shape == plain.text_tokens(ids).shape


@pytest.mark.parametrize("name", ALL)
def test_a_tower_without_tokens_stays(base, name):
    plain = base(name)
    pixels = pixels_of(plain)
    torch.testing.assert_close(prompted(plain, image=0).encode_image(pixels), plain.encode_image(pixels))
    if name in WITH_IMAGE_BLOCKS:
        torch.testing.assert_close(prompted(plain, text=0).encode_text(TEXTS), plain.encode_text(TEXTS))


@pytest.mark.parametrize("name", TRIMMING)
def test_padding_means_nothing(base, name):
    ours = prompted(base(name), image=0)
    ids = ours.tokenize(TEXTS)
    mask = ours.token_mask(ids)
    torch.testing.assert_close(ours.encode_prompt(ours.embed_tokens(ids), mask), ours.encode_text(TEXTS), **CLOSE)
    torch.testing.assert_close(ours.encode_text(TEXTS[2:]), ours.encode_text(TEXTS)[2:], **CLOSE)


@pytest.mark.parametrize("name", ALL)
def test_where_words_have_to_go_the_end_stays(base, name):
    """A text that fills the tower: it is as one without the words that have no place."""
    plain = base(name)
    ours = prompted(plain, image=0)
    long = "dog " * 40
    ids = plain.tokenize([long])
    full = int(plain.token_mask(ids).sum())
    assert full == plain.context_length
    ends = int(name not in ("open_clip-siglip", "siglip", "siglip2")) or 1
    kept = torch.cat([ids[:, : full - N - ends], ids[:, full - ends :]], dim=1)
    filled = F.pad(kept, (0, N))
    if name in TRIMMING:
        torch.testing.assert_close(ours.encode_text(ids), ours.encode_text(filled), **CLOSE)
    assert torch.isfinite(ours.encode_text(ids)).all()


def test_other_words_of_a_long_text_change_nothing(base):
    ours = prompted(base("open_clip"), image=0, text=2)
    one, other = "dog " * 20, "dog " * 13 + "cat " * 7
    assert not torch.allclose(base("open_clip").encode_text([one]), base("open_clip").encode_text(["cat " * 20]))
    torch.testing.assert_close(ours.encode_text([one]), ours.encode_text([other]), **CLOSE)


def test_coupled_tokens_are_made_of_the_others(base):
    plain = base("open_clip")
    text = tokens(plain, "text")
    couplings = [torch.nn.Linear(32, 32) for _ in range(2)]
    ours = copy_of(plain)
    prompts = ours.attach_prompts(text=text, couplings=couplings)
    alone = copy_of(plain)
    alone.attach_prompts(text=text, image=torch.stack([layer(text[block]) for block, layer in enumerate(couplings)]))
    pixels = pixels_of(plain)
    torch.testing.assert_close(ours.encode_image(pixels), alone.encode_image(pixels), **CLOSE)
    ours.encode_image(pixels).sum().backward()
    assert prompts.text.tokens.grad.abs().max() > 0 and couplings[1].weight.grad.abs().max() > 0


# How they hang --------------------------------------------------------------------------------------------------------


def test_a_copy_has_tokens_of_its_own(base):
    ours = prompted(base("open_clip"))
    pixels = pixels_of(ours)
    other = copy.deepcopy(ours)
    torch.testing.assert_close(other.encode_image(pixels), ours.encode_image(pixels))
    before = ours.encode_image(pixels)
    with torch.no_grad():
        other.prompts.image.tokens.mul_(-1.0)
    torch.testing.assert_close(ours.encode_image(pixels), before)
    assert not torch.allclose(other.encode_image(pixels), before, atol=1e-3)
    assert other.prompts is other.model.prompts


def test_they_are_parameters_of_the_model_and_of_a_tower(base):
    ours = prompted(base("open_clip"))
    trainable = {name for name, parameter in ours.model.named_parameters() if parameter.requires_grad}
    assert trainable == {"prompts.image.tokens", "prompts.text.tokens"}
    assert [ours.tower_of(name) for name in sorted(trainable)] == ["image", "text"]
    again = TowerPrompts.of(ours.prompts.state_dict())
    assert torch.equal(again.image.tokens, ours.prompts.image.tokens) and int(again.lead) == 1


@pytest.mark.parametrize("name", ["open_clip", "siglip"])
def test_a_file_of_the_towers_has_them(base, tmp_path, name):
    ours = prompted(base(name))
    pixels, texts = pixels_of(ours), TEXTS[2:]
    again = load_backbone(str(save_fine_tuned(ours, tmp_path)), device="cpu")
    torch.testing.assert_close(again.encode_image(pixels), ours.encode_image(pixels))
    torch.testing.assert_close(again.encode_text(texts), ours.encode_text(texts))
    assert not any(parameter.requires_grad for parameter in again.model.parameters())


def test_context_is_learned_through_them(base):
    """What shares the computation of a common beginning knows that tokens stand before it."""
    ours = prompted(base("open_clip"), image=0)
    names = ["sea", "green lake"]
    shared, plain = (PromptLearner(ours, names, n_ctx=2, share=share) for share in (True, False))
    torch.testing.assert_close(shared.encode(), plain.encode())


def test_activations_may_be_recomputed(base):
    gradients = []
    for recompute in (False, True):
        ours = prompted(base("open_clip"))
        if recompute:
            TowerLayers(ours).checkpoint()
        ours.model.train()
        (ours.encode_image(pixels_of(ours)).sum() + ours.encode_text(TEXTS).sum()).backward()
        gradients.append([parameter.grad for parameter in ours.prompts.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, **CLOSE)


def test_where_none_can_hang(base):
    resnet, plain = base("open_clip-resnet"), base("open_clip")
    with pytest.raises(CapabilityError):
        resnet.attach_prompts(image=tokens(plain, "image"))
    with pytest.raises(CapabilityError, match="has learned tokens in its towers;"):
        prompted(plain).attach_prompts(image=tokens(plain, "image"))
    with pytest.raises(ConfigError, match="13 learned tokens leave no room for words"):
        prompted(plain, image=0, count=13)
    odd = copy_of(plain)
    odd._image.__class__ = type("Own", (type(odd._image),), {"embed": lambda self, pixels: pixels})
    with pytest.raises(CapabilityError, match="takes no learned tokens in its towers"):
        odd.attach_prompts(image=tokens(plain, "image"))


def test_log_variances_are_refused(base):
    with pytest.raises(CapabilityError, match="log variances, which towers with learned tokens do not give"):
        Outputs(prompted(base("open_clip")), ["image_log_variance"])


@pytest.mark.parametrize("name", WITH_IMAGE_BLOCKS)
def test_a_copy_has_its_own_towers_and_shares_the_tokenizer(base, name, monkeypatch):
    tower, texts = base(name), ["a dog", "two cats"]
    tokens = tower.tokenize(texts)
    monkeypatch.setattr(type(tower), "build_tokenizer", lambda self: pytest.fail("built again"))
    copied = copy.deepcopy(tower)
    assert torch.equal(copied.tokenize(texts), tokens)
    assert not {p.data_ptr() for p in copied.model.parameters()} & {p.data_ptr() for p in tower.model.parameters()}
    with torch.no_grad():
        torch.testing.assert_close(copied.encode_text(texts), tower.encode_text(texts))
