"""Segmentation without training: the dense features of five methods, four of them on a tower of two heads."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vladapt.domains.open_vocab  # noqa: F401 (the operators, before modules of mmseg ask for them)
from vladapt.domains.open_vocab.modules.segmentors.attention_heads import split_heads, until_last
from vladapt.domains.open_vocab.modules.segmentors.cliper.features import ATTENTIONS, FUSED, layer_features
from vladapt.domains.open_vocab.modules.segmentors.maskclip import deny_unlikely, smooth_by_keys, value_features
from vladapt.domains.open_vocab.modules.segmentors.proxyclip import proxied_features
from vladapt.domains.open_vocab.modules.segmentors.sclip import correlative_tokens, correlative_weights
from vladapt.domains.open_vocab.modules.segmentors.segearth_ov.segmentor import summed_attention, without_global
from vladapt.domains.open_vocab.modules.segmentors.segearth_ov.upsampler import JBUOne
from vladapt.domains.open_vocab.modules.segmentors.training_free import cosine_maps

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

DEVIATIONS = {
    "maskclip": "in key smoothing keys are compared by their cosines; the released code normalises each channel over "
    "all positions, as `released=True` does",
    "sclip": "positions are resampled without the tenth of a patch by which the released code stretches them: on "
    "images of another size than the tower's the two differ by that (the test uses the released positions, and agrees)",
    "proxyclip": "the mean cosine is that of one image or window; the fixture is from the release that takes it over "
    "the batch, as `over_batch=True` does",
    "cliper": "the fused attention is balanced once; the released in-place arithmetic balances it again for every "
    "layer, as `released=True` does",
    "segearth-ov": "each of several images is processed by itself; the released code returns after the first, or "
    "reads the second from the first's probabilities. Spaces after a comma are not part of a name",
}


@compares("maskclip", "dense_maskclip")
@torch.no_grad()
def maskclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    features, keys = value_features(f.backbone(ref, "tiny_vit_mh"), ref["pixels"])
    logits = torch.einsum("bdhw,qd->bqhw", F.normalize(features, dim=1), ref["text"])
    temperature = ref.setting("temperature")
    yield ref.check(features, "dense_features")
    yield ref.check(keys, "key_tokens")
    yield ref.check(logits, "logits")
    yield ref.check(deny_unlikely(logits, ref.setting("pd_thresh"), temperature), "logits_prompt_denoise")
    smoothed = smooth_by_keys(logits, keys, ref.setting("ks_thresh"), temperature, released=True)
    yield ref.check(smoothed, "logits_key_smooth")


@compares("sclip", "dense_sclip")
@torch.no_grad()
def sclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    tower = f.backbone(ref, "tiny_vit_mh")
    x, last = correlative_tokens(tower, ref["pixels"]), tower.blocks("image")[-1]
    query, key, _ = split_heads(last, last.ln_1(until_last(tower, ref["pixels"])))
    visual = tower.model.visual
    yield ref.check(visual.ln_post(x) @ visual.proj, "csa_all")
    yield ref.check(tower.pool_image(x, normalize=False), "csa_cls")
    yield ref.check(correlative_weights(query, key), "csa_attention_last")


@compares("proxyclip", "dense_proxyclip")
@torch.no_grad()
def proxyclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, grid, beta, gamma in ref.keys(r"(.+)_out_b(.+)_g(.+)"):
        pixels, proxy = ref[f"{grid}_pixels"], ref[f"{grid}_external"]
        strength = {"beta": float(beta), "gamma": float(gamma)}
        ours = proxied_features(f.backbone(ref, "tiny_vit_mh"), pixels, proxy, over_batch=True, **strength)
        yield ref.check(_rows(ours), key)


@compares("cliper", "dense_cliper")
@torch.no_grad()
def cliper(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for attention in (FUSED, *ATTENTIONS):
        features, weights = layer_features(f.backbone(ref, "tiny_vit_mh"), ref["pixels"], attention, released=True)
        name = "fused_attn" if attention == FUSED else attention.replace("-", "_")
        yield ref.check(features, f"features_{name}")
        yield ref.check(weights, f"attention_{name}")


@compares("segearth-ov", "segearth_ov")
@torch.no_grad()
def segearth_ov(ref: Reference, f: Fixtures) -> Iterator[Check]:
    block = SimpleNamespace(num_heads=ref.setting("heads"), qkv=_linear(ref, "in_proj_"), out=_linear(ref, "out_proj."))
    mixed = summed_attention(block, ref["attn.x"].transpose(0, 1))
    yield ref.check(mixed.transpose(0, 1), "attn.SegEarth")
    image, words, upsampler = ref["image"], ref["queries"], upsampler_of(ref)
    side = image.shape[-1] // ref.setting("patch")
    places = ref["tokens"].transpose(1, 2).unflatten(2, (-1, side))
    small = F.adaptive_avg_pool2d(image, (2 * places.shape[-2], 2 * side))
    yield ref.check(upsampler.up.range_kernel(small), "range_kernel_first")
    yield ref.check(upsampler.up.spatial_kernel(), "spatial_kernel")
    column = torch.cat([places, places.flip(2)], dim=2)
    yield ref.check(upsampler.up(torch.cat([column, column], dim=3), image.repeat(1, 1, 2, 2)), "up2")
    for key, up in ref.keys(r"logits_up(\d)_lam\d+"):
        dense, weight = upsampler(places, image) if int(up) else places, ref.stated(key, "cls_token_lambda")
        logits = without_global(cosine_maps(dense, words), ref["cls_token"], words, weight)
        logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        step = image.shape[-1] // ref[key].shape[-1]
        yield ref.check(logits[..., ::step, ::step], key)


def upsampler_of(ref: Reference) -> JBUOne:
    """With the weights of a fixture."""
    state = {name: ref[key] for key, name in ref.keys(r"w\.jbu\.(.+)")}
    upsampler = JBUOne(ref["tokens"].shape[-1]).eval()
    upsampler.load_state_dict(state)
    return upsampler


def _linear(ref: Reference, name: str) -> nn.Linear:
    weight, bias = ref[f"w.attn.{name}weight"], ref[f"w.attn.{name}bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _rows(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2)


GROUPS = (maskclip, sclip, proxyclip, cliper, segearth_ov)
