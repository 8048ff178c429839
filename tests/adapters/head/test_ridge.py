from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from vladapt.adapters.head import ridge as ridge_file
from vladapt.adapters.head.ridge import _Fits
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.contracts.prepared import NoValidation
from vladapt.core.registry import build_adapter


def fitted(task, val=False, **options):
    adapter = build_adapter("ridge", **options)
    adapter.report = adapter.fit(task.support, task.text, val=task.val if val else None)
    return adapter


def scikit_learn(support, penalty, weights=None, targets=None):
    """(C, D) weights and (C,) intercepts."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=penalty)
    targets = torch.nn.functional.one_hot(support.labels, 5).numpy() if targets is None else targets
    model.fit(support.unit.double().numpy(), targets.astype(np.float64), sample_weight=weights)
    return torch.as_tensor(model.coef_), torch.as_tensor(model.intercept_)


@pytest.mark.parametrize("shots, dim", [(8, 16), (2, 64), ([2, 9, 3, 3, 5], 16), ([2, 9, 3, 3, 5], 64)], ids=str)
def test_weights_are_those_of_scikit_learn(make_task, shots, dim):
    """More rows than channels and fewer; with unequal classes each has the same sum of weights."""
    task = make_task(shots=shots, dim=dim)
    labels = task.support.labels
    weights = (len(labels) / (5 * torch.bincount(labels).double()))[labels].numpy()
    for balanced in (True, False):
        ours = _Fits(task.support, 5, balanced).weights(0.3)
        for one, other in zip(ours, scikit_learn(task.support, 0.3, weights if balanced else None)):
            torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("shots, dim", [(3, 16), ([2, 9, 3, 3, 5], 64)], ids=str)
def test_leaving_out_is_a_fit_without(make_task, shots, dim):
    """Its weight in the loss stays what it was in the whole support."""
    task = make_task(shots=shots, dim=dim)
    labels = task.support.labels
    weights = (len(labels) / (5 * torch.bincount(labels).double()))[labels].numpy()
    ours = _Fits(task.support, 5, True).left_out(0.3)
    for n in (0, 4, len(labels) - 1):
        others = torch.arange(len(labels)) != n
        weight, bias = scikit_learn(task.support.select(others), 0.3, weights[others.numpy()])
        torch.testing.assert_close(ours[n], weight @ task.support.unit[n].double() + bias, atol=1e-8, rtol=1e-7)


def test_a_group_is_left_out_whole(make_task):
    task = make_task(shots=6, dim=64)
    groups = tuple("" if n % 6 == 5 else f"patient {n % 6 // 2} of {n // 6}" for n in range(30))
    support = replace(task.support, groups=groups)
    ours = _Fits(support, 5, True).left_out(0.3)
    for group in (groups[0], groups[8]):
        rows = torch.tensor([g == group for g in groups])
        weight, bias = scikit_learn(support.select(~rows), 0.3)
        expected = support.unit[rows].double() @ weight.T + bias
        torch.testing.assert_close(ours[rows], expected, atol=1e-8, rtol=1e-7)
    assert fitted(replace(task, support=support)).report.chosen_on.endswith("each group left out in turn")


def test_copies_of_an_image_in_one_group_do_not_choose_the_penalty(make_task):
    """Each copy would be recognised by the others, and the smallest penalty look best."""
    task = make_task(shots=8, noise=3.0, dim=64)
    copies = task.support.select(torch.arange(40).repeat_interleave(3))
    grouped = replace(copies, groups=tuple(str(n) for n in range(40) for _ in range(3)))
    chosen = {with_groups: fitted(replace(task, support=support)).report.chosen["penalty"]
              for with_groups, support in ((False, copies), (True, grouped))}  # fmt: skip
    assert chosen[False] < chosen[True]


def test_generalised_cross_validation_takes_the_mean_of_the_diagonal(make_task):
    task = make_task(shots=4, noise=2.0)
    rows = task.support.unit.double()
    centred = rows - rows.mean(dim=0)
    hat = centred @ torch.linalg.inv(centred.T @ centred + 0.3 * torch.eye(16, dtype=torch.double)) @ centred.T + 1 / 20
    targets = torch.nn.functional.one_hot(task.support.labels, 5).double()
    wanted = 20 * (targets - hat @ targets).square().sum() / (20 - hat.trace()) ** 2
    assert _Fits(task.support, 5, True).gcv(0.3) == pytest.approx(float(wanted), rel=1e-8)


def test_unknown_labels_fall_out_of_the_trace():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(20, 2, generator=generator) < 0.5).float()
    labels[:5, 1] = torch.nan
    support = FeatureSet(torch.randn(20, 8, generator=generator), labels)
    apart = [
        FeatureSet(support.features[rows], labels[rows][:, c : c + 1])
        for c, rows in ((0, slice(0, 20)), (1, slice(5, 20)))
    ]
    assert _Fits(support, 2, True).gcv(0.3) == pytest.approx(sum(_Fits(one, 1, True).gcv(0.3) for one in apart))


def test_the_penalty_is_the_best_on_val_or_of_images_left_out(make_task):
    task = make_task(shots=6, noise=2.5, dim=64)
    on_val = fitted(task, val=True, ties="published").report
    right = {}
    for penalty in ridge_file.GRID:
        adapter = fitted(task, penalty=penalty)
        right[penalty] = float((adapter.predict(task.val) == task.val.labels).double().mean())
    assert len(set(right.values())) > 2
    assert on_val.chosen == {"penalty": max(right, key=right.get)} and on_val.val_score == max(right.values())
    assert on_val.chosen_on == "val (30 images)"
    fits = _Fits(task.support, 5, True)
    left_out = [(fits.left_out(p).argmax(dim=1) == task.support.labels).double().mean() for p in ridge_file.GRID]
    ours = fitted(task, val=True, choose_by="leave-one-out", ties="published").report
    assert ours.chosen == {"penalty": ridge_file.GRID[int(np.argmax(left_out))]}
    assert ours.chosen_on == "the support, each image left out in turn" and ours.val_score == max(left_out)
    by_gcv = fitted(task, choose_by="gcv").report
    assert by_gcv.chosen == {"penalty": min(ridge_file.GRID, key=fits.gcv)} and by_gcv.val_score is None


def test_one_image_per_class_leaves_nothing_to_choose_on(make_task):
    report = fitted(make_task(shots=1)).report
    assert report.chosen == {"penalty": 0.1} and report.chosen_on == "defaults: one image per class"


def test_confidences_are_those_of_images_left_out(make_task):
    """Scores of least squares lie between 0 and 1: as logits they would never be sure of anything."""
    from vladapt.core.confidence.calibration import calibration_error

    task = make_task(shots=12, noise=2.0, dim=32)
    logits = fitted(task).logits(task.test)
    weight, bias = _Fits(task.support, 5, True).weights(fitted(task).report.chosen["penalty"])
    plain = (task.test.unit.double() @ weight.T + bias).float()
    assert torch.equal(logits.argmax(dim=1), plain.argmax(dim=1))
    assert calibration_error(logits, task.test.labels) < 0.5 * calibration_error(plain, task.test.labels)


def test_each_label_is_regressed_on_the_images_where_it_is_known(make_multilabel_task):
    task = make_multilabel_task(images=60, unknown=0.3)
    fits = _Fits(task.support, 5, True)
    weight, bias = fits.weights(0.3)
    for c in range(5):
        known = ~torch.isnan(task.support.labels[:, c])
        some = task.support.select(known)
        expected = scikit_learn(some, 0.3, targets=some.labels[:, c].numpy())
        torch.testing.assert_close((weight[c], bias[c]), expected, atol=1e-8, rtol=1e-7)
    n = int((~torch.isnan(task.support.labels[:, 1])).nonzero()[3])
    others = task.support.select(torch.arange(60) != n)
    others = others.select(~torch.isnan(others.labels[:, 1]))
    one_weight, one_bias = scikit_learn(others, 0.3, targets=others.labels[:, 1].numpy())
    expected = one_weight @ task.support.unit[n].double() + one_bias
    torch.testing.assert_close(fits.left_out(0.3)[n, 1], expected, atol=1e-8, rtol=1e-7)


def test_neither_text_nor_its_scale_is_read(make_task):
    task = make_task(shots=4)
    other = TextClassifier(torch.randn(5, 16), logit_scale=3.0, logit_bias=-5.0)
    assert torch.equal(fitted(replace(task, text=other)).logits(task.test), fitted(task).logits(task.test))


def test_a_class_without_images_is_never_predicted(make_task):
    adapter = fitted(make_task(shots=[4, 0, 4, 4, 4]))
    assert (adapter.logits(make_task().test)[:, 1] == -1e4).all()
    assert any("never predicted" in note and "class 1" in note for note in adapter.report.notes)


@pytest.mark.thorough
def test_a_thousand_classes_of_sixteen_shots_choose_by_the_trace():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, 96, generator=generator)
    labels = torch.arange(1000).repeat_interleave(16)
    support = FeatureSet(centres[labels] + 0.5 * torch.randn(16000, 96, generator=generator), labels)
    started = time.monotonic()
    adapter = build_adapter("ridge")
    report = adapter.fit(support, TextClassifier(centres))
    assert report.chosen_on == "generalised cross-validation"
    assert (adapter.predict(centres) == torch.arange(1000)).double().mean() > 0.95
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("groups", [None, ("p",) * 3 + ("q",) * 17])
def test_a_label_known_of_one_image_or_of_one_patient_alone_is_fitted(groups):
    """Left out, nothing is left to fit it on: its scores are then its mean, and no number is lost."""
    drawn = torch.Generator().manual_seed(0)
    labels = (torch.rand(20, 2, generator=drawn) < 0.5).float()
    labels[1 if groups is None else 3 :, 1] = float("nan")
    support = FeatureSet(torch.randn(20, 6, generator=drawn), labels, ("a", "b"), groups=groups)
    text = TextClassifier(
        torch.nn.functional.normalize(torch.randn(2, 6, generator=drawn), dim=1), class_names=("a", "b")
    )
    adapter = build_adapter("ridge")
    adapter.fit(support, text)
    assert torch.isfinite(adapter.logits(support)).all()


def test_where_nothing_is_to_be_chosen_the_penalty_is_the_default(make_task):
    support = make_task(shots=4).support
    report = build_adapter("ridge").fit(support, make_task(shots=4).text, val=NoValidation.beside(support))
    assert report.chosen == {"penalty": ridge_file.DEFAULT_PENALTY} and report.val_score is None
