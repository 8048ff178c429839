"""Segmentation without training: the dense features of four methods, on a tower of two heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import vladapt.domains.open_vocab  # noqa: F401 (the operators, before modules of mmseg ask for them)
from vladapt.domains.open_vocab.modules.segmentors.attention_heads import split_heads, until_last
from vladapt.domains.open_vocab.modules.segmentors.cliper.features import ATTENTIONS, FUSED, layer_features
from vladapt.domains.open_vocab.modules.segmentors.maskclip import deny_unlikely, smooth_by_keys, value_features
from vladapt.domains.open_vocab.modules.segmentors.proxyclip import proxied_features
from vladapt.domains.open_vocab.modules.segmentors.sclip import correlative_tokens, correlative_weights

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

DEVIATIONS = {
    "maskclip": "keys are compared by their cosines in key smoothing; the released code makes each channel unit over "
    "all places, which `released=True` does",
    "sclip": "positions are resampled without the tenth of a patch by which the released code stretches them: on "
    "images of another size than the tower's the two differ by that (the test puts its positions in, and agrees)",
    "proxyclip": "the mean cosine is that of one image or window; the fixture is of the release that takes it over the "
    "batch, which `over_batch=True` does",
    "cliper": "the fused attention is balanced once; the released arithmetic in place does so again for every layer, "
    "which `released=True` does",
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


def _rows(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2)


GROUPS = (maskclip, sclip, proxyclip, cliper)
