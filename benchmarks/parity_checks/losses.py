"""Losses: values and gradients. Those of several captions have a file of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt import build_loss
from vladapt.core.losses.gloria import attention_maps
from vladapt.core.losses.m_flag import align_loss, orthogonal_loss
from vladapt.core.losses.momentum_queue import FeatureQueue
from vladapt.core.losses.prolip import inclusion_loss, inclusion_test, pairwise_logits
from vladapt.core.losses.protoclip import prototype_loss
from vladapt.core.losses.rankclip import list_mle
from vladapt.core.training.objective import build_objective

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

PAIR = {"image_features": "image", "text_features": "text"}


@compares("clip", "loss_open_clip")
def clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = {**PAIR, "logit_scale": "scale"}
    yield from ref.check_loss(build_loss("clip"), names, {}, {"clip_loss": "loss"}, "clip_")


@compares("siglip", "loss_open_clip")
def siglip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = {**PAIR, "logit_scale": "scale", "logit_bias": "bias"}
    for _, key in ref.keys(r"(siglip.*)_loss"):
        yield from ref.check_loss(build_loss("siglip"), names, {}, {f"{key}_loss": "loss"}, f"{key}_")


@compares("distill", "loss_open_clip")
def distill(ref: Reference, f: Fixtures) -> Iterator[Check]:
    given = {"teacher.image": ref["teacher_image"], "teacher.text": ref["teacher_text"], "logit_scale": ref["scale"]}
    given["teacher.logit_scale"] = torch.tensor(float(ref.stated("distill_loss", "teacher scale")))
    loss = build_loss("distill", feature=0.0)  # the similarity term alone
    yield from ref.check_loss(loss, PAIR, given, {"distill_loss": "similarity"}, "distill_")


@compares("declip", "loss_declip_filip")
def declip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    width, size = ref["bank"].shape
    queue = FeatureQueue(size, width)
    queue.rows.copy_(ref["bank"].T)
    for key, count, rank in ref.keys(r"nn_top(\d+)_(\d+)"):
        yield ref.check(queue.nearest(ref["text"], int(count))[:, int(rank)], key)
    alone = {"clip": 0.0, "simsiam": 0.0, "masking_language": 0.0, "nn_text": 1.0}
    loss = build_loss("declip", {"embed_dim": width}, queue_size=size, **alone)
    loss.queue.rows.copy_(ref["bank"].T)
    given = {"image_view2": ref["image2"], "text_features": ref["text"], "text_view2": ref["text"]}
    given["logit_scale"] = logit_scale(ref)
    yield from ref.check_loss(loss, {"image_features": "image1"}, given, {"nn_pair_loss": "nn_text"}, "nn_pair_")
    for key, place in ref.keys(r"bank_after_update_ptr(\d+)"):
        if int(place) + len(ref["text"]) > size:
            continue  # the released queue drops what is beyond its end
        queue.rows.copy_(ref["bank"].T)
        queue.pointer.fill_(int(place))
        queue.push(ref["text"])
        yield ref.check(queue.rows.T, key)


def logit_scale(ref: Reference, name: str = "scale") -> Tensor:
    """The one that the fixture gives, as a scalar."""
    return torch.tensor(float(ref.setting(name)))


@compares("filip", "loss_declip_filip")
def filip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = {"image_tokens": "patches", "text_tokens": "words"}
    for _, top in ref.keys(r"filip_loss_top(\d+)"):
        out = ref.leaves({ours: f"filip_{theirs}" for ours, theirs in names.items()})
        mask = torch.zeros(out["text_tokens"].shape[:2], dtype=torch.bool)
        as_released = {"token_dim": 0, "mask_padding": False, "select": "pair"}
        module = build_loss("filip", keep=int(top), **as_released)
        module.log_scale.data.fill_(math.log(ref.setting("dense_scale")))
        loss = module({**out, "text_mask": mask})["loss"]
        loss.backward()
        yield ref.check(loss, f"filip_loss_top{top}")
        for ours, theirs in names.items():
            yield ref.check(out[ours].grad, f"filip_grad_{theirs}_top{top}")


@compares("slip", "loss_slip")
def slip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = {name: name for name in ("image", "text", "aug1", "aug2")}
    raw = ref.leaves(names)
    out = {ours: F.normalize(raw[theirs], dim=-1) for ours, theirs in PAIR.items()}
    out.update(hidden_view1=raw["aug1"], hidden_view2=raw["aug2"], logit_scale=logit_scale(ref))
    options = {name: ref.setting(name) for name in ("temperature", "ssl_scale")}
    parts = build_loss("slip", mlp_dim=0, **options)(out)
    parts["loss"].backward()
    for key, part in {"loss": "loss", "clip_loss": "clip", "ssl_loss": "ssl"}.items():
        yield ref.check(parts[part], key)
    yield from ref.check_gradients(raw, names)


@compares("prolip", "loss_prolip")
def prolip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    ours = ("features", "log_variance"), ("masked", "masked_log_variance")
    theirs = [f"{side}_{part}" for side in ("image", "text") for part in ("mean", "logvar")]
    names = dict(zip([f"{side}_{part}" for side in ("image", "text") for part in ours[0]], theirs))
    masked = dict(zip([f"{side}_{part}" for side in ("image", "text") for part in ours[1]], theirs))
    options = ("inclusion_alpha", "inclusion_alpha_occ", "vib_beta", "inclusion_loss_scale", "inclusion_loss_eps")
    given, out = {name: ref.setting(name) for name in (*options, "scale", "bias")}, ref.leaves(names)
    out.update({name: ref[f"masked_{key}"] for name, key in masked.items()})
    out.update(logit_scale=logit_scale(ref), logit_bias=logit_scale(ref, "bias"))
    parts = build_loss("prolip", **{name: given[name] for name in options})(out)
    parts["loss"].backward()
    yield ref.check(parts["loss"], "total")
    yield ref.check(parts["ppcl"], "term_ppcl")
    yield ref.check(given["inclusion_alpha_occ"] * parts["image_masked_inclusion"], "term_img_inclusion")
    yield ref.check(given["inclusion_alpha_occ"] * parts["text_masked_inclusion"], "term_txt_inclusion")
    yield ref.check(given["inclusion_alpha"] * parts["inclusion"], "term_inclusion")
    yield ref.check(given["vib_beta"] * parts["vib"], "term_vib")
    yield from ref.check_gradients(out, names)
    image, text = (ref["image_mean"], ref["image_logvar"]), (ref["text_mean"], ref["text_logvar"])
    yield ref.check(pairwise_logits(*image, *text, given["scale"], given["bias"]), "logits")
    yield ref.check(inclusion_test(*image, *text, given["inclusion_loss_eps"]), "inclusion_test_i_in_t")
    leaves = ref.leaves({"mean": "image_mean", "logvar": "image_logvar"})
    strength = {name: float(ref.stated("soft_inclusion", name)) for name in ("scale", "eps")}
    soft = inclusion_loss(*leaves.values(), *text, **strength)
    soft.backward()
    yield ref.check(soft, "soft_inclusion")
    yield from ref.check_gradients(leaves, {name: name for name in leaves}, "soft_inclusion_")


@compares("rankclip", "loss_rankclip")
def rankclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    loss = build_loss("rankclip", lambda_in=ref.setting("lambda1"), lambda_cross=ref.setting("lambda2"))
    for _, epoch in ref.keys(r"loss_epoch(\d+)"):
        out, progress = ref.leaves(PAIR), (int(epoch) - 1) / (ref.setting("epochs_total") - 1)
        parts = loss({**out, "logit_scale": logit_scale(ref)}, progress=progress)
        parts["loss"].backward()
        yield ref.check(parts["loss"], f"loss_epoch{epoch}")
        yield ref.check(parts["clip"], f"contrastive_epoch{epoch}")
        ranks = parts["weight"] * (loss.lambda_cross * parts["cross_modal"] + loss.lambda_in * parts["in_modal"])
        yield ref.check(ranks, f"rank_epoch{epoch}")
        for ours, theirs in PAIR.items():
            yield ref.check(out[ours].grad, f"grad_{theirs}_epoch{epoch}")
    yield ref.check(list_mle(ref["listmle_pred"], ref["listmle_true"], eps=loss.eps), "listmle")


@compares("protoclip", "loss_protoclip")
def protoclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for _, temperature in ref.keys(r"loss_t(.+)"):
        features = ref.leaves({"features": "student_features"})["features"]
        scores = ref.setting("logit_scale_student") * features @ ref["student_centroids"].T
        value = prototype_loss(scores, ref["teacher_centroids"], ref["labels"], float(temperature))
        value.backward()
        yield ref.check(value, f"loss_t{temperature}")
        yield ref.check(features.grad, f"grad_t{temperature}")


@compares("medclip", "loss_medclip")
def medclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    given = {"image_findings": ref["image_labels"], "text_findings": ref["text_labels"]}
    given["logit_scale"] = logit_scale(ref, "logit_scale").exp()  # the fixture gives its logarithm
    yield from ref.check_loss(build_loss("medclip"), PAIR, given, {"loss": "loss"})
    given.update({ours: ref[theirs] for ours, theirs in PAIR.items()})
    loss = build_loss("medclip", augmented_text=True)
    yield from ref.check_loss(loss, {"text_view2": "aug_text"}, given, {"loss_with_aug": "loss"})


@compares("m-flag", "loss_mflag")
def m_flag(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for function, key, names, options in (
        (orthogonal_loss, "orthogonal_loss", ("latent",), (ref.setting("off_diagonal_weight"),)),
        (align_loss, "align_loss", ("image_projection", "text_projection"), ()),
    ):
        leaves = ref.leaves({name: name for name in names})
        value = function(*leaves.values(), *options)
        value.backward()
        yield ref.check(value, key)
        yield from ref.check_gradients(leaves, {name: name for name in names})


@compares("gloria", "loss_gloria")
def gloria(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = {"local_image": "local_image", "words": "words"}
    local, whole = ref.leaves(names), ref.leaves({"global_image": "global_image", "global_text": "global_text"})
    sharpness, decide, scale = (float(ref.setting(f"temp{n}")) for n in (1, 2, 3))
    scales = {"attention": sharpness, "words": decide, "local_scale": scale, "global_scale": scale}
    loss = build_loss("gloria", project=False, together=ref.setting("agg"), **scales)
    patches, words = local["local_image"].flatten(2).mT, local["words"].mT  # (B, P, D) and (B, L, D)
    are_words = torch.arange(words.shape[1]) < ref["word_counts"][:, None]
    image, text = (F.normalize(whole[f"global_{side}"], dim=-1) for side in ("image", "text"))
    out = {"image_features": image, "text_features": text, "image_tokens": patches, "text_tokens": words}
    loss({**out, "text_mask": are_words})["loss"].backward()
    right = torch.arange(len(words))
    for name, logits in (
        ("local", scale * loss.local_similarities(patches, words, are_words)),
        ("global", scale * image @ text.T),
    ):
        yield ref.check(F.cross_entropy(logits, right), f"{name}_loss_i")
        yield ref.check(F.cross_entropy(logits.T, right), f"{name}_loss_t")
    for leaves in (local, whole):
        yield from ref.check_gradients(leaves, {name: name for name in leaves})
    first = words[:1, : int(ref["word_counts"][0])]
    _, maps = attention_maps(patches[:1], first, torch.ones(first.shape[:2], dtype=torch.bool), sharpness)
    yield ref.check(maps[0].unflatten(2, local["local_image"].shape[2:]), "attention_0")


@compares("sdm", "loss_irra")
def sdm(ref: Reference, f: Fixtures) -> Iterator[Check]:
    loss = build_loss("sdm", logit_scale=ref.setting("scale"), factor=ref.setting("factor"))
    for key, further in (("sdm", {}), ("sdm_imageid", {"image_ids": ref["image_id"]})):
        yield from ref.check_loss(loss, PAIR, {"labels": ref["pid"], **further}, {key: "loss"}, f"{key}_")


@compares("self-regulation", "promptsrc")
def self_regulation(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Of the first of PromptSRC's steps."""
    teacher, classes = ref["zero_shot_image_features"], F.normalize(ref["teacher_text_raw"], dim=-1)
    out = {name: ref[name] for name in ("logits", "labels", "image_features")}
    out.update({"class_features": ref["text_features"], "teacher.image": teacher, "teacher.class_features": classes})
    out["teacher.logit_scale"] = f.backbone(ref).logit_scale.detach()
    yield ref.check(out["teacher.logit_scale"] * teacher @ classes.T, "zero_shot_logits")
    cross_entropy = build_loss("cross-entropy")(out)["loss"]
    yield ref.check(cross_entropy, "ce")
    weights = {part: ref.setting(f"{part}_loss_weight") for part in ("image", "text")}
    regulation = build_loss("self-regulation", **weights)(out)["loss"]
    total = torch.stack([cross_entropy + regulation, *ref["losses"][1:]])
    yield ref.check(total, "losses", "loss of the first step", where=torch.arange(len(total)) == 0)


@compares("text-anchor", "loss_clipfit")
def text_anchor(ref: Reference, f: Fixtures) -> Iterator[Check]:
    text = ref["text_features"].requires_grad_()
    unit, frozen = F.normalize(text, dim=-1), F.normalize(ref["frozen_text_features"], dim=-1)
    out = {"class_features": unit, "teacher.class_features": frozen, "labels": ref["labels"]}
    out["logits"] = ref.setting("scale") * ref["image_features"] @ unit.T
    parts = build_objective({"cross-entropy": 1.0, "text-anchor": float(ref.setting("lambda_"))}, {})(out)
    parts["loss"].backward()
    yield ref.check(parts["text-anchor"], "similarity_term")
    yield ref.check(parts["loss"], "loss")
    yield ref.check(text.grad, "grad_text")


GROUPS = (
    clip, siglip, distill, declip, filip, slip, prolip, rankclip, protoclip, medclip, m_flag, gloria, sdm,
    self_regulation, text_anchor,
)  # fmt: skip
