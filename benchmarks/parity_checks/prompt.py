"""Learned contexts: CoOp, CoCoOp, KgCoOp, BiomedCoOp, POMP and TPT, and Dassl's schedule that the first five go by."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vladapt import Adapter, Backbone, FeatureSet, FitReport, TextClassifier, build_adapter, build_classifier
from vladapt.adapters.prompt._shared_context import Step
from vladapt.adapters.prompt.biomed_coop import divergence, kept_sentences, mean_sentence_logits, teacher_of
from vladapt.adapters.prompt.cocoop import META, conditional_contexts
from vladapt.adapters.prompt.pomp import local_logits
from vladapt.adapters.testtime._memory import entropy_of
from vladapt.adapters.testtime.tpt import confident_views, mean_entropy
from vladapt.core.prompts.context import PromptLearner
from vladapt.core.training.schedules import LearningRates

from .comparison import compares, published
from .fixtures import NUMBER, Check, Fixtures, Reference, UnreadableFixture, stated_in

PUBLISHED_SELECTION = build_adapter("tpt").selection
"""For a variant that does not say how many views are kept."""
DEVIATIONS = {
    "dassl schedule": "none (the released warm-up does not run on a recent torch)",
}


@compares("dassl schedule", "dassl_sgd_schedule")
def schedule(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, name in ref.keys(r"lr_(.+)"):
        yield ref.check(rates(ref, key), key, f"rates, {name}")


def rates(ref: Reference, key: str) -> list[float]:
    """Ours, at the settings that the meaning of a tensor of rates tells."""
    words = ref.meaning(key)
    told = re.search(rf"warm-up (\w+) (\d+) epochs? at ({NUMBER}), WARMUP_RECOUNT=(True|False)", words)
    if told is None:
        raise UnreadableFixture(f"the schedule is told in unknown words: {words!r}")
    return LearningRates.dassl(
        ref.stated(key, "base"),
        len(ref[key]),
        warmup=None if told[1] == "none" else told[1],
        warmup_epochs=int(told[2]),
        warmup_lr=float(told[3]),
        recount=told[4] == "True",
    )


@compares("coop", "coop")
def coop(ref: Reference, f: Fixtures) -> Iterator[Check]:
    backbone = f.backbone(ref)
    image = backbone.encode_image(ref["pixels"])
    for case, kind, n, position in coop_cases(ref):
        ctx = ref[f"ctx_{kind}_n{n}"]
        learner = PromptLearner(backbone, class_names(ref), csc=kind == "csc", position=position, ctx=ctx)
        logits = backbone.logit_scale.detach() * image @ learner.encode().T
        F.cross_entropy(logits, ref["labels"]).backward()
        yield ref.check(logits, f"logits_{case}", f"logits, {case}")
        yield ref.check(learner.ctx.grad, f"grad_ctx_{case}", f"gradient, {case}")


def coop_cases(ref: Reference) -> list[tuple[str, ...]]:
    """Its name, generic or csc, the number of context vectors, and where the class name stands."""
    return [groups for _, *groups in ref.keys(r"logits_((generic|csc)_n(\d+)_(end|middle|front))")]


def class_names(ref: Reference) -> tuple[str, ...]:
    return tuple(ref.setting("classnames"))


@compares("coop", "coop_train")
def coop_training(ref: Reference, f: Fixtures) -> Iterator[Check]:
    adapter, support, _ = coop_trained(ref, f)
    steps = len(ref["loss_per_step"])
    yield ref.check(adapter.ctx, "ctx_final", f"context after {steps} steps")
    yield ref.check(adapter.logits(support), "logits_final", f"logits after {steps} steps")


def coop_trained(ref: Reference, f: Fixtures) -> tuple[Adapter, FeatureSet, FitReport]:
    """As the reference was trained, on what, and the report. Texts have no say; they bring the names and the scale."""
    ref.require("drop_last", True)
    told = re.search(rf"(\d+) (\w+) warm-up epochs? at ({NUMBER}), WARMUP_RECOUNT (\w+)", ref.setting("schedule"))
    if told is None or (int(told[1]), float(told[3]), told[4]) != (1, 1e-5, "True"):
        raise UnreadableFixture(f"the schedule is {ref.setting('schedule')!r}, ours warms up for one epoch at 1e-5")
    names = ("n_ctx", "csc", "lr", "momentum", "weight_decay", "epochs", "batch_size")
    options = {name: ref.setting(name) for name in names}
    options.update(class_token_position=ref.setting("position"), warmup=told[2])
    adapter = published("coop", **options)
    support = FeatureSet(ref["raw_image_features"], ref["labels"], class_names(ref))
    backbone, rows = f.backbone(ref), torch.eye(len(support.class_names), support.dim)
    text = TextClassifier(rows, class_names=support.class_names, logit_scale=float(backbone.logit_scale))
    resources = {"batch_order": ref["batch_order"], "ctx": ref["ctx_init"]}
    return adapter, support, adapter.fit(support, text, backbone=backbone, resources=resources)


def images(ref: Reference, f: Fixtures) -> FeatureSet:
    """The fixture's images as the tiny CLIP sees them."""
    with torch.no_grad():
        features = f.backbone(ref).encode_image(ref["pixels"], normalize=False)
    return FeatureSet(features, ref["labels"], class_names(ref))


@compares("cocoop", "cocoop")
def cocoop(ref: Reference, f: Fixtures) -> Iterator[Check]:
    support, backbone = images(ref, f), f.backbone(ref)
    theirs = ("ctx", *(f"meta_net_linear{layer}_{part}" for layer in (1, 2) for part in ("weight", "bias")))
    text = build_classifier(backbone, support.class_names, ["{}"])
    for _, case in ref.keys(r"(.+)_logits"):
        trained = ref.leaves({ours: f"{case}_{key}" for ours, key in zip(("ctx", *META), theirs)})
        adapter = published("cocoop", epochs=1)
        adapter.fit(support, text, backbone=backbone)
        for name, value in trained.items():
            setattr(adapter, name, value.detach())
        adapter.attach(backbone)
        yield ref.check(adapter.logits(support.features), f"{case}_logits")
        learner = PromptLearner(backbone, support.class_names, ctx=trained["ctx"])
        prompts = learner.encode_each(conditional_contexts(support.unit, *trained.values()))
        logits = backbone.logit_scale.detach() * torch.einsum("bd,bcd->bc", support.unit, prompts)
        loss = F.cross_entropy(logits, support.labels)
        loss.backward()
        yield ref.check(loss, f"{case}_loss")
        for key, value in zip(theirs, trained.values()):
            yield ref.check(value.grad, f"{case}_grad_{key}")


@compares("kgcoop", "kgcoop")
def kgcoop(ref: Reference, f: Fixtures) -> Iterator[Check]:
    support, backbone = images(ref, f), f.backbone(ref)
    for dataset, template in ref.setting("templates").items():
        classifier = build_classifier(backbone, support.class_names, [template])
        for _, key in ref.keys(rf"({re.escape(dataset)}_.+__)ctx"):
            yield ref.check(classifier.weights, f"{key}teacher_text_features")
            if f"{key}ctx_initial" in ref:
                words = re.search(r'"(.+)"', ref.meaning(f"{key}ctx_initial"))[1]
                start = PromptLearner(backbone, support.class_names, ctx_init=words)
                yield ref.check(start.ctx, f"{key}ctx_initial")
            for _, weight in ref.keys(rf"{re.escape(key)}loss_w(.+)"):
                gradient, loss = _one_step(backbone, support, classifier, ref[f"{key}ctx"], float(weight))
                yield ref.check(loss, f"{key}loss_w{weight}")
                yield ref.check(gradient, f"{key}grad_ctx_w{weight}")
            yield ref.check(_one_step(backbone, support, classifier, ref[f"{key}ctx"], 0.0)[1], f"{key}ce")


def _one_step(backbone: Backbone, support, classifier, ctx, guidance: float) -> tuple[torch.Tensor, float]:
    """Gradient of the loss in the context, read off one step of plain SGD at a rate of 1, and the loss."""
    plain = {"lr": 1.0, "epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "warmup": None, "batch_size": len(support)}
    adapter = published("kgcoop", guidance=guidance, csc=ctx.ndim == 3, **plain)
    report = adapter.fit(support, classifier, backbone=backbone, resources={"ctx": ctx})
    return ctx - adapter.ctx, report.history[0]["loss"]


@compares("biomed-coop", "biomedcoop")
def biomed_coop(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """From the features on: the fixture has no towers, so that its text features stand for those of the prompts."""
    scale, labels = ref.setting("scale"), ref["label"]
    unit, sentences = F.normalize(ref["image"], dim=-1), F.normalize(ref["fixed_embeddings"], dim=-1)
    scores = mean_sentence_logits(unit, sentences, scale)
    yield ref.check(scores, "selection.scores")
    for key, select in (("keep", "zscore"), ("keep_by_mad_only", "mad")):
        kept = kept_sentences(scores, ref.setting("tau"), select)
        yield ref.check(kept.long(), f"selection.{key}")
    teacher = teacher_of(sentences, kept_sentences(scores, ref.setting("tau")))
    yield ref.check(teacher, "selection.teacher")
    text = ref.leaves({"text": "text"})["text"]
    adapter, step = biomed_coop_step(ref, text, unit, labels, sentences)
    logits = adapter._scores(unit, F.normalize(text, dim=-1))
    yield ref.check(logits, "logits")
    apart = ref.setting("kdsp") * divergence(logits, scale * unit @ teacher.T)
    yield ref.check(apart, "loss_kdsp")
    yield ref.check(F.cross_entropy(logits, labels), "loss_ce")
    loss = adapter._loss(step)
    yield ref.check(loss - F.cross_entropy(logits, labels) - apart, "loss_sccm")
    yield ref.check(loss, "loss")
    loss.backward()
    yield ref.check(text.grad, "grad_text")


def biomed_coop_step(ref: Reference, text, unit, labels, sentences) -> tuple[Adapter, Step]:
    """The method and one step of its training, with raw text features (C, D) in place of the learned prompts'."""
    weights = {name: ref.setting(name) for name in ("sccm", "kdsp", "tau")}
    adapter = published("biomed-coop", **weights)
    adapter.logit_scale, adapter.offset, adapter.negative = ref.setting("scale"), torch.zeros(len(text)), None
    adapter._text = lambda learner: F.normalize(text, dim=-1)
    about = TextClassifier(sentences.mean(dim=1), prototypes=tuple(sentences), logit_scale=adapter.logit_scale)
    return adapter, Step(None, about, unit, labels, F.cross_entropy, None, torch.Generator())


@compares("pomp", "pomp")
def pomp(ref: Reference, f: Fixtures) -> Iterator[Check]:
    scale, classes = ref.setting("logit_scale_exp"), ref.setting("n_classes")
    for _, key, size, name in ref.keys(r"logits_(K(\d+)_(corr|plain))"):
        leaves = ref.leaves({"images": "image_features", "text": "class_text_features"})
        labels, drawn = ref["labels"], ref[f"negatives_K{size}"]
        unit, is_positive = F.normalize(leaves["text"], dim=-1), labels[:, None] == drawn
        correction = ref.setting("correction").split()[0] if name == "corr" else None
        options = {"logit_scale": scale, "classes": classes, "correction": correction}
        logits = local_logits(F.normalize(leaves["images"], dim=-1), unit[labels], unit[drawn], is_positive, **options)
        loss = F.cross_entropy(logits, torch.zeros_like(labels))
        loss.backward()
        kept = torch.cat([torch.ones(len(labels), 1, dtype=torch.bool), ~is_positive], dim=1)
        yield ref.check(logits, f"logits_{key}", where=kept)
        yield ref.check(loss, f"loss_{key}")
        yield ref.check(leaves["images"].grad, f"grad_image_{key}")
        yield ref.check(leaves["text"].grad, f"grad_text_{key}")


@compares("tpt", "tpt")
def tpt_selection(ref: Reference, f: Fixtures) -> Iterator[Check]:
    logits = ref["fn_logits"][None]
    for (key,) in ref.keys(r"fn_selected_index.*"):
        share = _share_of_views(ref, key)
        yield ref.check(confident_views(logits, share)[0], key, f"views kept of {share:.0%}")
    kept = logits[:, ref["fn_selected_index"]]
    yield ref.check(kept[0], "fn_selected_logits")
    yield ref.check(mean_entropy(kept)[0], "fn_entropy")


def _share_of_views(ref: Reference, key: str) -> float:
    """The first is told as "floor(64*.1)", the others as "percentile 0.25"."""
    product = re.search(rf"\*\s*({NUMBER})\)", ref.meaning(key))
    return float(product[1]) if product else ref.stated(key, "percentile")


@compares("tpt", "tpt")
def tpt_tuning(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names, count = class_names(ref), len(ref.keys(r"views_img\d+"))
    backbone = f.backbone(ref)
    text = build_classifier(backbone, names, ["a photo of a {}."])
    support = FeatureSet(torch.zeros(2, backbone.embed_dim), torch.arange(2), names)
    with torch.no_grad():
        views = torch.stack([backbone.encode_image(ref[f"views_img{i}"]) for i in range(count)])
    told = ref.setting("optimiser")
    rate, decay = stated_in(told, "lr"), stated_in(told, "wd")
    for case, variant in ref.setting("variants").items():
        share = variant.get("selection", PUBLISHED_SELECTION)
        options = {"n_views": views.shape[1], "selection": share, "steps": variant["steps"]}
        adapter = build_adapter("tpt", lr=rate, weight_decay=decay, ctx_init=variant.get("ctx"), **options)
        start = {} if "ctx" in variant else {"ctx": ref[f"{case}__ctx_initial"]}
        adapter.fit(support, text, backbone=backbone, resources=start)
        yield ref.check(adapter.ctx, f"{case}__ctx_initial")
        before = adapter._scores(views, adapter._prompts, adapter.ctx.expand(count, -1, -1))
        kept, after = confident_views(before, share), adapter.tuned_logits(views)
        views_entropy = entropy_of(before.log_softmax(dim=-1))  # (I, V)
        for i in range(count):
            key = f"{case}__img{i}__"
            yield ref.check(before[i], f"{key}logits_before")
            yield ref.check_choice(kept[i], f"{key}selected", -views_entropy[i])
            yield ref.check(mean_entropy(before[i : i + 1, kept[i]])[0], f"{key}loss_before")
            yield ref.check(after[i], f"{key}logits_after")


GROUPS = (schedule, coop, coop_training, cocoop, kgcoop, biomed_coop, pomp, tpt_selection, tpt_tuning)
