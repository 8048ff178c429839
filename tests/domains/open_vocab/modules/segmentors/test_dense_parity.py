"""MaskCLIP, SCLIP, ProxyCLIP and CLIPer beside the outputs of their public code, on a tower of two heads."""

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from parity_checks import segmentors

from vladapt.core.training.tower_weights import copy_of
from vladapt.domains.open_vocab.modules.segmentors.attention_heads import split_heads, with_last
from vladapt.domains.open_vocab.modules.segmentors.cliper.features import layer_features
from vladapt.domains.open_vocab.modules.segmentors.maskclip import smooth_by_keys, value_features
from vladapt.domains.open_vocab.modules.segmentors.proxyclip import proxied_features
from vladapt.domains.open_vocab.modules.segmentors.sclip import (
    correlative_attention,
    correlative_tokens,
)


@pytest.fixture
def fixture(references, parity):
    """`reference, tower = fixture(comparison)`"""

    def read(comparison):
        (ref,) = references(comparison)
        return ref, parity.backbone(ref, "tiny_vit_mh")

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


@pytest.mark.parametrize("comparison", segmentors.GROUPS, ids=lambda comparison: comparison.method)
def test_agrees_with_the_public_code(agrees, comparison):
    agrees(comparison)


def test_maskclip_is_not_the_ordinary_last_block(fixture):
    ref, tower = fixture(segmentors.maskclip)
    ordinary, _ = tower.image_tokens(ref["pixels"])
    assert (flat(value_features(tower, ref["pixels"])[0]) - ordinary).abs().max() > 0.1


def test_maskclip_smooths_by_the_cosines_of_keys_by_default(fixture):
    """The released code makes each channel unit over the places; the paper compares keys."""
    ref, _ = fixture(segmentors.maskclip)
    logits, keys = ref["logits"], ref["key_tokens"]
    ours = smooth_by_keys(logits, keys, 1.0, temperature=10.0)
    probabilities = torch.softmax(10 * logits, dim=1).flatten(2)
    cosines = torch.nn.functional.cosine_similarity(keys[:, :, None], keys[:, None], dim=-1)
    torch.testing.assert_close(ours.flatten(2), probabilities @ cosines, atol=1e-5, rtol=1e-5)
    assert (ours - smooth_by_keys(logits, keys, 1.0, temperature=10.0, released=True)).abs().max() > 0.1


def test_ordinary_attention_through_the_same_opening_is_the_tower(fixture):
    ref, tower = fixture(segmentors.sclip)

    def ordinary(block, normal):
        query, key, value = split_heads(block, normal)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return block.out(mixed.transpose(1, 2).flatten(2))

    ref.assert_close(all_tokens(tower, with_last(tower, ref["pixels"], ordinary)), "vanilla_all")


def test_sclip_on_another_size_is_the_reference_where_positions_are(fixture):
    """The reference stretches its positions by a tenth of a patch more; given its positions, the rest is the same."""
    ref, shared = fixture(segmentors.sclip)
    tower, pixels = copy_of(shared), ref["pixels_other_size"]
    ours = all_tokens(tower, correlative_tokens(tower, pixels))
    close_to = (ours - ref["csa_all_other_size"]).abs().mean()
    tower.model.visual.positional_embedding.data = ref["interpolated_pos"][0]
    ref.assert_close(all_tokens(tower, with_last(tower, pixels, correlative_attention)), "csa_all_other_size")
    assert 0 < close_to < 0.1


def test_proxyclip_judges_an_image_alone_by_default(fixture):
    ref, tower = fixture(segmentors.proxyclip)
    grid = ref.keys("(.+)_external")[0][1]
    pixels, proxy = ref[f"{grid}_pixels"], ref[f"{grid}_external"]
    together = proxied_features(tower, pixels, proxy)
    alone = torch.cat([proxied_features(tower, *one) for one in zip(pixels.split(1), proxy.split(1))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        proxied_features(tower, pixels[:1], proxy[:1], over_batch=True), together[:1], atol=1e-5, rtol=1e-5
    )
    assert (proxied_features(tower, pixels, proxy, over_batch=True) - together).abs().max() > 1e-3


def test_cliper_balances_its_attention_once_by_default(fixture):
    """The released arithmetic in place does so again for each layer; the first layer is the same either way."""
    ref, tower = fixture(segmentors.cliper)
    once, weights = layer_features(tower, ref["pixels"])
    again, _ = layer_features(tower, ref["pixels"], released=True)
    torch.testing.assert_close(once[0], again[0])
    assert (once[-1] - again[-1]).abs().max() > 1e-4
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
