"""Losses that distil a teacher, and those of R2D2's retrieval: values and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vladapt import build_loss
from vladapt.core.losses.r2d2 import log_negative_weights
from vladapt.core.runtime.ranks import ONE

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

PAIR = {"image_features": "image", "text_features": "text"}
TERMS = ("ce", "mlm", "mse", "cos")


@compares("distill", "loss_distill")
def tiny_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """TinyCLIP's affinity mimicking, of the first teacher."""
    width = ref.setting("teacher_dims")[0]
    teacher = {"teacher.image": ref["teacher_image"][:, :width], "teacher.text": ref["teacher_text"][:, :width]}
    teacher |= {
        "logit_scale": _scale(ref),
        "teacher.logit_scale": torch.tensor(float(ref.setting("teacher_scales")[0])),
    }
    out = ref.leaves(PAIR)
    values = build_loss("distill", feature=0.0)({**out, **teacher})
    values["loss"].backward()
    yield ref.check(values["similarity"], "tinyclip.loss")
    yield from _gradients(ref, out, PAIR, "tinyclip.")


@compares("mobile-clip", "loss_distill")
def mobile_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    contrastive, distill = ref.setting("weights")
    names = {**PAIR, "text_synthetic": "synthetic"}
    for key, teachers in (("dr", len(ref.setting("teacher_dims"))), ("dr_first_teacher", 1)):
        widths, scales = ref.setting("teacher_dims")[:teachers], ref.setting("teacher_scales")[:teachers]
        dims = {f"teacher_dim_{number}": width for number, width in enumerate(widths, start=1)}
        loss = build_loss("mobile-clip", dims, contrastive=contrastive, distill=distill, scales=tuple(scales))
        out = {**ref.leaves(names), "logit_scale": _scale(ref).requires_grad_()}
        theirs = {"image": "image", "text": "text", "text_synthetic": "synthetic"}
        given = {f"teacher.{ours}": ref[f"teacher_{name}"][:, : sum(widths)] for ours, name in theirs.items()}
        values = loss({**out, **given})
        values["loss"].backward()
        for part, weight in (("contrastive", contrastive), ("distill", distill)):
            yield ref.check(weight * values[part], f"{key}.{part}")
        yield from _gradients(ref, out, {**names, "logit_scale": "logit_scale"}, f"{key}.")


@compares("distilbert", "loss_distill")
def distilbert(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = {"word_logits": "student_logits", "word_states": "student_hidden"}
    given = {"teacher.word_logits": ref["teacher_logits"], "teacher.word_states": ref["teacher_hidden"]}
    given |= {"word_labels": ref["mlm_labels"], "text_mask": ref["attention"].bool()}
    weights = {name: ref.setting(name) for name in TERMS}
    for key, restrict in (("all", False), ("masked", True)):
        loss = build_loss("distilbert", **weights, temperature=ref.setting("temperature"), restrict=restrict)
        out = ref.leaves(names)
        values = loss({**out, **given})
        values["loss"].backward()
        yield ref.check(torch.stack([values[name].detach() for name in ("loss", *TERMS)]), f"distilbert.{key}")
        for ours, theirs in (("word_logits", "logits"), ("word_states", "hidden")):
            yield ref.check(out[ours].grad, f"distilbert.{key}.grad.{theirs}")


@compares("r2d2", "loss_r2d2")
def r2d2(ref: Reference, f: Fixtures) -> Iterator[Check]:
    temperature, ids = ref["w.temp"].clone().requires_grad_(), ref["index"]
    out = {**ref.leaves(PAIR), "image_ids": ids}
    values = build_loss("r2d2", fgr=0.0)({**out, "logit_scale": 1 / temperature})
    values["loss"].backward()
    yield ref.check(values["gcpr"], "gcpr")
    yield from _gradients(ref, out, PAIR, "gcpr.")
    yield ref.check(temperature.grad, "gcpr.grad.temp")
    scores, same = ref["image"] @ ref["text"].T / ref["w.temp"], ids[:, None] == ids
    yield ref.check(log_negative_weights(scores, same).exp(), "negatives.i2t")
    yield ref.check(log_negative_weights(scores.T, same).exp(), "negatives.t2i")
    width, (negative, positive) = ref["w.itm_head.weight"].shape[1], ref.setting("class_weights")
    dims = {"embed_dim": width, "text_width": width}
    loss = build_loss("r2d2", dims, positive=positive / negative, layers=1, heads=1)
    for ours, theirs in ((loss.text_head, "itm_head"), (loss.image_head, "itm_head_i")):
        ours.load_state_dict({name: ref[f"w.{theirs}.{name}"] for name in ("weight", "bias")})
    text, image = (torch.cat([ref[f"{side}_pos"], ref[f"{side}_neg"]])[:, 0] for side in ("text", "image"))
    ranking = loss.matching(text, image, torch.ones(len(ids), dtype=torch.bool), ONE)
    ranking.backward()
    yield ref.check(ranking, "fgr")
    yield ref.check(loss.text_head.weight.grad, "fgr.grad.text_head")


def _gradients(ref: Reference, out: dict[str, Tensor], names: dict[str, str], prefix: str) -> Iterator[Check]:
    for ours, theirs in names.items():
        yield ref.check(out[ours].grad, f"{prefix}grad.{theirs}")


def _scale(ref: Reference) -> Tensor:
    return torch.tensor(float(ref.setting("logit_scale")))


GROUPS = [tiny_clip, mobile_clip, distilbert, r2d2]
