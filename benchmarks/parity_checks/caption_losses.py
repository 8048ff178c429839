"""Objectives of several captions an image: hard negatives, synthetic ones, parts of a long one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vladapt import build_loss
from vladapt.core.backbones.stretching import stretch_positions
from vladapt.core.losses._primary_components import primary_components
from vladapt.core.losses.alip import weighted_contrast

from .fixtures import Check, Fixtures

PAIR = {"image_features": "image", "text_features": "text"}
DEVIATIONS = {
    "neg-clip, triplet-clip": "none",
    "alip": "none",
    "dreamlip": "each sub-caption meets the patches of its own image. The released code reads texts (N, B, D) as "
    "(B, N, D) and so pairs them with wrong images: its local term is met only with `released_order=True`, or on "
    "texts mixed the other way",
    "long-clip": "components are those of the global batch (released: of each process); it trains from the backbone's "
    "logit scale (released: 100). Components and stretched positions have fixtures",
}


def hard_negatives(f: Fixtures) -> Iterator[Check]:
    negatives = {"neg-clip": {"text_negative": "neg_text"}}
    negatives["triplet-clip"] = {**negatives["neg-clip"], "image_negative": "neg_image"}
    for method, names in negatives.items():
        ref, key = f.reference(method, "loss_tripletclip"), method.replace("-", "")
        given, parts = {"logit_scale": torch.tensor(ref.given["scale"])}, {key: "loss", f"{key}_accuracy": "accuracy"}
        yield from ref.check_loss(build_loss(method), {**PAIR, **names}, given, parts, f"{key}_")


def alip(f: Fixtures) -> Iterator[Check]:
    ref = f.reference("alip", "loss_alip")
    names = {"image_features": "image", "text_features": "text_raw", "text_synthetic": "text_caption"}
    loss, scale = build_loss("alip", ema=ref.given["ema"]), ref.given["scale"]
    loss.means.copy_(torch.tensor([0.62, 0.58, 0.60]))
    weights = loss._weights(*(ref[name] for name in names.values()))
    for name, ours in zip(("sample", "raw", "caption"), weights, strict=True):
        yield ref.check(ours, f"full_weight_{name}")
    parts = {"full_loss": "loss", "full_loss_raw": "raw", "full_loss_caption": "caption"}
    yield from ref.check_loss(loss, names, {"logit_scale": torch.tensor(scale)}, parts, "full_")
    loss.after_step(None)
    yield ref.check(loss.means, "momentum_after")
    leaves = ref.leaves({"image": "image", "text": "text_raw"})
    value = weighted_contrast(*leaves.values(), scale, ref["weight_pair"] * ref["weight_sample"])
    value.backward()
    yield ref.check(value, "loss")
    yield from ref.check_gradients(leaves, {name: name for name in leaves})


DREAMLIP = {  # run of the fixture: our part, the reference's term, our options
    "clip": ("clip", "CLIP_loss", {"multi_positive": False, "local_weight": 0.0}),
    "multi": ("other_captions", "DeCLIP_loss", {"local_weight": 0.0}),
    "fine": ("local", "finegrained_loss", {"clip_weight": 0.0}),
    "fine_neg_delta": ("local", "finegrained_loss", {"clip_weight": 0.0, "sgl_delta": -1.0}),
    "circle": ("circle", "I2mT_loss", {"clip_weight": 0.0, "local_weight": 0.0, "circle_weight": 0.1}),
}


def dreamlip(f: Fixtures) -> Iterator[Check]:
    ref = f.reference("dreamlip", "loss_dreamlip")
    names = {"image_features": "image", "text_positives": "texts", "image_tokens": "local_image"}
    given = {name: ref.given[name] for name in ("sgl_delta", "scale_local")}
    for run, (part, term, options) in DREAMLIP.items():
        out = ref.leaves(names)
        loss = build_loss("dreamlip", released_order=True, **{**given, **options})
        parts = loss({**out, "logit_scale": torch.tensor(ref.given["scale"])})
        value = options.get("circle_weight", 1) * parts[part]
        value.backward()
        yield ref.check(value, f"{run}_{term}")
        for ours, theirs in names.items():
            if f"{run}_{term}_grad_{theirs}" in ref:
                yield ref.check(out[ours].grad, f"{run}_{term}_grad_{theirs}")


def long_clip(f: Fixtures) -> Iterator[Check]:
    ref = f.reference("long-clip", "longclip")
    keep, factor = ref.given["keep_len"], ref.given["factor"]
    yield ref.check(stretch_positions(ref["positional_embedding_77"], keep, factor), "positional_embedding_248")
    for count in (8, 32):
        yield ref.check(primary_components(ref["pca_input"], count), f"pca{count}")
    leaf = ref["pca_input"].requires_grad_()
    (primary_components(leaf, 8) * ref["pca8_cotangent"]).sum().backward()
    yield ref.check(leaf.grad, "pca8_grad")


GROUPS = (hard_negatives, alip, dreamlip, long_clip)
