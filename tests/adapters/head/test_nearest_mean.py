from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.confidence import Scaling
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.registry import build_adapter


def fitted(task, **options):
    adapter = build_adapter("nearest-mean", **options)
    adapter.report = adapter.fit(task.support, task.text)
    return adapter


def means_of(unit, labels, classes=5):
    return torch.stack([unit[labels == c].mean(dim=0) for c in range(classes)])


@pytest.mark.parametrize("shots", [1, 4, [1, 7, 2, 16, 5]], ids=str)
def test_logits_are_cosines_to_the_class_means(make_task, shots):
    task = make_task(shots=shots)
    means = means_of(task.support.unit, task.support.labels)
    expected = 7 * task.test.unit @ F.normalize(means, dim=1).T
    torch.testing.assert_close(fitted(task, scale=7.0).logits(task.test), expected)


def test_euclidean_distances_are_to_means_that_are_not_made_unit(make_task):
    task = make_task(shots=[1, 7, 2, 16, 5], noise=2.0)
    means = means_of(task.support.unit, task.support.labels)
    expected = -7 / 2 * torch.cdist(task.test.unit, means).square()
    ours = fitted(task, scale=7.0, distance="euclidean").logits(task.test)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert (ours.argmax(dim=1) != fitted(task).logits(task.test).argmax(dim=1)).any()


def test_the_middle_is_that_of_the_classes_not_of_the_images(make_task):
    task = make_task(shots=[1, 7, 2, 16, 5])
    unit, labels = task.support.unit, task.support.labels
    middle = means_of(unit, labels).mean(dim=0)
    rows, test = (F.normalize(x - middle, dim=1) for x in (unit, task.test.unit))
    expected = 7 * test @ F.normalize(means_of(rows, labels), dim=1).T
    torch.testing.assert_close(fitted(task, scale=7.0, center=True).logits(task.test), expected)


@pytest.mark.parametrize("options", [{}, {"distance": "euclidean"}], ids=str)
def test_the_scale_is_the_most_likely_for_images_compared_with_the_others_of_their_class(make_task, options):
    """Written out: each image, with its own class's mean of the others."""
    task = make_task(shots=[3, 7, 2, 16, 5], noise=2.0)
    unit, labels = task.support.unit.double(), task.support.labels
    rows = []
    for n in range(len(unit)):
        others = torch.arange(len(unit)) != n
        means = means_of(unit[others], labels[others])
        if options:
            rows.append(-torch.cdist(unit[n : n + 1], means)[0].square() / 2)
        else:
            rows.append(F.normalize(means, dim=1) @ unit[n])
    scores = torch.stack(rows)
    weights = 1 / torch.bincount(labels).double()[labels]

    def loss(scale: float) -> float:
        return float((weights * F.cross_entropy(scale * scores, labels, reduction="none")).sum())

    scale = fitted(task, **options).report.chosen["scale"]
    assert loss(scale) <= min(loss(0.99 * scale), loss(1.01 * scale))
    assert fitted(make_task(shots=1)).report.chosen == {"scale": 100.0}


def test_the_scale_is_learned_across_patients(make_task):
    """Three near copies of each image: its own copies say nothing of how sure one may be of another patient's."""
    task = make_task(shots=6, noise=3.0)
    features, labels = (each.repeat_interleave(3, dim=0) for each in (task.support.features, task.support.labels))
    copies = FeatureSet(features + 0.01 * torch.randn(90, 16, generator=torch.Generator().manual_seed(0)), labels)
    patients = replace(copies, groups=tuple(f"patient {n // 3}" for n in range(90)))
    alone, over = fitted(replace(task, support=copies)), fitted(replace(task, support=patients))
    single = fitted(task).report.chosen["scale"]
    assert over.report.chosen["scale"] == pytest.approx(single, rel=0.15)
    assert alone.report.chosen["scale"] > 1.5 * single
    assert over.report.chosen_on == "the support, in folds of whole groups"
    assert torch.equal(alone.logits(task.test).argmax(dim=1), over.logits(task.test).argmax(dim=1))


def test_of_one_patient_per_class_the_scale_says_nothing(make_task):
    task = make_task(shots=4)
    one = replace(task.support, groups=tuple(f"patient {label}" for label in task.support.labels.tolist()))
    report = fitted(replace(task, support=one)).report
    assert report.chosen == {"scale": 100.0} and report.chosen_on == "defaults: one group per class"
    each = replace(task.support, groups=tuple(str(n) for n in range(20)))  # no two images of a group
    assert fitted(replace(task, support=each)).report.chosen == fitted(task).report.chosen


def test_slopes_of_several_labels_are_learned_across_patients(make_multilabel_task, monkeypatch):
    """Written out: images of a fold, with the means, over the rest, of those that have a label and of those that do
    not."""
    task = make_multilabel_task(images=40)
    support = replace(task.support, groups=tuple(f"patient {n // 3}" for n in range(40)))
    seen, unit, rows = [], support.unit.double(), []
    scaling = Scaling.fit
    monkeypatch.setattr(Scaling, "fit", lambda *given: seen.append(given[0]) or scaling(*given))
    fitted(replace(task, support=support))
    for fold in support.folds(20, 0):
        rest = [n for n in range(40) if n not in fold.tolist()]
        assert not {support.groups[n] for n in rest} & {support.groups[n] for n in fold.tolist()}
        having, lacking = (
            torch.stack([F.normalize(unit[rest][known == kind].sum(dim=0), dim=0) for known in support.labels[rest].T])
            for kind in (1, 0)
        )
        rows.append(unit[fold] @ (having - lacking).T)
    torch.testing.assert_close(seen[0], 100 * torch.cat(rows))


def test_neither_text_nor_its_scale_is_read(make_task):
    task = make_task(shots=4)
    other = TextClassifier(torch.randn(5, 16), logit_scale=3.0, logit_bias=-5.0)
    same = fitted(replace(task, text=other))
    assert torch.equal(same.logits(task.test), fitted(task).logits(task.test))


def test_a_class_without_images_is_never_predicted(make_task):
    adapter = fitted(make_task(shots=[4, 0, 4, 4, 4]))
    assert (adapter.logits(make_task().test)[:, 1] == -1e4).all()
    assert any("never predicted" in note and "class 1" in note for note in adapter.report.notes)


def test_several_labels_ask_which_mean_is_nearer(make_multilabel_task):
    """Those that have the label, or those that do not; of unknown ones neither."""
    task = make_multilabel_task(images=60)
    unit, labels = task.support.unit, task.support.labels
    nearer = []
    for c in range(5):
        sides = [F.normalize(unit[labels[:, c] == kind].mean(dim=0), dim=0) for kind in (1, 0)]
        nearer.append(task.test.unit @ (sides[0] - sides[1]))
    ours = fitted(task).logits(task.test)
    for c, expected in enumerate(nearer):
        assert torch.equal(ours[:, c].argsort(), expected.argsort())
    torch.testing.assert_close(fitted(task, scale=9.0).logits(task.test), 9 * torch.stack(nearer, dim=1))
    assert 0.2 < ours.sigmoid().mean() < 0.6  # a third of the labels are there


def test_a_label_that_all_images_have_is_a_constant(make_multilabel_task):
    task = make_multilabel_task()
    labels = task.support.labels.clone()
    labels[:, 2] = 1.0
    adapter = fitted(replace(task, support=FeatureSet(task.support.features, labels, task.support.class_names)))
    expected = torch.tensor(len(labels) + 0.5).log() - torch.tensor(0.5).log()
    torch.testing.assert_close(adapter.logits(task.test)[:, 2], expected.expand(len(task.test)))
