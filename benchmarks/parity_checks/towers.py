"""What is changed inside the towers: tokens, low-rank matrices, biases and norms, the projection, all weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt import Batch, FeatureSet, Item, build_adapter, build_classifier
from vladapt.adapters.weights._changes import interpolated
from vladapt.adapters.weights._linear_head import LinearHead
from vladapt.core.backbones.prompted import CoupledTokens, PromptTokens, hang_prompts
from vladapt.core.contracts import TrainingImages
from vladapt.core.contracts.resources import PreProjection
from vladapt.core.training import train as training
from vladapt.core.training.epoch_hooks import newest_share
from vladapt.core.training.lora import add_lora, load_lora_state, merge_lora
from vladapt.core.training.teacher import copy_of

from .fixtures import Check, Fixtures, Reference

DEVIATIONS = {
    "open_clip": "none",
    "vpt": "float32 unless `amp` says otherwise (released: float16); any depth of tower; the domain's prompts and "
    'augmentation in place of "a photo of a {}."',
    "maple": "as vpt, and any widths (released: 512 and 768)",
    "prompt-src": "as vpt; the Gaussian that averages the epochs moves with their number where it is not given. The "
    "comparison sets the fixture's learning rates, tokens and teacher's texts",
    "lora": "float32 unless `amp` says otherwise; steps rounded up to whole epochs; blocks counted by each tower's own "
    "depth. The comparison is of the layers; the training is checked against a loop written out",
    "clipfit": "its anchor has a fixture (below, text-anchor); the training is checked against a loop written out. "
    "Batches of 32 (released: 32 or 128); a class's text is encoded once a step, not twice; the paper's penalty on "
    "changes of the norms is not in the released training, nor here",
    "wise-ft": "alpha is chosen on val (the released code leaves the choice to its caller); the head starts at the "
    "logit bias where there is one. The fixture is of the linear version, its training loop restated on features; the "
    "tower version is checked against a loop written out",
    "projection": "ProLIP; it begins with the first view of the list (released: with the second); the change P - P0 is "
    "learned, which is the same; losses use the backbone's own logit scale. The comparison lists the views in the "
    "released order",
    "full": "no fixture: checked on which tensors change, and its contrastive loss, FLYP's, against a batch written "
    "out. Batch and warm-up are for few images (released: 512, 500 steps)",
    "lit": "no fixture: checked that the locked tower stays bit for bit while the other and the logit scale change. "
    "The text tower can read beforehand (paper: from scratch), at the settings of `full`",
}


def tiny_clip(f: Fixtures) -> Iterator[Check]:
    ref = f.reference("open_clip", "tiny_clip_features")
    with torch.no_grad():
        image = f.backbone.encode_image(ref["pixels"], normalize=False)
        text = f.backbone.encode_text(ref["tokens"], normalize=False)
        logits = f.backbone.logit_scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    tokens = f.backbone.tokenize([f"a photo of a {name}." for name in ref.given["classnames"]])
    for key, ours in {"tokens": tokens, "image_features": image, "text_features": text}.items():
        yield ref.check(ours, key)
    yield ref.check(logits, "logits_per_image", "logits")


class _Run:
    """One run of a fixture of tokens in the towers: its tensors are under `key`."""

    def __init__(self, ref: Reference, key: str):
        self.ref, self.key = ref, key

    def stack(self, names) -> Tensor | None:
        found = [self.ref[f"{self.key}__{name}"] for name in names if f"{self.key}__{name}" in self.ref]
        return torch.stack(found) if found else None

    def check(self, ours, name: str) -> Check:
        return self.ref.check(ours, f"{self.key}__{name}", f"{name.replace('__', ' ').replace('_', ' ')}, {self.key}")

    def check_pass(self, towers, count: int) -> Iterator[Check]:
        """Features, logits and loss of the towers, and the backward pass; `count` words give way to tokens."""
        rest = " ".join(["a", "photo", "of", "a"][count:])
        names = [name.replace("_", " ") for name in self.ref.given["classnames"]]
        image = towers.encode_image(self.ref["pixels"], normalize=False)
        text = towers.encode_text([f"{rest} {name}.".strip() for name in names], normalize=False)
        logits = towers.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        loss = F.cross_entropy(logits, self.ref["labels"])
        loss.backward()
        for name, ours in {"image_features": image, "text_features": text, "logits": logits, "loss": loss}.items():
            if f"{self.key}__{name}" in self.ref:
                yield self.check(ours, name)


def vpt(f: Fixtures) -> Iterator[Check]:
    """VPT, and tokens in both towers (IVLP), which PromptSRC has too."""
    ref = f.reference("vpt", "vpt_ivlp")
    runs = ("vpt_n4_d1", "vpt_n4_d2", "vpt_n8_d3", "ivlp_v2x3_t2x3", "ivlp_v4x2_t4x3", "ivlp_v3x1_t5x1")
    for run in (_Run(ref, key) for key in runs):
        image, text = (run.stack([f"{kind}_prompt_{i}" for i in range(3)]) for kind in ("vision", "text"))
        towers = copy_of(f.backbone)
        made = hang_prompts(towers, image=PromptTokens(image), text=None if text is None else PromptTokens(text))
        yield from run.check_pass(towers, 0 if text is None else text.shape[1])
        for kind, own in (("vision", made.image), ("text", made.text)):
            for block in range(own.depth if own is not None else 0):
                yield run.check(own.tokens.grad[block], f"grad__{kind}_prompt_{block}")


def maple(f: Fixtures) -> Iterator[Check]:
    ref = f.reference("maple", "maple")
    for depth in (1, 2, 3):
        for count in (2, 3):
            run = _Run(ref, f"d{depth}_n{count}")
            text_names = ["ctx", *(f"compound_prompts_text.{i}" for i in range(depth - 1))]
            layer_names = ["proj", *(f"compound_prompt_projections.{i}" for i in range(depth - 1))]
            text, layers = PromptTokens(run.stack(text_names)), []
            for name in layer_names:
                layers.append(torch.nn.Linear(64, 64))
                layers[-1].load_state_dict({part: ref[f"{run.key}__{name}.{part}"] for part in ("weight", "bias")})
            towers = copy_of(f.backbone)
            hang_prompts(towers, image=CoupledTokens(text, layers), text=text)
            yield from run.check_pass(towers, 2 if count == 2 else 4)
            for block, name in enumerate(text_names):
                yield run.check(text.tokens.grad[block], f"grad__{name}")
            for layer, name in zip(layers, layer_names):
                yield run.check(layer.weight.grad, f"grad__{name}.weight")
                yield run.check(layer.bias.grad, f"grad__{name}.bias")


def prompt_src(f: Fixtures) -> Iterator[Check]:
    """Four epochs of one step, from the fixture's tokens, at its rates, beside its teacher's texts."""
    ref = f.reference("prompt-src", "promptsrc")
    names, gpa, labels = tuple(ref.given["classnames"]), ref.given["gpa"], ref["labels"]
    settings = {"lr": 0.05, "epochs": gpa["epochs"], "batch_size": len(labels)}
    adapter = build_adapter("prompt-src", gpa_mean=gpa["mean"], gpa_std=gpa["std"], **settings)
    kinds = {"image": "vision", "text": "text"}
    adapter._tokens = lambda backbone: {
        kind: PromptTokens(torch.stack([ref[f"init__{name}_prompt_{i}"] for i in range(3)]))
        for kind, name in kinds.items()
    }
    adapter._frozen_classes = lambda base, images: F.normalize(ref["teacher_text_raw"], dim=-1)
    factors = [rate / adapter.lr for rate in ref.given["optimiser"]["lr_per_epoch"]]
    support = FeatureSet(torch.zeros(len(labels), f.backbone.embed_dim), labels, names)
    text = build_classifier(f.backbone, names, ["a photo of a {}."])
    with mock.patch.object(training, "epoch_rates", lambda settings: factors):
        images = {"images": _training_images(ref, names)}
        report = adapter.fit(support, text, backbone=f.backbone, resources=images, seed=1)
    yield ref.check([row["loss"] for row in report.history], "losses")
    yield ref.check(report.history[0]["cross-entropy"], "ce", "cross-entropy of the first step")
    for kind, name in kinds.items():
        for block in range(3):
            ours = adapter.changed[f"{kind}.tokens"][block]
            yield ref.check(ours, f"final_gpa__{name}_prompt_{block}", f"{name} tokens {block}, averaged")
    yield ref.check(adapter.logits(Batch(pixels=ref["pixels"])), "logits_gpa", "logits")
    newest = [newest_share(epoch, gpa["mean"], gpa["std"]) for epoch in range(1, gpa["epochs"] + 1)]
    shares = [share * math.prod(1 - later for later in newest[i + 1 :]) for i, share in enumerate(newest)]
    yield ref.check(shares, "gpa_weights", "weights of the epochs")


def _training_images(ref: Reference, names) -> TrainingImages:
    """The fixture's pixels, as images that need neither decoding nor a transform."""
    return TrainingImages(
        items=[Item(str(i), Path(), {"row": i}, label=int(label)) for i, label in enumerate(ref["labels"])],
        load=lambda item: ref["pixels"][item.decode["row"]].numpy(),
        train_transform=lambda decoded, seed: torch.from_numpy(decoded),
        eval_transform=torch.from_numpy,
        prompts=[["a photo."] for _ in names],
    )


def lora(f: Fixtures) -> Iterator[Check]:
    ref, towers = f.reference("lora", "clip_lora"), copy_of(f.backbone)
    places = [f"{tower}transformer.resblocks.{i}.attn" for tower in ("", "visual.") for i in range(3)]
    add_lora(towers, dropout=0.0)
    given = {
        f"{place}.{part}_proj.lora_{matrix}": ref[f"layer{i}_{part}_{matrix}"]
        for i, place in enumerate(places)
        for part in "qkv"
        for matrix in "AB"
    }
    load_lora_state(towers, given)
    towers.model.train()
    image, text = towers.encode_image(ref["pixels"], False), towers.encode_text(ref["tokens"], False)
    yield ref.check(image, "image_features_train")
    yield ref.check(text, "text_features_train")
    logits = towers.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    loss = F.cross_entropy(logits, ref["labels"])
    loss.backward()
    yield ref.check(loss, "loss")
    gradients = {name: p.grad for name, p in towers.model.named_parameters()}
    for layer, part, matrix in ((0, "q", "A"), (0, "v", "B"), (5, "q", "A"), (5, "v", "B")):
        ours = gradients[f"{places[layer]}.{part}_proj.lora_{matrix}.lora.weight"]
        yield ref.check(ours, f"grad_layer{layer}_{part}_{matrix}")
    merge_lora(towers)
    towers.model.eval()
    yield ref.check(towers.encode_image(ref["pixels"], False), "image_features_merged")
    yield ref.check(towers.encode_text(ref["tokens"], False), "text_features_merged")
    yield ref.check(towers.model.get_submodule(places[0]).in_proj_weight[:64], "merged_q_weight_layer0")


def projection(f: Fixtures) -> Iterator[Check]:
    for lr, penalty, epochs in ((1e-3, 0.1, 12), (1e-2, 0.0, 7)):
        ref, key = f.reference("projection", "prolip_adapter"), f"lr{lr}_lam{penalty}"
        views = torch.stack([ref[f"view{i}"] for i in (1, 2, 0)], dim=1)  # the reference counts before it looks
        hidden = FeatureSet(ref["view0"], ref["labels"], views=views, tap="pre_projection")
        backbone = _ProjectionAlone(ref["proj0"])
        adapter = build_adapter("projection", lr=lr, penalty=penalty, epochs=epochs)
        support = FeatureSet(backbone.project(ref["view0"]), ref["labels"])
        adapter.fit(support, f.text, backbone=backbone, resources={"pre_projection": PreProjection(hidden)})
        yield ref.check(ref["proj0"] + adapter.change, f"proj_{key}")
        yield ref.check(adapter.logits(Batch(pre_projection=ref["test_pre"])), f"test_logits_{key}")


class _ProjectionAlone:
    """A backbone of which nothing but the projection is asked."""

    spec, fingerprint, capabilities = "projection", "0" * 16, frozenset({"hidden"})

    def __init__(self, weight: Tensor):
        self.weight = weight

    def need(self, capability: str) -> None:
        assert capability in self.capabilities

    def image_projection(self):
        return SimpleNamespace(weight=self.weight, bias=None)

    def project(self, hidden: Tensor, normalize: bool = True) -> Tensor:
        return hidden @ self.weight


def wise_ft(f: Fixtures) -> Iterator[Check]:
    ref = f.reference("wise-ft", "wise_ft")
    support = FeatureSet(ref["support_features_raw"], ref["support_labels"])
    yield ref.check(LinearHead.of(f.text).weight, "zeroshot_weight")
    for alpha in (0.0, 0.3, 0.5, 1.0):
        options = {"lr": 0.05, "epochs": 12, "batch_size": 160, "warmup": 0.25}
        adapter = build_adapter("wise-ft", freeze_encoder=True, alpha=alpha, **options)
        report = adapter.fit(support, f.text)
        yield ref.check(adapter.head, f"merged_weight_a{alpha}")
        yield ref.check(adapter.logits(f.test_set), f"test_logits_a{alpha}")
    yield ref.check([row["loss"] for row in report.history], "losses")
    yield ref.check([row["lr"] for row in report.history], "lrs", "rates")
    yield ref.check(adapter.head, "finetuned_weight")
    yield ref.check(adapter.head_bias, "finetuned_bias")
    parts = ("weight", "bias")
    start = {"weight": ref["zeroshot_weight"], "bias": torch.zeros(len(ref["finetuned_bias"]))}
    fishers = tuple({part: ref[f"fisher{i}_{part}"] for part in parts} for i in (0, 1))
    merged = interpolated(start, {part: ref[f"finetuned_{part}"] for part in parts}, 0.4, fishers)
    for part in parts:
        yield ref.check(merged[part], f"fisher_merged_{part}_a0.4")


GROUPS = (tiny_clip, vpt, maple, prompt_src, lora, projection, wise_ft)
