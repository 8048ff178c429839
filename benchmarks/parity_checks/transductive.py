"""TransCLIP, StatA and ZLaP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.adapters.transductive._anchored import Anchor, Settings, solve_anchored
from vladapt.adapters.transductive._mixture import QueryImages, ShotImages, Solution, first_mixture, solve
from vladapt.adapters.transductive._neighbours import Links, mutual_links
from vladapt.core.data.nearest import nearest_rows

from .comparison import compares
from .fixtures import Check, Fixtures, Reference, UnreadableFixture, stated_in

PUBLISHED = build_adapter("transclip")
"""For what the fixture does not say: the temperature of the likelihood, and how many images a first mean is made of."""
SETUPS = {"transductive": "transductive", "inductive": "inductive", "sparse": "sparse-inductive"}
"""What zlap's fixture calls a setup -> the option."""


@compares("transclip", "transclip")
def zero_shot(ref: Reference, f: Fixtures) -> Iterator[Check]:
    images, neighbours = FeatureSet(f.test_set.features), ref.setting("n_neighbors")
    adapter = build_adapter(
        "transclip",
        mode="zero-shot",
        text_weight=ref.setting("lambda_zs"),
        n_neighbors=neighbours,
        iterations=ref.setting("max_iter"),
        inner_iterations=ref.setting("inner_iter"),
    )
    text = TextClassifier(f.common["text_features"], logit_scale=ref.setting("temperature"))  # as the fixture calls it
    adapter.fit(images, text, unlabeled=images)
    yield ref.check(adapter.logits(images).exp(), "zs_z", "zero-shot z")
    yield ref.check(adapter.means, "zs_mu", "zero-shot means")
    yield ref.check(adapter.variance, "zs_var", "zero-shot variance")
    yield ref.check(f.accuracy(adapter), "zs_accuracy", "zero-shot accuracy")
    logits, links = _text_logits(ref, f), mutual_links(images.features, neighbours)
    queries = QueryImages(images.features, ref.setting("lambda_zs") * logits.log_softmax(dim=1), links)
    start = Solution(logits.softmax(dim=1), first_mixture(images.features, logits, PUBLISHED.confident_images))
    for key, number in ref.keys(r"zs_z_iter(\d+)"):
        found = solve(queries, start, None, iterations=int(number), **_solving(ref)).assignments
        yield ref.check(found, key, f"zero-shot z, iteration {number}")
    # Ours is the sum of the reference's matrix and its transpose, over twice the number of neighbours.
    theirs = ref["zs_affinity"]
    ours = 2 * neighbours * links.spread(torch.eye(len(theirs)))
    yield ref.check(ours - theirs.T, "zs_affinity", "affinity")


@compares("transclip", "transclip")
def few_shot_as_released(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for _, name in ref.keys(r"(fs\d+)_val_index"):
        shots = int(name.removeprefix("fs"))
        support = f.support_of(shots)
        labels = F.one_hot(support.labels, len(f.text)).float()
        val = f.val.select(ref[f"{name}_val_index"])
        closest = nearest_rows(val.features, f.test_set.features, 1)[1][:, 0]
        features, logits = f.test_set.features, _text_logits(ref, f)
        strength = (ref.setting("n_neighbors"), ref.setting("lambda_fs"))
        queries = released_links(features, logits, support.features, labels, *strength)
        shown = ShotImages(support.features, labels, 0.0)
        first = first_mixture(features, logits, PUBLISHED.confident_images, shown)
        solution = Solution(logits.softmax(dim=1), first)
        updated = solve(queries, solution, None, iterations=0, **_solving(ref))
        yield ref.check(updated.assignments, f"{name}_z_iter0", f"{shots} shots, first z")
        found = []
        for i, gamma in enumerate(ref.setting("gammas")):
            given = ShotImages(support.features, labels, PUBLISHED.temperature * gamma)
            solution = solve(queries, solution, given, iterations=ref.setting("max_iter"), **_solving(ref))
            yield ref.check(solution.assignments, f"{name}_z_gamma{i}", f"{shots} shots, z at gamma {gamma}")
            guess = solution.assignments.argmax(dim=1)
            right = [(guess[closest] == val.labels).float().mean(), (guess == f.test_set.labels).float().mean()]
            found.append([float(share) for share in right])
        yield ref.check(solution.mixture.means, f"{name}_mu", f"{shots} shots, means")
        yield ref.check(solution.mixture.variance, f"{name}_var", f"{shots} shots, variance")
        best = max(found, key=lambda pair: pair[0])
        yield ref.check(100 * best[1], f"{name}_accuracy_at_best_val", f"{shots} shots, accuracy")


def _text_logits(ref: Reference, f: Fixtures) -> Tensor:
    """(Q, C). What cosines are multiplied by is the fixture's temperature."""
    return ref.setting("temperature") * f.test_set.features @ f.text.weights.T


def _solving(ref: Reference) -> dict:
    return {"inner_iterations": ref.setting("inner_iter"), "temperature": PUBLISHED.temperature}


def released_links(
    features: Tensor, logits: Tensor, shots: Tensor, labels: Tensor, neighbours: int, text_weight: float
) -> QueryImages:
    """What the released code links to what: row r of its matrix, over (shots, queries), meets row r of z, over
    (queries, shots), whoever that is; and each shot has lost its nearest query, as if that were itself.

    Args:
        features: (Q, D) unit rows of the queries.
        logits: (Q, C) of the text.
        shots: (S, D) unit rows.
        labels: (S, C) one-hot.
        neighbours: of each row.
        text_weight: of the text's predictions.
    """
    count = len(features)
    cosines, index = nearest_rows(torch.cat([shots, features]), features, 1 + neighbours)
    affinity = torch.zeros(len(shots) + count, count).scatter_(1, index[:, 1:], cosines[:, 1:])
    dense = (affinity[:count] + affinity[:count].T) / (2 * neighbours)
    rows, columns = dense.nonzero().T
    pull = text_weight * logits.log_softmax(dim=1) + affinity[count:].T @ labels / (2 * neighbours)
    return QueryImages(features, pull, Links.of(rows, columns, dense[rows, columns], count))


@compares("stat-a", "stata")
def anchored(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Each set of rows that the fixture solves, by the adapter and, what it does not keep, by its solver."""
    logit_scale = ref.setting("temperature", 100.0)  # as A10's fixture calls it; the released code writes 100 out
    for key, name in ref.keys(r"(\w+)_zs"):
        given = _anchored_settings(ref, name)
        rows = f.test_set.select(_rows_of(ref, name, given, len(f.test_set)))
        images, text = rows.without_labels(), TextClassifier(f.common["text_features"], logit_scale=logit_scale)
        options = {
            "alpha": given["alpha"],
            "soft_counts": given["soft_beta"],
            "neighbor_weight": given["lambda_laplacian"],
            "n_neighbors": given["n_neighbors"],
            "iterations": given["max_iter"],
        }
        adapter = build_adapter("stat-a", **options)
        adapter.fit(None, text, unlabeled=images)
        yield ref.check(adapter.logits(images).exp(), f"{name}_z", f"{name}, z")
        yield ref.check(adapter.means, f"{name}_mu", f"{name}, means")
        yield ref.check(adapter.variances, f"{name}_var", f"{name}, variances")
        y = text.logits(images.unit).softmax(dim=1)
        yield ref.check(y, key, f"{name}, zero-shot")
        found = [100 * (guess.argmax(dim=1) == rows.labels).double().mean() for guess in (y, adapter.logits(images))]
        yield ref.check(torch.stack(found), f"{name}_acc", f"{name}, accuracies")
        links = mutual_links(images.unit, adapter.n_neighbors)
        links = replace(links, weights=adapter.neighbor_weight * links.weights)
        queries = QueryImages(images.unit, y.log(), links)
        anchor = Anchor.of(images.unit, y, text.weights)
        yield ref.check(anchor.variance, f"{name}_var0", f"{name}, first variance")

        def solved(iterations: int, queries=queries, y=y, anchor=anchor, adapter=adapter):
            inner, temperature = adapter.inner_iterations, adapter.temperature
            how = Settings(adapter.alpha, adapter.soft_counts, iterations, inner, temperature)
            return solve_anchored(queries, y, anchor, how)

        yield ref.check(solved(adapter.iterations).weights, f"{name}_beta", f"{name}, weights of the images")
        for iteration, number in ref.keys(rf"{name}_z_iter(\d+)"):
            found = solved(int(number)).log_assignments.exp()
            yield ref.check(found, iteration, f"{name}, z, iteration {number}")


def _anchored_settings(ref: Reference, name: str) -> dict:
    """Hyper-parameters of one set of rows: its own before those of all."""
    own = ref.given.get(name.rstrip("0123456789"), {})
    return {**ref.given["all"], **own}


def _rows_of(ref: Reference, name: str, given: dict, count: int) -> Tensor:
    """Positions among the common test rows, of a list the fixture holds, or of how many it says are taken."""
    if f"{name}_index" in ref:
        return ref[f"{name}_index"]
    if number := re.fullmatch(r"(\w*?)(\d+)", name):
        return ref[f"{number[1]}_batches"][int(number[2])]
    if "rows" not in given:
        return torch.arange(count)
    first = stated_in(str(given["rows"]), "first", None)
    if first is None:
        raise UnreadableFixture(f"which rows {given['rows']!r} are is not known")
    return torch.arange(min(int(first), count))


@compares("zlap", "zlap")
def propagated(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Each setting on the graph of the test rows, and on that of the support rows for images outside it."""
    test, unlabelled = f.test_set, f.unlabelled(ref)
    for _, name in ref.keys(r"(\w+)_transductive"):
        given = ref.setting(name)
        options = {
            "n_neighbors": given["k"],
            "gamma": given["gamma"],
            "alpha": given["alpha"],
            "scale_similarities": given["scale_sim"],
            "iterations": ref.setting("cg")["maxiter"],
        }
        graphs = {"transductive": test.without_labels(), "inductive": unlabelled, "sparse": unlabelled}
        for kind, images in graphs.items():
            adapter = build_adapter("zlap", setup=SETUPS[kind], **options)
            adapter.fit(None, f.text, unlabeled=images)
            scores = adapter.logits(test)
            yield ref.check(scores.exp(), f"{name}_{kind}", f"{name}, {kind}, scores")
            right = 100 * (scores.argmax(dim=1) == test.labels).double().mean()
            yield ref.check(right[None], f"{name}_{kind}_acc", f"{name}, {kind}, accuracy")


GROUPS = (zero_shot, few_shot_as_released, anchored, propagated)
