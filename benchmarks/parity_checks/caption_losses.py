"""Losses of several captions per image: hard negatives, synthetic ones, parts of a long one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vladapt import build_loss
from vladapt.core.backbones.stretching import stretch_positions
from vladapt.core.losses.alip import weighted_contrast
from vladapt.core.losses.long_clip import primary_components

from .comparison import compares
from .fixtures import Check, Fixtures, Reference
from .losses import PAIR, logit_scale


@compares("neg-clip", "loss_tripletclip")
def neg_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    yield from _hard_negatives("neg-clip", ref, {"text_negative": "neg_text"})


@compares("triplet-clip", "loss_tripletclip")
def triplet_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    yield from _hard_negatives("triplet-clip", ref, {"text_negative": "neg_text", "image_negative": "neg_image"})


def _hard_negatives(method: str, ref: Reference, names: dict[str, str]) -> Iterator[Check]:
    key = method.replace("-", "")
    given, parts = {"logit_scale": logit_scale(ref)}, {key: "loss", f"{key}_accuracy": "accuracy"}
    yield from ref.check_loss(build_loss(method), {**PAIR, **names}, given, parts, f"{key}_")


@compares("alip", "loss_alip")
def alip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = {"image_features": "image", "text_features": "text_raw", "text_synthetic": "text_caption"}
    loss, scale = build_loss("alip", ema=ref.setting("ema")), logit_scale(ref)
    sides = ("sample", "raw", "caption")
    loss.means.copy_(torch.tensor([ref.stated("full_weight_sample", side) for side in sides]))
    weights = loss._weights(*(ref[name] for name in names.values()))
    for name, ours in zip(sides, weights, strict=True):
        yield ref.check(ours, f"full_weight_{name}")
    parts = {"full_loss": "loss", "full_loss_raw": "raw", "full_loss_caption": "caption"}
    yield from ref.check_loss(loss, names, {"logit_scale": scale}, parts, "full_")
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
    "fine_neg_delta": ("local", "finegrained_loss", {"clip_weight": 0.0}),
    # its weight is the released one, which the fixture does not say
    "circle": ("circle", "I2mT_loss", {"clip_weight": 0.0, "local_weight": 0.0, "circle_weight": 0.1}),
}
DREAMLIP_INPUTS = {"image_features": "image", "text_positives": "texts", "image_tokens": "local_image"}


@compares("dreamlip", "loss_dreamlip")
def dreamlip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Each run's own term. A run tells its options where they are not those of the whole fixture."""
    for run, (part, term, options) in DREAMLIP.items():
        key = f"{run}_{term}"
        given = {"sgl_delta": ref.stated(key, "sgl_delta", ref.setting("sgl_delta"))}
        given.update(scale_local=ref.setting("scale_local"), **options)
        out = ref.leaves(DREAMLIP_INPUTS)
        loss = build_loss("dreamlip", released_order=True, **given)
        parts = loss({**out, "logit_scale": logit_scale(ref)})
        value = options.get("circle_weight", 1) * parts[part]
        value.backward()
        yield ref.check(value, key)
        for ours, theirs in DREAMLIP_INPUTS.items():
            if f"{key}_grad_{theirs}" in ref:
                yield ref.check(out[ours].grad, f"{key}_grad_{theirs}")


@compares("long-clip", "longclip")
def long_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, ours in stretched(ref).items():
        yield ref.check(ours, key)
    counts = {key: int(count) for key, count in ref.keys(r"pca(\d+)")}
    for key, count in counts.items():
        yield ref.check(primary_components(ref["pca_input"], count), key)
    for key in counts:
        if f"{key}_cotangent" in ref:
            leaf = ref["pca_input"].requires_grad_()
            (primary_components(leaf, counts[key]) * ref[f"{key}_cotangent"]).sum().backward()
            yield ref.check(leaf.grad, f"{key}_grad")


def stretched(ref: Reference) -> dict[str, torch.Tensor]:
    """The longer tables that the shortest one becomes, by the fixture's names of them."""
    short, *longer = sorted((key for (key,) in ref.keys(r"positional_embedding_\d+")), key=lambda key: len(ref[key]))
    return {key: stretch_positions(ref[short], ref.setting("keep_len"), ref.setting("factor")) for key in longer}


GROUPS = (neg_clip, triplet_clip, alip, dreamlip, long_clip)
