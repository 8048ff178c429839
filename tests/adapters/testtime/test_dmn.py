"""DMN: both memories written out, what each is for, its residuals, and the weights that are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.testtime import dmn as released

from vladapt.core.registry import build_adapter, load_adapter

HARD = {"noise": 1.6, "dim": 24}
PLAIN = {"shuffle": False, "dynamic_weight": 1.0, "static_weight": 1.0, "train": False}


@pytest.fixture(scope="module")
def task(make_task):
    """Unequal shots, and two views of each."""
    return make_task(shots=[2, 5, 4, 4, 6], views=2, **HARD)


def fitted(task, *, support=True, val=None, **options):
    adapter = build_adapter("dmn", **{**PLAIN, **options})
    images = task.test.without_labels()
    adapter.report = adapter.fit(task.support if support else None, task.text, val=val, unlabeled=images, seed=3)
    return adapter


def written_out(task, shots=True, slots=50, beta=5.5, b2=1.0, b3=1.0):
    """(N, C) scores by lists, in double precision."""
    t, scale, support = task.text.weights.double(), task.text.logit_scale, task.support
    unit = support.unit.double()
    held: dict[int, list] = {c: [] for c in range(len(t))}

    def read(x, entries):
        m = torch.stack([
            F.normalize(sum((-beta * (1 - x @ k)).exp() * k for k in of_class), dim=0) for of_class in entries
        ])  # fmt: skip
        return (scale * m @ x).softmax(dim=0)

    answers = []
    for x in task.test.unit.double():
        p = (scale * t @ x).softmax(dim=0)
        entropy, label = float(-(p * (p + 1e-8).log()).sum()), int(p.argmax())
        held[label] = sorted([*held[label], (entropy, x)], key=lambda each: each[0])[:slots]
        of_shots = [list(unit[support.labels == c]) if shots else [] for c in range(len(t))]
        total = p + b2 * read(x, [[t[c], *of_shots[c], *(k for _, k in held[c])] for c in range(len(t))])
        if shots:
            total = total + b3 * read(x, [[t[c], *of_shots[c]] for c in range(len(t))])
        answers.append(total)
    return torch.stack(answers)


def test_agrees_with_the_released_code(agrees):
    agrees(released)


@pytest.mark.parametrize("shots", [False, True])
def test_the_memories_written_out(task, shots):
    given = {"slots": 2, "beta": 3.0, "b2": 0.5, "b3": 2.0}
    options = {"slots": 2, "beta": 3.0, "dynamic_weight": 0.5, "static_weight": 2.0}
    scores = fitted(task, support=shots, **options).logits(task.test).exp().double()
    torch.testing.assert_close(scores, written_out(task, shots, **given), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("changed", [{"b2": 0.0}, {"b3": 0.0}, {"slots": 1}, {"shots": False}], ids=str)
def test_without_a_memory_the_scores_are_others(task, changed):
    scores = fitted(task).logits(task.test).exp().double()
    assert (scores - written_out(task, **changed)).abs().max() > 0.05


def test_labels_help_where_texts_are_often_wrong(make_task):
    task = make_task(shots=8, text_noise=4.0, **HARD)
    zero_shot, adapted = (
        float((logits.argmax(dim=1) == task.test.labels).double().mean())
        for logits in (task.text.logits(task.test.unit), fitted(task, static_weight=10.0).logits(task.test))
    )
    assert adapted > zero_shot + 0.1


def test_one_step_of_the_residuals_is_a_loop_written_out(task):
    """Cross-entropy of the static memory and of the text, AdamW's first step on five residuals of zero."""
    task = replace(task, text=replace(task.text, logit_scale=5.0))  # so soft that no gradient is lost in rounding
    adapter = fitted(task, train=True, epochs=1, lr=0.01, views=0, batch_size=1000, class_weight="none")
    text, unit, labels = task.text.weights, task.support.unit, task.support.labels
    residuals = {name: torch.zeros_like(text).requires_grad_() for name in ("query", "key", "value", "output", "words")}
    total = 0
    for x, label in zip(unit, labels):
        q, m = F.normalize(x + residuals["query"].mean(dim=0), dim=0), []
        for c in range(len(text)):
            entries = torch.cat([text[c : c + 1], unit[labels == c]])
            k, v = (F.normalize(entries + residuals[name][c], dim=1) for name in ("key", "value"))
            m.append(F.normalize(((-5.5 * (1 - k @ q)).exp()[:, None] * v).sum(dim=0), dim=0))
        m = F.normalize(torch.stack(m) + residuals["output"], dim=1)
        words = F.normalize(text + residuals["words"], dim=1)
        total = total + F.cross_entropy(5 * m @ x, label) + F.cross_entropy(5 * words @ x, label)
    (total / len(unit)).backward()
    for name, residual in residuals.items():
        wanted = -0.01 * residual.grad / (residual.grad.abs() + 1e-8)
        sure = residual.grad.abs() > 1e-4  # rounding decides where there is no gradient
        assert sure.any(), name
        torch.testing.assert_close(getattr(adapter, f"{name}_residual")[sure], wanted[sure], atol=1e-4, rtol=1e-2)
    assert adapter.report.trained_parameters == 5 * text.numel()


def test_residuals_learn_what_the_shots_are(task, tmp_path):
    adapter = fitted(task, train=True, epochs=15, lr=0.01)
    losses = [row["loss"] for row in adapter.report.history]
    assert losses[-1] < 0.5 * losses[0]
    again = load_adapter(adapter.save(tmp_path / "adapter.safetensors"))
    torch.testing.assert_close(again.logits(task.val), adapter.logits(task.val))


def test_weights_are_chosen_on_a_stream_of_val(task):
    searched = fitted(task, val=task.val, dynamic_weight=None, static_weight=None, ties="published")
    assert searched.report.chosen_on == "val (30 images)"
    scores = {}
    for b2 in (0.001, 0.03, 1.0, 30.0):
        for b3 in (0.001, 1.0, 1000.0):
            adapter = build_adapter("dmn", **{**PLAIN, "dynamic_weight": b2, "static_weight": b3})
            adapter.fit(task.support, task.text, unlabeled=task.val.without_labels())
            scores[b2, b3] = float((adapter.logits(task.val).argmax(dim=1) == task.val.labels).double().mean())
    assert searched.report.val_score >= max(scores.values()) - 1e-9
    assert searched.report.chosen == {
        "dynamic_weight": searched.weights[0],
        "static_weight": searched.weights[1],
    }
    one = fitted(task, val=task.val, dynamic_weight=None, static_weight=2.0)
    assert one.weights[1] == 2.0


def test_without_anything_to_choose_on_both_memories_weigh_one(make_task):
    task = make_task(shots=1, **HARD)
    assert fitted(task, dynamic_weight=None, static_weight=None).weights == [1.0, 1.0]
    assert fitted(task, support=False, dynamic_weight=None, static_weight=None).weights == [1.0, 1.0]
