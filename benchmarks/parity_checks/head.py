"""Heads on features: zero-shot, CLIP-Adapter, TaskRes, CLAP, LP++, GDA, SS-Text and the cross-modal probe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt import FeatureSet, FitReport, TextClassifier
from vladapt.adapters.head import clap as clap_file
from vladapt.adapters.head import cross_modal as cross_modal_file
from vladapt.adapters.head import gda as gda_file
from vladapt.adapters.head._gaussian import (
    class_means,
    mean_class_precision,
    new_class_gaussians,
    shrunk_precision,
)
from vladapt.core.training.small_heads import Epoch

from .comparison import compares, published
from .fixtures import Check, Fixtures, Reference, UnreadableFixture


@compares("zero-shot", "tip_adapter_*shot", only_first=True)
def zero_shot(ref: Reference, f: Fixtures) -> Iterator[Check]:
    adapter = published("zero-shot")
    adapter.fit(f.support(ref), f.text)
    yield ref.check(adapter.logits(f.test_set), "zero_shot_logits_test", "logits")


@compares("clip-adapter", "clip_adapter")
def clip_adapter(ref: Reference, f: Fixtures) -> Iterator[Check]:
    support = FeatureSet(ref["raw_image_features"], ref["labels"])
    adapter = published("clip-adapter", epochs=1, ratio=ref.setting("ratio"), reduction=ref.setting("reduction"))
    adapter.fit(support, TextClassifier(ref["raw_text_features"], logit_scale=ref.setting("logit_scale_exp")))
    adapter.down, adapter.up = ref["w1"].requires_grad_(), ref["w2"].requires_grad_()
    logits = adapter.logits(support)
    loss = F.cross_entropy(logits, support.labels)
    loss.backward()
    yield ref.check(logits, "logits")
    yield ref.check(loss, "loss")
    yield ref.check(adapter.down.grad, "grad_w1")
    yield ref.check(adapter.up.grad, "grad_w2")


@compares("taskres", "taskres")
def taskres(ref: Reference, f: Fixtures) -> Iterator[Check]:
    base, support = ref["base_text_features"], FeatureSet(ref["raw_image_features"], ref["labels"])
    text = TextClassifier(base, unnormalized=base, logit_scale=ref.setting("logit_scale_exp"))
    for _, alpha in ref.keys(r"logits_a(.+)"):
        adapter = published("taskres", alpha=float(alpha), epochs=1)
        adapter.fit(support, text)
        adapter.residual = torch.zeros_like(base)
        yield ref.check(adapter.logits(support), f"logits_zero_residual_a{alpha}")
        adapter.residual = ref["residual"].clone().requires_grad_()
        logits = adapter.logits(support)
        loss = F.cross_entropy(logits, support.labels)
        loss.backward()
        yield ref.check(logits, f"logits_a{alpha}")
        yield ref.check(loss, f"loss_a{alpha}")
        yield ref.check(adapter.residual.grad, f"grad_residual_a{alpha}")


CLAP_CASES = {
    "none": {"constraint": "none"},
    "l2": {},
    "l2_corrected": {"multipliers": "corrected"},
    "l2_constant": {"multipliers": "constant"},
    "l2_adaptative": {"adaptive": True},
}


@compares("clap", "clap")
def clap_loss(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Loss and gradient at one point, of the first rows."""
    rows, labels, text = ref["train_features"], ref["train_labels"], _clap_text(ref)
    base = text.unnormalized
    some = slice(len(ref["static_logits"]))
    for _, case in ref.keys(r"static_loss_(.+)"):
        adapter = published("clap", epochs=1, views=0, **CLAP_CASES[case])
        adapter.fit(FeatureSet(rows, labels), text)
        if case != "none":
            adapter.penalties = adapter._penalties(ref["zero_shot_train_logits"], labels)
            yield ref.check(adapter.penalties, f"lambda_{case}")
        adapter.prototypes = (base + ref["delta"]).requires_grad_()
        logits = adapter.logits(rows[some])
        loss = F.cross_entropy(logits, labels[some]) + adapter._penalty(base)
        loss.backward()
        yield ref.check(logits, "static_logits")
        yield ref.check(loss, f"static_loss_{case}")
        yield ref.check(adapter.prototypes.grad, f"static_grad_{case}")


@compares("clap", "clap")
def clap_training(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """A few epochs, at the rates that the fixture lists."""
    ref.require("init", "ZS")
    support, told = _clap_support(ref), ref.setting("train")
    options = {name: told[name] for name in ("epochs", "batch_size", "momentum", "weight_decay")}
    options.update(batches=told["batches_per_epoch"], views=support.views.shape[1])
    for _, case in ref.keys(r"trained_prototypes_(.+)"):
        losses: list[float] = []
        adapter = published("clap", **options, **CLAP_CASES[case])
        with _rates_and_losses(told["epoch_lrs"], losses):
            adapter.fit(support, _clap_text(ref), resources={"batch_order": ref["permutations"]})
        yield ref.check(adapter.prototypes, f"trained_prototypes_{case}")
        yield ref.check(losses, f"train_losses_{case}")
        yield ref.check(adapter.logits(f.test_set), f"test_logits_{case}")
        if case != "none":
            key = f"lambda_epoch{told['epochs']}_{case}" if adapter.adaptive else f"lambda_{case}"
            yield ref.check(adapter.penalties, key, f"multipliers after the training, {case}")


def _clap_text(ref: Reference) -> TextClassifier:
    base = ref["base_text_features"]
    return TextClassifier(base, unnormalized=base, logit_scale=ref.setting("logit_scale_exp"))


def _clap_support(ref: Reference) -> FeatureSet:
    """The rows, view by view, as images with views: as many views as are told, else as often as labels repeat."""
    rows, labels = ref["train_features"], ref["train_labels"]
    told = re.search(r"(\d+) augmented views?", ref.meaning("train_features"))
    sizes = [size for size in range(1, len(labels) + 1) if len(labels) % size == 0]
    images = len(labels) // int(told[1]) if told else next(n for n in sizes if (labels.view(-1, n) == labels[:n]).all())
    views = rows.view(-1, images, rows.shape[1])  # (V, N, D)
    return FeatureSet(views[0], labels[:images], views=views.transpose(0, 1).contiguous())


@contextmanager
def _rates_and_losses(rates: list[float], losses: list[float]) -> Iterator[None]:
    """CLAP trains at these rates in place of Dassl's, and the losses of its steps are noted."""
    train_epochs = clap_file.train_epochs

    def noting(*args):
        for epoch in train_epochs(*args):
            losses.extend(epoch.losses.tolist())
            yield epoch

    with (
        mock.patch.object(clap_file.LearningRates, "dassl", lambda *args, **kwargs: rates),
        mock.patch.object(clap_file, "train_epochs", noting),
    ):
        yield


@compares("lp-plus-plus", "lpp_*shot")
def lp_plus_plus(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Accuracy at the best epoch on val; everything else after the last epoch."""
    support, resources = f.support(ref), {"bias": ref["bias_init"]}
    alpha_every = re.search(r"every (\d+)", ref.setting("alpha_update"))[1]
    options = {"epochs": ref.setting("epochs"), "momentum": ref.setting("momentum"), "alpha_every": int(alpha_every)}
    adapter = published("lp-plus-plus", **options)
    report = adapter.fit(support, f.text, val=f.val, resources=resources)
    accuracy = f.accuracy(adapter)
    for name, key in (("alpha", "alpha_init"), ("lr_w", "lr_w"), ("lr_alpha", "lr_alpha")):
        yield ref.check(report.chosen[name], key)
    yield ref.check([row["loss"] for row in report.history], "loss_per_epoch")
    adapter._train(adapter._problem(support), ref["bias_init"], adapter.epochs)  # without val the last epoch is kept
    yield ref.check(adapter.weight, "w_final")
    yield ref.check(adapter.bias, "bias_final")
    yield ref.check(adapter.alpha, "alpha_final")
    yield ref.check(adapter.logits(f.test_set), "test_logits_final")
    yield ref.check(accuracy, "test_accuracy_at_best_val")


@compares("gda", "gda")
def gda(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for _, variant in ref.keys(r"views_(.+)"):
        support = _with_views(ref[f"views_{variant}"], ref[f"labels_{variant}"])
        adapter = published("gda", views=support.views.shape[1])
        report = _fit_gda(adapter, ref, support, f.text, f.val)
        rows, labels = adapter._rows(support)
        means, counts = class_means(rows, labels, len(f.text))
        for key, ours in {
            "mus": means,
            "cov_inv": shrunk_precision(rows, labels, means, counts),
            "W": adapter.weight.T,
            "b": adapter.bias,
            "best_alpha": report.chosen["alpha"],
            "best_val_accuracy": 100 * report.val_score,
            "test_logits": adapter.logits(f.test_set),
            "test_accuracy": f.accuracy(adapter),
        }.items():
            yield ref.check(ours, f"{key}_{variant}")


@compares("gda", "gda_base2new")
def gda_base_to_new(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The first classes are those that images are seen of, the others are new."""
    support, old = _with_views(ref["views"], ref["labels"]), ref.setting("n_base")
    base, new = (TextClassifier(f.text.weights[part]) for part in (slice(old), slice(old, None)))
    options = {"neighbors": ref.setting("k"), "text_copies": ref.setting("text_copies")}
    adapter = published("gda", estimator="class-mean", views=support.views.shape[1], **options)
    report = _fit_gda(adapter, ref, support, base, f.val.select(f.val.labels < old))
    rows, row_labels = adapter._rows(support)
    means, counts = class_means(rows, row_labels, old)
    seen, unseen = f.test_set.select(f.test_set.labels < old), f.test_set.select(f.test_set.labels >= old)
    yield ref.check(mean_class_precision(rows, row_labels, means, counts), "base_cov_inv")
    yield ref.check(report.chosen["alpha"], "alpha")
    yield ref.check(adapter.weight.T, "base_W")
    yield ref.check(adapter.bias, "base_b")
    yield ref.check(100 * (adapter.predict(seen) == seen.labels).double().mean(), "base_acc")
    other = adapter.for_classes(None, tuple(f"new {number}" for number in range(len(new))), new)
    means, precision = new_class_gaussians(new.weights, adapter.rows, *options.values())
    yield ref.check(means, "new_mu")
    yield ref.check(precision, "new_cov_inv")
    yield ref.check(other.weight.T, "new_W")
    yield ref.check(other.bias, "new_b")
    yield ref.check(other.logits(unseen), "new_logits")
    yield ref.check(100 * (other.predict(unseen) == unseen.labels - old).double().mean(), "new_acc")


def _with_views(views: Tensor, labels: Tensor) -> FeatureSet:
    """Images of (V, N, D) views."""
    views = views.transpose(0, 1)
    return FeatureSet(views[:, 0], labels, views=views)


def _fit_gda(adapter, ref: Reference, support: FeatureSet, text: TextClassifier, val: FeatureSet) -> FitReport:
    """With alpha searched among the fixture's values."""
    with mock.patch.object(gda_file, "GRID", tuple(ref.setting("alphas"))):
        return adapter.fit(support, text, val=val)


SS_TEXT = {"sstext": "ss-text", "sstextp": "plus"}
SS_TEXT_ONLY = {"ss_weights": "images", "lambda_perf_weights": "confidence", "lambda_fixed_weights": "fixed"}


@compares("ss-text", "sstext")
def ss_text(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Both variants on the shots that each scenario drew; the others on the draw that their meaning names."""
    test = FeatureSet(f.test_set.features * ref["test_norm"][:, None], f.test_set.labels)
    for key, draw, solver in ref.keys(r"(\w+)_(sstextp?)_weights"):
        adapter = _ss_text(ref, f, draw, variant=SS_TEXT[solver])
        yield ref.check(adapter.weights, key)
        yield ref.check(adapter.logits(test).softmax(dim=1), f"{draw}_{solver}_test_prob")
    for key, variant in SS_TEXT_ONLY.items():
        draws = [draw for _, draw in ref.keys(r"(\w+_s\d+)_index") if draw.startswith(_drawn_as(ref.meaning(key)))]
        options = {"fixed_lambda": ref.stated(key, "lambda")} if variant == "fixed" else {}
        yield ref.check(_ss_text(ref, f, draws[0], variant=variant, **options).weights, key)


def _ss_text(ref: Reference, f: Fixtures, draw: str, **options):
    """Fitted to the drawn rows of the fixture's pool, with the lengths that the towers gave."""
    features, labels = (torch.cat([f.common[f"{part}_{name}"] for part in ("support", "val")]) for name in ROWS)
    pool = ref["pool_index"]
    everything = FeatureSet(features[pool] * ref["pool_norm"][:, None], labels[pool], raw_norms=True)
    text = f.text.weights * ref["text_norm"][:, None]
    classifier = TextClassifier(text, unnormalized=text, logit_scale=math.exp(ref.setting("logit_scale")))
    adapter = published("ss-text", least_lambda=0.001, **options)
    adapter.fit(everything.select(ref[f"{draw}_index"]), classifier)
    return adapter


ROWS = ("features", "labels")


def _drawn_as(meaning: str) -> str:
    """ "... on standard_k4" -> "standard_k4_"."""
    drawn = re.search(r"\bon (\w+_k\d+)\b", meaning)
    if drawn is None:
        raise UnreadableFixture(f"no draw is told in {meaning!r}")
    return f"{drawn[1]}_"


@compares("cross-modal", "cross_modal_lp")
def cross_modal(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """One point of the grid, on the fixture's batches; the trained head, and half of it with half of the zero-shot."""
    support, told = f.support(ref), ref.setting
    prompts = [ref["text_raw"][ref["text_labels"] == c] for c in range(len(ref["zero_shot"]))]
    means = torch.stack([rows.mean(dim=0) for rows in prompts])
    text = TextClassifier(means, prototypes=prompts, unnormalized=means, logit_scale=math.exp(told("logit_scale")))
    options = {"lr": told("lr"), "weight_decay": told("weight_decay"), "batch_size": told("batch_size")}
    options.update(iterations=told("iters"), warmup=told("warmup"), eval_every=told("eval_freq"), views=0)
    options.update(init="zero-shot" if told("init") == "zero-shot" else "random")
    accuracies = []
    for share, name in ((1.0, ""), (0.5, "wiseft_")):
        parts: list[Epoch] = []
        adapter = published("cross-modal", trained_share=share, **options)
        adapter._batches = lambda samples, size, seed: _as_served(ref)
        first = mock.patch.object(cross_modal_file, "_random", lambda like, seed: ref["init_weight"])
        with first, _noted(cross_modal_file, parts):
            report = adapter.fit(support, text, val=f.val)
        yield ref.check(adapter.weights, f"{name}weight")
        yield ref.check(adapter.logits(f.test_set), f"{name or 'test_'}logits")
        accuracies.append(f.accuracy(adapter))
    yield ref.check(accuracies, "acc")
    yield ref.check(cross_modal_file._zero_shot(text), "zero_shot")
    yield ref.check(report.chosen["step"], "best_iter")
    yield ref.check([row["val_score"] for row in report.history], "val_acc")
    for key, steps in (("lr", [rate for part in parts for rate in part.rates]),
                       ("loss", torch.cat([part.losses[:, 0] for part in parts]).tolist())):  # fmt: skip
        told_of = torch.arange(len(ref[key])) < len(steps)  # ours ends with the last look at val
        yield ref.check(steps + [0.0] * int((~told_of).sum()), key, where=told_of)


def _as_served(ref: Reference) -> Iterator[tuple[Tensor, Tensor]]:
    """The fixture's batches, again and again; prompts are counted class by class here."""
    place = ref["text_labels"].argsort(stable=True).argsort()
    return zip(cycle(ref["image_batches"]), cycle(place[ref["text_batches"]]))


@contextmanager
def _noted(module, epochs: list[Epoch]) -> Iterator[None]:
    """The epochs of the trainings in a module, as they end."""
    train_epochs = module.train_epochs

    def noting(*args):
        for epoch in train_epochs(*args):
            epochs.append(epoch)
            yield epoch

    with mock.patch.object(module, "train_epochs", noting):
        yield


GROUPS = (
    zero_shot,
    clip_adapter,
    taskres,
    clap_loss,
    clap_training,
    lp_plus_plus,
    gda,
    gda_base_to_new,
    ss_text,
    cross_modal,
)
