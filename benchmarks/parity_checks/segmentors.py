"""Segmentation without training: the dense features of four methods, on a tower of two heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import vladapt
import vladapt.domains.open_vocab
from vladapt.domains.open_vocab.modules.segmentors.attention_heads import split_heads, until_last
from vladapt.domains.open_vocab.modules.segmentors.cliper_features import ATTENTIONS, FUSED, layer_features
from vladapt.domains.open_vocab.modules.segmentors.maskclip import deny_unlikely, smooth_by_keys, value_features
from vladapt.domains.open_vocab.modules.segmentors.proxyclip import proxied_features
from vladapt.domains.open_vocab.modules.segmentors.sclip import correlative_tokens, correlative_weights

from .fixtures import Check, Fixtures

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


@torch.no_grad()
def maskclip(f: Fixtures) -> Iterator[Check]:
    ref = f.reference("maskclip", "dense_maskclip")
    features, keys = value_features(_tower(f), ref["pixels"])
    logits = torch.einsum("bdhw,qd->bqhw", F.normalize(features, dim=1), ref["text"])
    yield ref.check(features, "dense_features")
    yield ref.check(keys, "key_tokens")
    yield ref.check(logits, "logits")
    yield ref.check(deny_unlikely(logits, ref.given["pd_thresh"]), "logits_prompt_denoise")
    yield ref.check(smooth_by_keys(logits, keys, ref.given["ks_thresh"], released=True), "logits_key_smooth")


@torch.no_grad()
def sclip(f: Fixtures) -> Iterator[Check]:
    ref, tower = f.reference("sclip", "dense_sclip"), _tower(f)
    x, last = correlative_tokens(tower, ref["pixels"]), tower.blocks("image")[-1]
    query, key, _ = split_heads(last, last.ln_1(until_last(tower, ref["pixels"])))
    visual = tower.model.visual
    yield ref.check(visual.ln_post(x) @ visual.proj, "csa_all")
    yield ref.check(tower.pool_image(x, normalize=False), "csa_cls")
    yield ref.check(correlative_weights(query, key), "csa_attention_last")


@torch.no_grad()
def proxyclip(f: Fixtures) -> Iterator[Check]:
    ref, tower = f.reference("proxyclip", "dense_proxyclip"), _tower(f)
    for grid in ("native", "upsampled"):
        for beta, gamma in zip(ref.given["beta"], ref.given["gamma"]):
            pixels, proxy = ref[f"{grid}_pixels"], ref[f"{grid}_external"]
            ours = proxied_features(tower, pixels, proxy, beta=beta, gamma=gamma, over_batch=True)
            yield ref.check(_rows(ours), f"{grid}_out_b{beta}_g{gamma}")


@torch.no_grad()
def cliper(f: Fixtures) -> Iterator[Check]:
    ref, tower = f.reference("cliper", "dense_cliper"), _tower(f)
    for attention in (FUSED, *ATTENTIONS):
        features, weights = layer_features(tower, ref["pixels"], attention, released=True)
        name = "fused_attn" if attention == FUSED else attention.replace("-", "_")
        yield ref.check(features, f"features_{name}")
        yield ref.check(weights, f"attention_{name}")


def _tower(f: Fixtures):
    weights = f.folder / "tiny_vit_mh.safetensors"
    return vladapt.load_backbone(f"open_clip:{weights.with_suffix('.json')}@{weights}", device="cpu")


def _rows(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2)


GROUPS = (maskclip, sclip, proxyclip, cliper)
