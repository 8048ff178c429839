"""TransCLIP against outputs of the public reference code, and against published accuracies on real features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity_checks.transductive import few_shot_as_released, released_links, zero_shot

from vladapt.adapters.transductive._mixture import ShotImages, Solution, first_mixture, solve
from vladapt.core.registry import build_adapter

PUBLISHED = {
    "CLIP_RN50": (71.54, 95.92),
    "CLIP_ViTB32": (81.29, 90.35),
    "CLIP_ViTL14": (85.47, 99.10),
    "RemoteCLIP_ViTB32": (95.22, 97.91),
}


@pytest.mark.parametrize("comparison", [zero_shot, few_shot_as_released], ids=["zero-shot", "few-shot"])
def test_agrees_with_the_released_code(agrees, comparison):
    """With shots each gamma goes on from the z, means and variance of the one before; ours starts anew at each."""
    agrees(comparison)


def test_links_of_shots_in_order_do_better_than_the_released_ones(make_task):
    """Same shots, same start: the mixed-up rows cost accuracy."""
    right = {"ours": [], "theirs": []}
    for seed in range(4):
        task = make_task(classes=10, shots=16, dim=32, noise=1.5, text_noise=1.5, seed=seed)
        queries, labels = task.test.without_labels(), task.test.labels
        adapter = build_adapter("transclip", gamma=0.2)
        adapter.fit(task.support, task.text, unlabeled=queries)
        right["ours"].append((adapter.predict(queries) == labels).double().mean())
        logits, one_hot = task.text.logits(queries.unit), task.support.one_hot()
        shots = ShotImages(task.support.unit, one_hot, adapter.temperature * 0.2)
        mixed_up = released_links(queries.unit, logits, task.support.unit, one_hot, 3, 0.5)
        start = Solution(logits.softmax(dim=1), first_mixture(queries.unit, logits, 8, shots))
        solution = solve(mixed_up, start, shots, iterations=10, inner_iterations=5, temperature=adapter.temperature)
        right["theirs"].append((solution.assignments.argmax(dim=1) == labels).double().mean())
    assert sum(right["ours"]) > sum(right["theirs"])


def accuracy(logits, labels):
    return 100 * float((logits.argmax(dim=-1) == labels).double().mean())


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_zero_shot_accuracies(whurs19, model):
    """All 1005 images, average prompt."""
    data, text = whurs19(model)
    adapter = build_adapter("transclip", mode="zero-shot")
    adapter.fit(data.without_labels(), text, unlabeled=data.without_labels())
    before, after = PUBLISHED[model]
    assert accuracy(text.logits(data.unit), data.labels) == pytest.approx(before, abs=0.1)
    assert accuracy(adapter.logits(data), data.labels) == pytest.approx(after, abs=0.1)


def drawn(labels, shots, seed):
    """Rows of the support, of min(4, shots) val images a class, and of all others."""
    generator = torch.Generator().manual_seed(seed)
    support, val, test = [], [], []
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)].tolist()
        end = shots + min(4, shots)
        support, val, test = support + rows[:shots], val + rows[shots:end], test + rows[end:]
    return support, val, test


@pytest.mark.parametrize("model", ["CLIP_RN50", "CLIP_ViTB32"])
@pytest.mark.parametrize("shots", [4, 16])
def test_shots_on_real_features(whurs19, model, shots):
    """Mean of 2 seeds: far above zero-shot; above the zero-shot mode, or within a point where that is near its end."""
    data, text = whurs19(model)
    found = {"text": [], "zero-shot": [], "few-shot": []}
    for seed in (1, 2):
        support, val, test = (data.select(rows) for rows in drawn(data.labels, shots, seed))
        found["text"].append(accuracy(text.logits(test.unit), test.labels))
        for mode in ("zero-shot", "few-shot"):
            adapter = build_adapter("transclip", mode=mode)
            adapter.fit(support, text, val=val, unlabeled=test.without_labels(), seed=seed)
            found[mode].append(accuracy(adapter.logits(test), test.labels))
    few, zero, plain = (np.mean(found[name]) for name in ("few-shot", "zero-shot", "text"))
    assert few > plain + 10 and few > zero - 1
    if (model, shots) != ("CLIP_RN50", 4):
        assert few > zero + 1
