"""MaskCLIP, SCLIP, ProxyCLIP and CLIPer beside the outputs of their public code, on a tower of two heads."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.backbones.load import load_backbone
from vladapt.domains.open_vocab.modules.segmentors.attention_heads import split_heads, until_last, with_last
from vladapt.domains.open_vocab.modules.segmentors.cliper_features import layer_features
from vladapt.domains.open_vocab.modules.segmentors.maskclip import deny_unlikely, smooth_by_keys, value_features
from vladapt.domains.open_vocab.modules.segmentors.proxyclip import proxied_features
from vladapt.domains.open_vocab.modules.segmentors.sclip import (
    correlative_attention,
    correlative_tokens,
    correlative_weights,
)


@pytest.fixture
def tower(parity_dir):
    return load_backbone(f"open_clip:{parity_dir / 'tiny_vit_mh.json'}@{parity_dir / 'tiny_vit_mh.safetensors'}", "cpu")


@pytest.fixture
def fixture(parity_dir):
    def read(name):
        facts = json.loads((parity_dir / "dev" / f"{name}.json").read_text())
        tensors = load_file(parity_dir / "dev" / f"{name}.safetensors")

        def agrees(ours, key):
            told = facts["tensors"][key]
            torch.testing.assert_close(ours, tensors[key], atol=told["atol"], rtol=told["rtol"])

        return SimpleNamespace(tensors=tensors, agrees=agrees, facts=facts["hyper_parameters"])

    return read


def all_tokens(backbone, x):
    """(B, T, W) -> (B, T, D), the class token too."""
    visual = backbone.model.visual
    return visual.ln_post(x) @ visual.proj


def flat(features):
    return features.flatten(2).transpose(1, 2)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_maskclip_gives_the_features_of_the_reference(tower, fixture):
    found = fixture("dense_maskclip")
    features, keys = value_features(tower, found.tensors["pixels"])
    found.agrees(features, "dense_features")
    found.agrees(keys, "key_tokens")
    unit = torch.nn.functional.normalize(features, dim=1)
    found.agrees(torch.einsum("bdhw,qd->bqhw", unit, found.tensors["text"]), "logits")


def test_maskclip_is_not_the_ordinary_last_block(tower, fixture):
    pixels = fixture("dense_maskclip").tensors["pixels"]
    ordinary, _ = tower.image_tokens(pixels)
    assert (flat(value_features(tower, pixels)[0]) - ordinary).abs().max() > 0.1


def test_maskclip_refines_as_the_reference(fixture):
    found = fixture("dense_maskclip")
    logits, keys = found.tensors["logits"], found.tensors["key_tokens"]
    found.agrees(deny_unlikely(logits, found.facts["pd_thresh"]), "logits_prompt_denoise")
    found.agrees(smooth_by_keys(logits, keys, found.facts["ks_thresh"], released=True), "logits_key_smooth")


def test_maskclip_smooths_by_the_cosines_of_keys_by_default(fixture):
    """The released code makes each channel unit over the places; the paper compares keys."""
    found = fixture("dense_maskclip")
    logits, keys = found.tensors["logits"], found.tensors["key_tokens"]
    ours = smooth_by_keys(logits, keys, 1.0, temperature=10.0)
    probabilities = torch.softmax(10 * logits, dim=1).flatten(2)
    cosines = torch.nn.functional.cosine_similarity(keys[:, :, None], keys[:, None], dim=-1)
    torch.testing.assert_close(ours.flatten(2), probabilities @ cosines, atol=1e-5, rtol=1e-5)
    assert (ours - smooth_by_keys(logits, keys, 1.0, temperature=10.0, released=True)).abs().max() > 0.1


def test_sclip_gives_the_tokens_of_the_reference(tower, fixture):
    found = fixture("dense_sclip")
    x = correlative_tokens(tower, found.tensors["pixels"])
    found.agrees(all_tokens(tower, x), "csa_all")
    found.agrees(tower.pool_image(x, normalize=False), "csa_cls")


def test_sclip_sums_the_two_attentions_of_the_reference(tower, fixture):
    found = fixture("dense_sclip")
    last = tower.blocks("image")[-1]
    query, key, _ = split_heads(last, last.ln_1(until_last(tower, found.tensors["pixels"])))
    found.agrees(correlative_weights(query, key).flatten(0, 1), "csa_attention_last")


def test_ordinary_attention_through_the_same_opening_is_the_tower(tower, fixture):
    found = fixture("dense_sclip")

    def ordinary(block, normal):
        query, key, value = split_heads(block, normal)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return block.out(mixed.transpose(1, 2).flatten(2))

    found.agrees(all_tokens(tower, with_last(tower, found.tensors["pixels"], ordinary)), "vanilla_all")


def test_sclip_on_another_size_is_the_reference_where_positions_are(tower, fixture):
    """The reference stretches its positions by a tenth of a patch more; given its positions, the rest is the same."""
    found = fixture("dense_sclip")
    pixels = found.tensors["pixels_other_size"]
    ours = all_tokens(tower, correlative_tokens(tower, pixels))
    close_to = (ours - found.tensors["csa_all_other_size"]).abs().mean()
    tower.model.visual.positional_embedding.data = found.tensors["interpolated_pos"][0]
    found.agrees(all_tokens(tower, with_last(tower, pixels, correlative_attention)), "csa_all_other_size")
    assert 0 < close_to < 0.1


@pytest.mark.parametrize("grid", ["native", "upsampled"])
@pytest.mark.parametrize(("beta", "gamma"), [(1.2, 3.0), (0.8, 6.0)])
def test_proxyclip_gives_the_features_of_the_reference(tower, fixture, grid, beta, gamma):
    found = fixture("dense_proxyclip")
    pixels, proxy = found.tensors[f"{grid}_pixels"], found.tensors[f"{grid}_external"]
    ours = proxied_features(tower, pixels, proxy, beta=beta, gamma=gamma, over_batch=True)
    found.agrees(flat(ours), f"{grid}_out_b{beta}_g{gamma}")


def test_proxyclip_judges_an_image_alone_by_default(tower, fixture):
    found = fixture("dense_proxyclip")
    pixels, proxy = found.tensors["native_pixels"], found.tensors["native_external"]
    together = proxied_features(tower, pixels, proxy)
    alone = torch.cat([proxied_features(tower, pixels[i : i + 1], proxy[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        proxied_features(tower, pixels[:1], proxy[:1], over_batch=True), together[:1], atol=1e-5, rtol=1e-5
    )
    assert (proxied_features(tower, pixels, proxy, over_batch=True) - together).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["fused", "q-q", "k-k", "v-v", "vanilla", "identity"])
def test_cliper_gives_the_features_of_the_reference(tower, fixture, attention):
    found = fixture("dense_cliper")
    features, weights = layer_features(tower, found.tensors["pixels"], attention, released=True)
    name = {"fused": "fused_attn"}.get(attention, attention.replace("-", "_"))
    found.agrees(features[:, 0], f"features_{name}")
    found.agrees(weights[0], f"attention_{name}")


def test_cliper_balances_its_attention_once_by_default(tower, fixture):
    """The released arithmetic in place does so again for each layer; the first layer is the same either way."""
    found = fixture("dense_cliper")
    once, weights = layer_features(tower, found.tensors["pixels"])
    again, _ = layer_features(tower, found.tensors["pixels"], released=True)
    torch.testing.assert_close(once[0], again[0])
    assert (once[-1] - again[-1]).abs().max() > 1e-4
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
