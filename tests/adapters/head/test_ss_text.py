from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.head import ss_text

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.registry import build_adapter


def fitted(task, **options):
    adapter = build_adapter("ss-text", **options)
    adapter.report = adapter.fit(task.support, task.text)
    return adapter


def with_lengths(task, length=8.0):
    """The task with text features as a tower would give them."""
    raw = task.text.weights * torch.linspace(length, 1.2 * length, len(task.text))[:, None]
    return replace(task, text=replace(task.text, unnormalized=raw))


def test_agrees_with_the_reference(agrees):
    agrees(ss_text)


SHOTS = [1, 7, 2, 16, 5]


@pytest.mark.parametrize("variant", ["ss-text", "plus", "confidence", "fixed"])
def test_weights_are_the_text_and_the_shots(make_task, variant):
    """Class by class, as the paper writes them."""
    task = with_lengths(make_task(shots=SHOTS))
    features, labels, text = task.support.features, task.support.labels, task.text.unnormalized
    zero_shot = task.text.logits(task.support.unit).softmax(dim=1)
    expected = []
    for c, count in enumerate(SHOTS):
        mine = labels == c
        lam = {"ss-text": 1 / 31, "plus": 1 / count, "confidence": zero_shot[mine, c].mean(), "fixed": 0.1}[variant]
        expected.append(text[c] + 100 * features[mine].sum(dim=0) / (31 * lam))
    torch.testing.assert_close(
        fitted(task, variant=variant, repel=False).weights, torch.stack(expected), rtol=2e-5, atol=1e-5
    )


def test_logits_are_cosines_whatever_the_lengths_of_the_weights(make_task):
    task = with_lengths(make_task(shots=SHOTS))
    adapter = fitted(task)
    expected = 100 * F.cosine_similarity(task.test.features[:, None], adapter.weights, dim=2)
    torch.testing.assert_close(adapter.logits(task.test), expected, atol=1e-4, rtol=1e-5)
    longer = replace(task, test=replace(task.test, features=3 * task.test.features))
    torch.testing.assert_close(adapter.logits(longer.test), adapter.logits(task.test))


def test_plus_pushes_weights_from_twice_themselves_less_their_mean(make_task):
    task = with_lengths(make_task(shots=SHOTS))
    before = fitted(task, variant="plus", repel=False).weights
    pushed = before - F.normalize(2 * before - before.mean(dim=0), dim=1)
    torch.testing.assert_close(fitted(task, variant="plus").weights, pushed)
    torch.testing.assert_close(fitted(task, repel=True).weights - fitted(task).weights,
                               -F.normalize(2 * fitted(task).weights - fitted(task).weights.mean(dim=0), dim=1),
                               atol=1e-3, rtol=1e-3)  # fmt: skip


def test_repelling_draws_a_class_without_shots_to_the_mean_and_says_so(make_task):
    """The trap of the published step: unit features, whose sums are long beside a text of length 1."""
    task = make_task(shots=[6, 0, 6, 6, 6])
    plain, repelled = (fitted(task, variant="plus", repel=repel) for repel in (False, None))
    mean = plain.weights.mean(dim=0)
    near = [float(F.cosine_similarity(a.weights[1], mean, dim=0)) for a in (plain, repelled)]
    assert near[1] > near[0] + 0.3
    others = F.cosine_similarity(plain.weights, repelled.weights, dim=1)[[0, 2, 3, 4]]
    assert others.min() > 0.9999  # these stay where they are
    assert any("repel=False leaves it out" in note for note in repelled.report.notes)
    assert not any("repel" in note for note in plain.report.notes)


@pytest.mark.parametrize("variant", ["ss-text", "plus", "confidence", "fixed", "images"])
def test_a_class_without_shots_keeps_its_text(make_task, variant):
    task = with_lengths(make_task(shots=[4, 0, 4, 4, 4]))
    adapter = fitted(task, variant=variant, repel=False)
    torch.testing.assert_close(adapter.weights[1], task.text.unnormalized[1])


def test_images_alone_are_class_means_of_features_with_their_lengths(make_task):
    task = with_lengths(make_task(shots=SHOTS))
    means = torch.stack([task.support.features[task.support.labels == c].mean(dim=0) for c in range(5)])
    torch.testing.assert_close(fitted(task, variant="images").weights, means)


def test_lambda_is_not_held_above_a_thousandth():
    """With more than 1,000 shots the released code follows another rule."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=generator)
    labels = torch.arange(3).repeat_interleave(500)
    support = FeatureSet(centres[labels] + torch.randn(1500, 16, generator=generator), labels)
    text = TextClassifier(centres, unnormalized=5 * centres)
    sums = torch.stack([support.features[labels == c].sum(dim=0) for c in range(3)])
    for options, expected in (({}, 100 * sums), ({"least_lambda": 0.001}, 100 * sums * 1000 / 1500)):
        adapter = build_adapter("ss-text", **options)
        adapter.fit(support, text)
        torch.testing.assert_close(adapter.weights, 5 * centres + expected, rtol=1e-4, atol=1e-2)


def test_where_lengths_are_gone_all_is_unit(make_task):
    """The sides must go together: a text of length 1 would be nothing beside images of length 10."""
    task = make_task(shots=4)
    plain = fitted(task)
    assert any("without their lengths" in note for note in plain.report.notes)
    sums = torch.stack([task.support.unit[task.support.labels == c].sum(dim=0) for c in range(5)])
    torch.testing.assert_close(plain.weights, task.text.weights + 100 * sums)
    gone = with_lengths(replace(task, support=replace(task.support, raw_norms=False)))
    torch.testing.assert_close(fitted(gone).weights, plain.weights)
    assert not fitted(with_lengths(task)).report.notes
