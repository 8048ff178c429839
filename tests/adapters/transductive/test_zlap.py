"""ZLaP: the graph and the inverse written out, each of its terms, images outside the graph, and hard shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from parity_checks.transductive import propagated as released

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter

HARD = {"noise": 1.6, "dim": 24}


def fitted(images, text, **options):
    adapter = build_adapter("zlap", **options)
    adapter.fit(None, text, unlabeled=images.without_labels())
    return adapter


def kept(cosines, count):
    """(B, N) weights of the `count` largest of each row, not below 0; zero elsewhere."""
    least = cosines.topk(min(count, cosines.shape[1]), dim=1).values[:, -1:]
    return torch.where(cosines >= least, cosines.clamp_min(0), 0)


def dense(x, t, other, k=5, gamma=5.0, alpha=0.3, drop=""):
    """Scores of the images x and of `other` images by a dense inverse in float64, without the term `drop`."""
    x, t, other = x.double(), t.double(), other.double()
    classes, nodes = len(t), len(t) + len(x)
    edges = torch.zeros(nodes, nodes, dtype=torch.float64)
    edges[classes:, classes:] = 0 if drop == "images" else kept(x @ x.T, k)
    edges[classes:, :classes] = kept(x @ t.T, k) ** (1 if drop == "gamma" else gamma)
    graph = edges + edges.T
    graph.fill_diagonal_(0)
    degrees = graph.sum(dim=1)
    scale = torch.where(degrees > 0, degrees, 1).rsqrt()
    if drop != "normalisation":
        graph = scale[:, None] * graph * scale
    inverse = torch.linalg.inv(torch.eye(nodes, dtype=torch.float64) - alpha * graph)[:, :classes]
    given = torch.cat([kept(other @ t.T, k) ** (1 if drop == "gamma" else gamma), kept(other @ x.T, k)], dim=1)
    return inverse[classes:], given @ inverse


def test_agrees_with_the_released_code(agrees):
    agrees(released)


@pytest.mark.parametrize("given", [{}, {"k": 3, "gamma": 2.0, "alpha": 0.1}], ids=str)
def test_the_inverse_written_out(make_task, given):
    task = make_task(**HARD)
    adapter = fitted(task.test, task.text, **{{"k": "n_neighbors"}.get(name, name): v for name, v in given.items()})
    inside, outside = dense(task.test.unit, task.text.weights, task.val.unit, **given)
    torch.testing.assert_close(adapter.logits(task.test).exp().double(), inside, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(adapter.logits(task.val).exp().double(), outside, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("term", ["images", "gamma", "normalisation"])
def test_without_a_term_the_scores_are_others(make_task, term):
    task = make_task(**HARD)
    scores = fitted(task.test, task.text, alpha=0.1).logits(task.test).exp().double()
    inside, _ = dense(task.test.unit, task.text.weights, task.val.unit, alpha=0.1, drop=term)
    assert (scores - inside).abs().max() > 0.05 * scores.max()


def test_no_answer_depends_on_the_batch(make_task):
    task = make_task(**HARD)
    adapter = fitted(task.test, task.text)
    both = torch.cat([task.val.features, task.test.features])
    together = adapter.logits(both)
    alone = torch.cat([adapter.logits(row[None]) for row in both])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_an_image_far_from_texts_and_images_has_the_least_score_and_no_nan(make_task):
    task = make_task(classes=2, dim=4)
    away = -task.test.unit.mean(dim=0, keepdim=True)
    logits = fitted(task.test.select([0]), task.text).logits(away)
    assert torch.isfinite(logits).all()


def test_copies_of_one_image_have_one_score(make_task):
    task = make_task(**HARD)
    twice = FeatureSet(torch.cat([task.test.features, task.test.features[:7]]))
    logits = fitted(twice, task.text).logits(twice)
    torch.testing.assert_close(logits[:7], logits[-7:], rtol=1e-4, atol=1e-4)


def test_more_columns_than_fit_at_once_are_solved_in_turn(make_task, monkeypatch):
    task = make_task(**HARD)
    whole = fitted(task.test, task.text).propagated
    monkeypatch.setattr("vladapt.adapters.transductive._propagation.COLUMN_NUMBERS", 100)
    torch.testing.assert_close(fitted(task.test, task.text).propagated, whole)


def test_neighbours_bring_the_texts_to_images_that_the_texts_mistake():
    """Two arcs: each begins at its own text and ends nearer to the other one."""
    angle = torch.linspace(0, 1.1, 40)
    arcs = []
    for axis in range(2):
        arc = torch.zeros(40, 4)
        arc[:, axis], arc[:, 2 + axis] = angle.cos(), 2 * angle.sin()
        arc[:, 1 - axis] = 0.7 * angle
        arcs.append(arc)
    images = FeatureSet(torch.cat(arcs), torch.arange(2).repeat_interleave(40))
    text = TextClassifier(torch.eye(2, 4))
    adapter = fitted(images, text, alpha=0.95, n_neighbors=4)
    before, after = (
        logits.argmax(dim=1) == images.labels for logits in (text.logits(images.unit), adapter.logits(images))
    )
    assert before.double().mean() + 0.08 < after.double().mean()


def test_what_it_refuses_is_one_line(make_task):
    task = make_task()
    with pytest.raises(CapabilityError, match="classifies unlabelled images together"):
        build_adapter("zlap").fit(None, task.text)
    narrow = replace(task.test, features=task.test.features[:, :8])
    with pytest.raises(CapabilityError, match="width"):
        build_adapter("zlap").fit(None, task.text, unlabeled=narrow)


def test_sparse_keeps_the_largest_score_of_each_node(make_task):
    task = make_task(**HARD)
    whole, sparse = (fitted(task.test, task.text, setup=setup) for setup in ("inductive", "sparse-inductive"))
    best = whole.propagated.argmax(dim=1, keepdim=True)
    whole.propagated = torch.zeros_like(whole.propagated).scatter_(1, best, whole.propagated.gather(1, best))
    torch.testing.assert_close(whole.logits(task.val), sparse.logits(task.val))
