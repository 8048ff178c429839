"""What is changed inside the towers: tokens, low-rank matrices, biases and norms, the projection, all weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt import Adapter, Backbone, Batch, FeatureSet, FitReport, Item, Label, build_classifier
from vladapt.adapters.weights._changes import FLOOR, interpolated
from vladapt.adapters.weights._linear_head import LinearHead
from vladapt.adapters.weights.two_stage import TwoStage
from vladapt.core.contracts import TrainingImages
from vladapt.core.contracts.resources import PreProjection
from vladapt.core.losses.cross_entropy import CrossEntropy
from vladapt.core.prompts.classifier import fill
from vladapt.core.training import batches
from vladapt.core.training import train as training
from vladapt.core.training.hooks import newest_share
from vladapt.core.training.lora import LowRank
from vladapt.core.training.tower_weights import copy_of

from .comparison import compares, published
from .fixtures import Check, Fixtures, Reference, UnreadableFixture

DEVIATIONS = {
    "open_clip": "none",
}


@compares("open_clip", "tiny_clip_features")
def tiny_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    backbone = f.backbone(ref)
    with torch.no_grad():
        image = backbone.encode_image(ref["pixels"], normalize=False)
        text = backbone.encode_text(ref["tokens"], normalize=False)
        logits = backbone.logit_scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    tokens = backbone.tokenize([ref.setting("template").format(name) for name in ref.setting("classnames")])
    for key, ours in {"tokens": tokens, "image_features": image, "text_features": text}.items():
        yield ref.check(ours, key)
    yield ref.check(logits, "logits_per_image", "logits")


class _Run:
    """One run of a fixture of tokens in the towers: its tensors are under `key`."""

    def __init__(self, ref: Reference, key: str):
        self.ref, self.key = ref, key

    def __contains__(self, name: str) -> bool:
        return f"{self.key}__{name}" in self.ref

    def __getitem__(self, name: str) -> Tensor:
        return self.ref[f"{self.key}__{name}"]

    def stack(self, *names: str) -> Tensor:
        """(blocks, n, W)"""
        return torch.stack([self[name] for name in names])

    def blocks(self, name: str) -> list[str]:
        """Its tensors NAME0, NAME1, ... as far as they go."""
        return [f"{name}{i}" for i in takewhile(lambda i: f"{name}{i}" in self, count())]

    def tokens(self, tower: str) -> Tensor | None:
        names = self.blocks(f"{tower}_prompt_")
        return self.stack(*names) if names else None

    def check(self, ours, name: str) -> Check:
        return self.ref.check(ours, f"{self.key}__{name}", f"{name.replace('__', ' ').replace('_', ' ')}, {self.key}")

    def check_pass(self, towers, template: str) -> Iterator[Check]:
        """Features, logits and loss of the towers, and the backward pass.

        Args:
            template: the text of a class, with {} for its name, that stands behind the tokens.
        """
        names = [name.replace("_", " ") for name in self.ref.setting("classnames")]
        image = towers.encode_image(self.ref["pixels"], normalize=False)
        text = towers.encode_text([template.format(name) for name in names], normalize=False)
        logits = towers.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        loss = F.cross_entropy(logits, self.ref["labels"])
        loss.backward()
        for name, ours in {"image_features": image, "text_features": text, "logits": logits, "loss": loss}.items():
            if name in self:
                yield self.check(ours, name)


def _behind(words: str, tokens: int) -> str:
    """What follows so many words, in whose place tokens come, of a text told as "'a photo of a NAME.' with ..."."""
    text = re.search(r"'([^']*NAME[^']*)'", words)
    if text is None:
        raise UnreadableFixture(f"no text with NAME is told in {words!r}")
    return " ".join(text[1].split()[tokens:]).replace("NAME", "{}")


@compares("vpt", "vpt_ivlp")
def vpt(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """VPT, and tokens in both towers (IVLP), which PromptSRC has too."""
    for run in (_Run(ref, key) for _, key in ref.keys(r"(.+)__logits")):
        image, text = run.tokens("vision"), run.tokens("text")
        words = ref.setting("vpt_text") if text is None else ref.setting(f"ivlp_init.{run.key}")
        towers = copy_of(f.backbone(ref))
        made = towers.attach_prompts(image=image, text=text)
        yield from run.check_pass(towers, _behind(words, 0 if text is None else text.shape[1]))
        for kind, prompts in (("vision", made.image), ("text", made.text)):
            for block in range(prompts.depth if prompts is not None else 0):
                yield run.check(prompts.tokens.grad[block], f"grad__{kind}_prompt_{block}")


@compares("maple", "maple")
def maple(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for _, key, n_ctx in ref.keys(r"(d\d+_n(\d+))__logits"):
        run = _Run(ref, key)
        text_names = ["ctx", *run.blocks("compound_prompts_text.")]
        layer_names = ["proj", *(f"compound_prompt_projections.{i}" for i in range(len(text_names) - 1))]
        text, layers = run.stack(*text_names), []
        for name in layer_names:
            state = {part: run[f"{name}.{part}"] for part in ("weight", "bias")}
            layers.append(torch.nn.Linear(*reversed(state["weight"].shape)))
            layers[-1].load_state_dict(state)
        towers = copy_of(f.backbone(ref))
        learned = towers.attach_prompts(text=text, couplings=layers).text.tokens
        yield from run.check_pass(towers, _behind(ref.setting(f"n_ctx.{n_ctx}"), text.shape[1]))
        for block, name in enumerate(text_names):
            yield run.check(learned.grad[block], f"grad__{name}")
        for layer, name in zip(layers, layer_names):
            yield run.check(layer.weight.grad, f"grad__{name}.weight")
            yield run.check(layer.bias.grad, f"grad__{name}.bias")


@compares("prompt-src", "promptsrc")
def prompt_src(ref: Reference, f: Fixtures) -> Iterator[Check]:
    adapter, report = prompt_src_trained(ref, f)
    yield ref.check([row["loss"] for row in report.history], "losses")
    yield ref.check(report.history[0]["cross-entropy"], "ce", "cross-entropy of the first step")
    for kind, name in KINDS.items():
        for block, ours in enumerate(adapter.changed[f"{kind}.tokens"]):
            yield ref.check(ours, f"final_gpa__{name}_prompt_{block}", f"{name} tokens {block}, averaged")
    yield ref.check(adapter.logits(Batch(pixels=ref["pixels"])), "logits_gpa", "logits")
    gpa = ref.setting("gpa")
    newest = [newest_share(epoch, gpa["mean"], gpa["std"]) for epoch in range(1, gpa["epochs"] + 1)]
    shares = [share * math.prod(1 - later for later in newest[i + 1 :]) for i, share in enumerate(newest)]
    yield ref.check(shares, "gpa_weights", "weights of the epochs")


KINDS = {"image": "vision", "text": "text"}


def prompt_src_trained(ref: Reference, f: Fixtures) -> tuple[Adapter, FitReport]:
    """Epochs of one step, from the fixture's tokens, at its rates, beside its teacher's texts."""
    ref.require("optimiser.momentum", 0.9)
    names, gpa, labels = tuple(ref.setting("classnames")), ref.setting("gpa"), ref["labels"]
    rates, depth, start = ref.setting("optimiser.lr_per_epoch"), ref.setting("depth"), _Run(ref, "init")
    adapter = published(
        "prompt-src",
        lr=max(rates),
        weight_decay=ref.setting("optimiser.weight_decay"),
        epochs=gpa["epochs"],
        batch_size=len(labels),
        gpa_mean=gpa["mean"],
        gpa_std=gpa["std"],
        n_image=ref.setting("n_ctx_vision"),
        n_text=ref.setting("n_ctx_text"),
        image_depth=depth,
        text_depth=depth,
        image_weight=ref.setting("image_loss_weight"),
        text_weight=ref.setting("text_loss_weight"),
    )
    adapter._tokens = lambda backbone: {kind: start.tokens(name) for kind, name in KINDS.items()}
    adapter._frozen_classes = lambda base, images: F.normalize(ref["teacher_text_raw"], dim=-1)
    backbone = f.backbone(ref)
    support = FeatureSet(torch.zeros(len(labels), backbone.embed_dim), labels, names)
    text = build_classifier(backbone, names, ["a photo of a {}."])
    with mock.patch.object(training, "epoch_rates", lambda settings: [rate / adapter.lr for rate in rates]):
        images = {"images": _training_images(ref, names)}
        return adapter, adapter.fit(support, text, backbone=backbone, resources=images, seed=1)


def _training_images(ref: Reference, names, prefix: str = "", templates: Sequence[str] = ()) -> TrainingImages:
    """The fixture's pixels, as images that need neither decoding nor a transform."""
    pixels, labels = ref[f"{prefix}pixels"], ref[f"{prefix}labels"]
    return TrainingImages(
        items=[Item(str(i), Path(), {"row": i}, Label(int(label))) for i, label in enumerate(labels)],
        load=lambda item: pixels[item.decode["row"]].numpy(),
        train_transform=lambda decoded, seed: torch.from_numpy(decoded),
        eval_transform=torch.from_numpy,
        prompts=[fill(templates, name) or ["a photo."] for name in names],
        templates=templates,
    )


@compares("lora", "clip_lora")
def lora(ref: Reference, f: Fixtures) -> Iterator[Check]:
    backbone = f.backbone(ref)
    places = [f"transformer.resblocks.{i}.attn" for i in range(len(backbone.blocks("text")))]
    places += [f"visual.transformer.resblocks.{i}.attn" for i in range(len(backbone.blocks("image")))]
    yield from check_lora(ref, copy_of(backbone), places)


def check_lora(ref: Reference, towers: Backbone, places: Sequence[str]) -> Iterator[Check]:
    """Of a tower that may be changed.

    Args:
        places: names of its attentions, in the fixture's order: text, then vision.
    """
    matrices = [groups for _, *groups in ref.keys(r"layer(\d+)_(\w+)_([AB])")]
    options = {"r": ref.setting("r"), "alpha": ref.setting("alpha"), "params": ref.setting("params").split(",")}
    LowRank.add(towers, dropout=0.0, **options)
    given = {
        f"{places[int(layer)]}.{part}_proj.lora_{matrix}": ref[f"layer{layer}_{part}_{matrix}"]
        for layer, part, matrix in matrices
    }
    LowRank(towers).load(given)
    towers.model.train()
    image, text = towers.encode_image(ref["pixels"], False), towers.encode_text(ref["tokens"], False)
    yield ref.check(image, "image_features_train")
    yield ref.check(text, "text_features_train")
    logits = towers.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    loss = F.cross_entropy(logits, ref["labels"])
    loss.backward()
    yield ref.check(loss, "loss")
    gradients = {name: p.grad for name, p in towers.model.named_parameters()}
    for key, layer, part, matrix in ref.keys(r"grad_layer(\d+)_(\w+)_([AB])"):
        yield ref.check(gradients[f"{places[int(layer)]}.{part}_proj.lora_{matrix}.lora.weight"], key)
    LowRank(towers).merge()
    towers.model.eval()
    yield ref.check(towers.encode_image(ref["pixels"], False), "image_features_merged")
    yield ref.check(towers.encode_text(ref["tokens"], False), "text_features_merged")
    for key, part, layer in ref.keys(r"merged_([qkv])_weight_layer(\d+)"):
        yield ref.check(_merged_weight(towers, places[int(layer)], part), key)


def _merged_weight(towers: Backbone, place: str, part: str) -> Tensor:
    """(W, W), of one projection of an attention; open_clip's own has the three in one."""
    weights = dict(towers.model.get_submodule(place).named_parameters())
    whole = weights.get("in_proj_weight")
    return weights[f"{part}_proj.weight"] if whole is None else whole.chunk(3)["qkv".index(part)]


@compares("projection", "prolip_adapter")
def projection(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for run in ref.setting("runs"):
        key, (adapter, _) = f"lr{run['lr']}_lam{run['lam']}", projection_trained(ref, f, run)
        yield ref.check(ref["proj0"] + adapter.change, f"proj_{key}")
        yield ref.check(adapter.logits(Batch(pre_projection=ref["test_pre"])), f"test_logits_{key}")


def projection_trained(ref: Reference, f: Fixtures, run: dict) -> tuple[Adapter, FitReport]:
    """One of the fixture's runs: a rate, a penalty and a number of epochs."""
    number = len(ref.keys(r"view\d+"))
    order = re.search(r"views ([\d,]+)", ref.setting("view_order"))[1].split(",")[:number]  # as 1,2,0,1,2,0...
    views = torch.stack([ref[f"view{i}"] for i in order], dim=1)
    hidden = FeatureSet(ref["view0"], ref["labels"], views=views, tap="pre_projection")
    backbone = _ProjectionAlone(ref["proj0"])
    adapter = published("projection", lr=run["lr"], penalty=run["lam"], epochs=run["epochs"])
    support = FeatureSet(backbone.project(ref["view0"]), ref["labels"])
    resources = {"pre_projection": PreProjection(hidden)}
    return adapter, adapter.fit(support, f.text, backbone=backbone, resources=resources)


class _ProjectionAlone:
    """A backbone of which nothing but the projection is asked."""

    spec, fingerprint, capabilities = "projection", "0" * 16, frozenset({"hidden"})

    def __init__(self, weight: Tensor):
        self.weight = weight

    def need(self, capability: str) -> None:
        assert capability in self.capabilities

    def need_texts(self, method: str = "") -> None:
        """Texts are given."""

    def check_channels(self, method: str, trains: bool) -> None:
        """It sees no images."""

    def image_projection(self):
        return SimpleNamespace(weight=self.weight, bias=None)

    def project(self, hidden: Tensor, normalize: bool = True) -> Tensor:
        return hidden @ self.weight


@compares("wise-ft", "wise_ft")
def wise_ft(ref: Reference, f: Fixtures) -> Iterator[Check]:
    support, steps = FeatureSet(ref["support_features_raw"], ref["support_labels"]), ref.setting("steps")
    options = {"lr": ref.setting("lr"), "weight_decay": ref.setting("weight_decay")}
    options.update(epochs=steps, batch_size=len(support), clip_grad=ref.setting("grad_clip"))
    options.update(warmup=ref.setting("warmup_steps") / steps, freeze_encoder=True)
    ref.require("fisher_floor", FLOOR)
    yield ref.check(LinearHead.of(f.text).weight, "zeroshot_weight")
    for _, alpha in ref.keys(r"test_logits_a(.+)"):
        adapter = published("wise-ft", alpha=float(alpha), **options)
        report = adapter.fit(support, f.text)
        yield ref.check(adapter.head, f"merged_weight_a{alpha}")
        yield ref.check(adapter.logits(f.test_set), f"test_logits_a{alpha}")
    yield ref.check([row["loss"] for row in report.history], "losses")
    yield ref.check([row["lr"] for row in report.history], "lrs", "rates")
    adapter = published("wise-ft", alpha=1.0, **options)
    adapter.fit(support, f.text)
    yield ref.check(adapter.head, "finetuned_weight")
    yield ref.check(adapter.head_bias, "finetuned_bias")
    parts = ("weight", "bias")
    start = {"weight": ref["zeroshot_weight"], "bias": torch.zeros_like(ref["finetuned_bias"])}
    fishers = tuple({part: ref[f"fisher{i}_{part}"] for part in parts} for i in (0, 1))
    for _, alpha in ref.keys(r"fisher_merged_weight_a(.+)"):
        merged = interpolated(start, {part: ref[f"finetuned_{part}"] for part in parts}, float(alpha), fishers)
        for part in parts:
            yield ref.check(merged[part], f"fisher_merged_{part}_a{alpha}")


@compares("two-stage", "two_stage_fs")
def two_stage(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Both stages on the fixture's batches, which come in the order of its images, and what they predict."""
    ref.require("eta_min", TwoStage.end_lr)
    ref.require("betas", [0.9, 0.999])
    base, templates = tuple(ref.setting("base_classes")), [ref.setting("template")]
    options = {"weight_decay": ref.setting("wd"), "iterations": ref.setting("n_iters")}
    options.update(lr=ref.setting("lr"), batch_size=ref.setting("batch_size"))
    adapter = published("two-stage", first_share=ref.setting("n_iters_frac"), **options)
    backbone, labels = f.backbone(ref), ref["train_labels"]
    support, text = _blank(backbone, labels, base), build_classifier(backbone, base, templates)
    images = {"images": _training_images(ref, base, "train_", templates)}
    with _in_order(), _noted_logits() as logits:
        report = adapter.fit(support, text, backbone=backbone, resources=images, seed=1)
    first = report.chosen["first stage"]
    if (first, report.chosen["steps"]) != (ref.setting("stage1_steps"), ref.setting("total_steps")):
        raise UnreadableFixture(f"{ref.setting('total_steps')} steps, of ours {report.chosen['steps']}")
    yield ref.check(backbone.tokenize(fill(templates, name)[0] for name in base), "tokens_base")
    for key, step in (("step0", 0), ("stage1_last", first - 1), ("stage2_last", len(logits) - 1)):
        yield ref.check(logits[step], f"logits_{key}")
    towers = adapter.adapted(backbone)
    state = towers.model.state_dict()
    for key, name in ref.keys(r"ln\.(.+)"):
        yield ref.check(state[name], key, "norms of the blocks")
    yield ref.check(build_classifier(towers, base, templates).weights, "classifier_init")
    yield ref.check(adapter.weights, "classifier")
    right = []
    for key, part in ref.keys(r"(\w+)_pixels"):
        if part == "train":
            continue
        named = adapter.for_classes(backbone, tuple(ref.setting(f"{part}_classes")))
        scores = named.logits(Batch(pixels=ref[key]))
        yield ref.check(scores, f"logits_{part}")
        right.append(100 * (scores.argmax(dim=1) == ref[f"{part}_labels"]).double().mean())
    yield ref.check(right, "acc")


def _blank(backbone: Backbone, labels: Tensor, names: tuple[str, ...]) -> FeatureSet:
    """A support whose features nothing reads."""
    return FeatureSet(torch.zeros(len(labels), backbone.embed_dim), labels, names)


def _in_order():
    """Every epoch sees the images in their order."""
    return mock.patch.object(batches, "epoch_order", lambda size, epoch, seed: torch.arange(size))


@contextmanager
def _noted_logits() -> Iterator[list[Tensor]]:
    """The logits of every step of the trainings inside, before its update."""
    logits, compute = [], CrossEntropy.compute

    def noting(self, out, progress):
        logits.append(out["logits"].detach().clone())
        return compute(self, out, progress)

    with mock.patch.object(CrossEntropy, "compute", noting):
        yield logits


GROUPS = (tiny_clip, vpt, maple, prompt_src, lora, projection, wise_ft, two_stage)
