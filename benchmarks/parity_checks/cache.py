"""Caches of support features: Tip-Adapter, APE, TIP-X, ProKeR, and X-MoRe's captions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vladapt import FeatureSet, TextClassifier
from vladapt.adapters.cache import tip_x as tip_x_file
from vladapt.adapters.cache.ape import channel_criterion, channel_similarity, select_channels
from vladapt.adapters.cache.proker import Problem, support_rows
from vladapt.adapters.cache.x_more import confidence, mixture

from .comparison import compares, published
from .fixtures import NUMBER, Check, Fixtures, Reference, UnreadableFixture, stated_in

APE_AXES = ("beta", "alpha", "gamma")
TIP_X_AXES = ("alpha", "beta", "gamma")


@compares("tip-adapter", "tip_adapter_*shot")
def tip_adapter(ref: Reference, f: Fixtures) -> Iterator[Check]:
    support = f.support(ref)
    for key, name in ref.keys(r"tip_logits_test_(.+)"):
        if name == "searched":
            continue
        beta, alpha = ref.stated(key, "beta"), ref.stated(key, "alpha")
        adapter = published("tip-adapter", beta=beta, alpha=alpha)
        adapter.fit(support, f.text)
        yield ref.check(adapter.logits(f.test_set), key, f"logits at beta {beta}, alpha {alpha}")
    adapter = published("tip-adapter", **search_grid(ref, "search_scale_order", ("beta", "alpha")))
    chosen = adapter.fit(support, f.text, val=f.val).chosen
    yield ref.check(chosen["beta"], "search_best_beta", "searched beta")
    yield ref.check(chosen["alpha"], "search_best_alpha", "searched alpha")
    yield ref.check(adapter.logits(f.test_set), "tip_logits_test_searched", "logits there")


@compares("tip-adapter-f", "tip_adapter_f")
def tip_adapter_f(ref: Reference, f: Fixtures) -> Iterator[Check]:
    adapter = published("tip-adapter-f", select="last", **tip_adapter_f_options(ref))
    adapter.fit(f.support(ref), f.text, val=f.val, resources={"batch_order": ref["batch_order"]})
    yield ref.check(adapter.keys, "adapter_weight_final", f"keys after {len(ref['loss_per_step'])} steps")
    yield ref.check(adapter.logits(f.test_set), "test_logits_after_each_epoch_last", "test logits")


def tip_adapter_f_options(ref: Reference) -> dict:
    """How the reference trained, at which beta and alpha, and where it searched them then."""
    training = {name: ref.setting(name) for name in ("epochs", "batch_size", "lr", "eps")}
    training["weight_decay"] = stated_in(ref.setting("optimizer"), "weight decay")
    start = {"beta": ref.setting("init_beta"), "alpha": ref.setting("init_alpha")}
    return {**training, **start, **search_grid(ref, "search_scale_order", ("beta", "alpha"))}


@compares("ape", "ape_*shot")
def ape(ref: Reference, f: Fixtures) -> Iterator[Check]:
    support, top_q = f.support(ref), ref.setting("top_q")
    for key, name in ref.keys(r"indices_(.+)"):
        images = (support.unit, support.one_hot()) if "support features" in ref.meaning(key) else ()
        channels = select_channels(channel_criterion(f.text.weights, ref.stated(key, "w"), *images), top_q)
        yield ref.check(channels, key, f"channels, {name}")
        yield ref.check(channel_similarity(f.text.weights, *images), f"sim_{name}", f"similarity, {name}")
    options = {"top_q": top_q, "w": tuple(ref.setting("w_main"))}
    at = {axis: ref.stated("ape_logits_init", axis) for axis in APE_AXES}
    adapter = published("ape", **options, **at)
    adapter.fit(support, f.text)
    yield ref.check(adapter.logits(f.test_set), "ape_logits_init", "logits")
    adapter = published("ape", **options, **search_grid(ref, "order", APE_AXES))
    chosen = adapter.fit(support, f.text, val=f.val).chosen
    yield ref.check([chosen[axis] for axis in APE_AXES], "search_best", "searched beta, alpha, gamma")
    yield ref.check(adapter.logits(f.test_set), "ape_logits_searched", "logits there")


@compares("ape-t", "ape_t")
def ape_t(ref: Reference, f: Fixtures) -> Iterator[Check]:
    adapter = published("ape-t", select="last", **ape_t_options(ref))
    adapter.fit(f.support(ref), f.text, val=f.val, resources={"batch_order": ref["batch_order"]})
    steps = len(ref["loss_per_step"])
    yield ref.check(adapter.channels, "indices", "channels")
    yield ref.check(adapter.residual, "trained_res", f"residual after {steps} steps")
    yield ref.check(adapter.value_scale, "trained_value_weights", f"value weights after {steps} steps")


def ape_t_options(ref: Reference) -> dict:
    """How the reference chose channels, and trained."""
    names = ("top_q", "lr", "eps", "weight_decay", "epochs", "batch_size", "beta", "alpha")
    criterion = "text" if "text features only" in ref.setting("criterion") else "image_text"
    return {**{name: ref.setting(name) for name in names}, "w": tuple(ref.setting("w")), "criterion": criterion}


def search_grid(ref: Reference, order: str, axes: tuple[str, ...]) -> dict[str, tuple]:
    """The ends and the number of points of the grid that was searched, one entry per axis.

    Args:
        order: the hyper-parameter that says in which order the fixture lists axes; the published one is that of `axes`.
    """
    listed = re.findall(r"\w+", ref.setting(order, " ".join(axes)))
    if sorted(listed) != sorted(axes):
        raise UnreadableFixture(f"the axes {listed} of the search are not {list(axes)}")
    places = [listed.index(axis) for axis in axes]
    return {name: tuple(ref.setting(name)[place] for place in places) for name in ("search_scale", "search_step")}


@compares("tip-x", "tipx")
def tip_x(ref: Reference, f: Fixtures) -> Iterator[Check]:
    support, val, test = tip_x_inputs(ref, f)
    options = {"temperature": ref.setting("temperature")}
    adapter = published("tip-x", **options, **ref.setting("given"))
    adapter.fit(support, f.text, val=val)
    keys = adapter._log_signature(adapter.keys)
    for images, name in ((test, "test"), (val, "val")):
        divergences = tip_x_file.divergences(adapter._log_signature(images.unit), keys)
        yield ref.check(divergences, f"kl_{name}_support", f"divergences of {name}")
    yield ref.check(adapter.logits(val), "val_logits_given", "logits of val")
    take_the_range_of(test, adapter)
    yield ref.check(adapter.logits(test), "test_logits_given", "logits of test, scaled as released")
    adapter = published("tip-x", **options, **_tip_x_grid(ref))
    chosen = adapter.fit(support, f.text, val=val).chosen
    yield ref.check([chosen[axis] for axis in TIP_X_AXES], "search_best", "searched alpha, beta, gamma")
    take_the_range_of(test, adapter)
    yield ref.check(adapter.logits(test), "test_logits_searched", "logits there, scaled as released")


def tip_x_inputs(ref: Reference, f: Fixtures) -> tuple[FeatureSet, FeatureSet, FeatureSet]:
    """Support, val and test: the first so many rows of the common ones."""
    val, test = (
        images.select(torch.arange(ref.setting(f"n_{name}", len(images))))
        for name, images in (("val", f.val), ("test", f.test_set))
    )
    return f.support(ref), val, test


def take_the_range_of(images: FeatureSet, adapter) -> None:
    """The released defect: divergences of test images are mapped by their own range to the cosines of val."""
    keys = adapter._log_signature(adapter.keys)
    found = tip_x_file.divergences(adapter._log_signature(images.unit), keys)
    adapter.ranges = [float(found.min()), float(found.max()), *adapter.ranges[2:]]


def _tip_x_grid(ref: Reference) -> dict[str, tuple]:
    """Its ends are told in words: "alpha to 50, beta 1..50, gamma to 30". The option has beta first."""
    words, axes = ref.setting("search_scale"), ("beta", "alpha", "gamma")
    ends = [re.search(rf"{axis} (?:to |{NUMBER}\.\.)({NUMBER})", words) for axis in axes]
    if not all(ends):
        raise UnreadableFixture(f"search_scale is told in unknown words: {words!r}")
    steps = ref.setting("search_step")
    return {"search_scale": tuple(float(end[1]) for end in ends), "search_step": tuple(steps[axis] for axis in axes)}


@compares("x-more", "xmore")
def x_more(ref: Reference, f: Fixtures) -> Iterator[Check]:
    image, captions = ref["image_logits"].log_softmax(dim=-1), ref["caption_logits"].log_softmax(dim=-1)
    caption = captions.logsumexp(dim=1) - math.log(captions.shape[1])  # (N, C), the mean over (N, K, C)
    weights = []
    for name, log_probabilities in (("image", image), ("caption", caption)):
        found = confidence(log_probabilities)
        weights.append(released_weights(found))
        yield ref.check(found, f"{name}_coefficient", f"confidence of the {name}")
        yield ref.check(weights[-1], f"{name}_weight", f"weight of the {name}, as released")
    scores = mixture(image, caption, *weights).exp() * (weights[0] + weights[1])[:, None]
    yield ref.check(scores, "scores", "scores, weighed as released")


def released_weights(confidences: Tensor) -> Tensor:
    """The released order: each confidence over the sum of all so far."""
    return confidences / confidences.abs().cumsum(dim=0)


@compares("proker", "proker")
def proker(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The released logits have no logit scale, so that it is 1 here; its views are rows of their own."""
    text = TextClassifier(f.text.weights, logit_scale=1.0)
    for _, case in ref.keys(r"(\w+)_best"):
        support = _proker_support(ref, f, case)
        options = {"views": 0 if support.views is None else support.views.shape[1], "most_rows": 0}
        right = [100 * (text.logits(f.test_set.unit).argmax(dim=1) == f.test_set.labels).double().mean()]
        for key, name in ref.keys(rf"{case}_(given\d*)"):
            at = {"beta": ref.setting(f"{name}.beta"), "penalty": ref.setting(f"{name}.lmbda")}
            adapter = published("proker", **options, **at)
            adapter.fit(support, text)
            yield ref.check(adapter.logits(f.test_set), key, f"logits at {at}, {case}")
            right.append(f.accuracy(adapter))
        adapter = published("proker", **options, **_proker_grid(ref))
        report = adapter.fit(support, text, val=f.val)
        yield ref.check([report.chosen[name] for name in ("beta", "penalty")], f"{case}_best", f"searched, {case}")
        yield ref.check(adapter.logits(f.test_set), f"{case}_searched", f"logits there, {case}")
        yield ref.check([*right[:2], f.accuracy(adapter)], f"{case}_acc")
        rows, labels = support_rows(support, options["views"])
        problem = Problem.of(rows, labels, rows @ text.weights.T)
        val, grids = f.val.unit, [axis.grid for axis in adapter._axes(support)]
        score = partial(adapter.weighting.val_score, labels=f.val.labels)
        scores = problem.scores(val, val @ text.weights.T, *grids, score)
        yield ref.check(100 * scores, f"{case}_val_accuracy")


def _proker_support(ref: Reference, f: Fixtures, case: str) -> FeatureSet:
    """Those that the hyper-parameter of this name tells: "support1_*", or every so many rows with a second view."""
    words = str(ref.setting(case))
    if named := re.search(r"\b(support\w*?)_\*", words):
        return f.part(named[1])
    told = re.search(r"support rows (\d+),(\d+),", words)
    if told is None:
        raise UnreadableFixture(f"{case} is told in unknown words: {words!r}")
    first, second = map(int, told.groups())
    everything = f.part("support")
    some = everything.select(torch.arange(first, len(everything), second - first))
    further = [ref[key] for key, _ in ref.keys(r"view(\d+)")]
    return replace(some, views=torch.stack([some.features, *further], dim=1))


def _proker_grid(ref: Reference) -> dict[str, tuple]:
    """Both axes are told as (lower end, upper end, points)."""
    axes = [ref.setting(f"grid.{name}") for name in ("beta", "lmbda")]
    ends = {name: tuple(axis[:2]) for name, axis in zip(("search_beta", "search_penalty"), axes)}
    return {**ends, "search_step": tuple(axis[2] for axis in axes)}


GROUPS = (tip_adapter, tip_adapter_f, ape, ape_t, tip_x, x_more, proker)
