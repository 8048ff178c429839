from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.head import gda, gda_base_to_new

from vladapt.adapters.head._gaussian import (
    class_means,
    mean_class_precision,
    new_class_gaussians,
    shrunk_precision,
)
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError
from vladapt.core.prompts.classifier import build_classifier
from vladapt.core.registry import build_adapter, load_adapter


def fitted(task, val=False, resources=None, **options):
    adapter = build_adapter("gda", **options)
    adapter.report = adapter.fit(task.support, task.text, val=task.val if val else None, resources=resources)
    return adapter


@pytest.mark.parametrize("comparison", [gda, gda_base_to_new], ids=["all classes", "base to new"])
def test_agrees_with_the_reference(agrees, comparison):
    agrees(comparison)


def test_alpha_is_the_very_one_of_the_reference(references, parity):
    """The grid has values below the fixture's tolerance."""
    for ref in references(gda):
        alphas = [check for check in gda.run(ref, parity) if "alpha" in check.what]
        assert len(alphas) == len(ref.keys("best_alpha_.+")) and all(check.error <= 1e-7 for check in alphas)


def plain_shrunk(rows, labels):
    """Written out as published, by the pseudo-inverse."""
    rows, classes = rows.double(), labels.unique()
    centered = torch.cat([rows[labels == c] - rows[labels == c].mean(dim=0) for c in classes])
    covariance = centered.T.cov()
    n, d = centered.shape
    return d * torch.linalg.pinv((n - 1) * covariance + covariance.trace() * torch.eye(d, dtype=torch.double))


@pytest.mark.parametrize("shots, dim", [(4, 16), ([2, 9, 1, 3, 5], 16), (2, 64)], ids=str)
def test_scores_are_those_of_gaussians_of_one_covariance(make_task, shots, dim):
    """More rows than channels, unequal shots, more channels than rows."""
    task = make_task(shots=shots, dim=dim)
    adapter = fitted(task, alpha=1.0, class_weight="none")
    rows, labels = task.support.unit, task.support.labels
    means = torch.stack([rows[labels == c].mean(dim=0) for c in range(5)]).double()
    gaussian = torch.distributions.MultivariateNormal(means, precision_matrix=plain_shrunk(rows, labels))
    test = task.test.unit
    density = gaussian.log_prob(test.double()[:, None])  # (B, C)
    ours = adapter.logits(task.test) - task.text.logits(test)
    relative = ours - ours.mean(dim=1, keepdim=True)  # what all classes share is left out
    torch.testing.assert_close(relative, (density - density.mean(dim=1, keepdim=True)).float(), atol=1e-3, rtol=1e-4)


def test_means_of_few_images_are_not_too_long(make_task):
    """mu P mu of a class of n images is too large by trace(P S) / n on average; what all classes share falls out."""
    task = make_task(shots=[2, 9, 1, 3, 5])
    ours, published = (fitted(task, alpha=1.0, class_weight=how) for how in ("balanced", "none"))
    rows, labels = task.support.unit.double(), task.support.labels
    counts = torch.bincount(labels).double()
    centred = torch.cat([rows[labels == c] - rows[labels == c].mean(dim=0) for c in range(5)])
    within = centred.T @ centred / (len(rows) - 5)
    excess = (plain_shrunk(task.support.unit, labels) @ within).trace() / counts
    expected = (excess - excess.mean()) / 2
    torch.testing.assert_close((ours.bias - published.bias).double(), expected, atol=1e-4, rtol=1e-3)
    assert torch.equal(ours.weight, published.weight) and expected.abs().max() > 0.1


@pytest.mark.parametrize("count", [2, 23, 24, 60])
def test_the_shrunk_precision_of_few_and_of_many_rows_is_the_inverse_written_out(count):
    """Fewer rows than channels take another way to it."""
    rows = F.normalize(torch.randn(count, 24, generator=torch.Generator().manual_seed(count)), dim=-1)
    labels = torch.arange(count) // 2 % 3
    ours = shrunk_precision(rows, labels, *class_means(rows, labels, 3))
    torch.testing.assert_close(ours, plain_shrunk(rows, labels), atol=1e-9, rtol=1e-9)


def test_class_mean_precision_is_the_pseudo_inverse_of_the_mean(make_task):
    """A class of one row has no covariance; with fewer rows than channels the inverse is of their span."""
    task = make_task(shots=[1, 4, 2, 3, 4], dim=24)
    rows, labels = task.support.unit, task.support.labels
    ours = mean_class_precision(rows, labels, *class_means(rows, labels, 5))
    covariances = [rows[labels == c].double().T.cov() for c in range(1, 5)]
    wanted = torch.linalg.pinv(torch.stack(covariances).mean(dim=0), rtol=1e-6)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(ours) == 9  # 3 + 1 + 2 + 3


@settings(max_examples=25)
@given(st.integers(2, 9), st.integers(2, 12), st.integers(1, 6), st.integers(0, 5), st.integers(0, 1000))
def test_new_classes_by_woodbury_are_those_written_out(size, width, classes, copies, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, text = (F.normalize(torch.randn(n, width, generator=generator), dim=-1) for n in (size, classes))
    means, precision = new_class_gaussians(text, rows, 4, copies)
    k, wanted = min(4, size), torch.zeros(width, width, dtype=torch.double)
    for j, center in enumerate(text):
        nearest = rows[(rows @ center).argsort(descending=True)[:k]].double()
        mean = torch.cat([nearest, center.double().expand(copies, -1)]).mean(dim=0)
        torch.testing.assert_close(means[j], mean, atol=1e-6, rtol=1e-6)
        scatter = (nearest - center).T @ (nearest - center)
        shrunk = scatter + scatter.trace() / (k - 1) * torch.eye(width, dtype=torch.double)
        wanted += width * torch.linalg.inv(shrunk) / classes
    torch.testing.assert_close(precision, wanted, atol=1e-5, rtol=1e-5)


def test_one_view_of_one_shot_is_zero_shot(make_task):
    task = make_task(shots=1)
    for options in ({"alpha": 100.0}, {"alpha": 100.0, "estimator": "class-mean"}):
        adapter = fitted(task, **options)
        assert not adapter.weight.any() and any("zero-shot" in note for note in adapter.report.notes)
        shift = adapter.logits(task.test) - task.text.logits(task.test.unit)
        assert shift.std() < 1e-3  # one number for all
    ten_times = replace(task, support=replace(task.support, views=task.support.features[:, None].repeat(1, 10, 1)))
    assert not fitted(ten_times).weight.any()  # equal views have no covariance, rounding aside


def test_each_view_is_a_row(make_task):
    task = make_task(shots=3, views=4)
    adapter = fitted(task, views=2, alpha=1.0)
    views = task.support.views[:, :2]
    as_rows = FeatureSet(views.flatten(0, 1), task.support.labels.repeat_interleave(2))
    assert torch.equal(adapter.logits(task.test), fitted(replace(task, support=as_rows), alpha=1.0).logits(task.test))
    assert adapter.rows.shape == (30, 16) and "2 augmented views" in adapter.report.notes[0]


def test_alpha_is_the_first_best_on_val(make_task):
    task = make_task(shots=6, noise=1.5)
    adapter = fitted(task, val=True)
    scores = {}
    for alpha in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0):
        right = fitted(task, alpha=alpha).predict(task.val) == task.val.labels
        scores[alpha] = float(right.double().mean())
    assert len(set(scores.values())) > 2
    assert adapter.report.chosen == {"alpha": max(scores, key=scores.get)}
    assert adapter.report.val_score == max(scores.values()) and adapter.report.chosen_on == "val (30 images)"


def test_without_val_alpha_comes_from_a_part_held_out_and_the_gaussians_from_all(make_task):
    task = make_task(shots=8)
    adapter = fitted(task)
    assert adapter.report.chosen_on == "10 images held out of the support"
    assert len(adapter.rows) == 40
    assert torch.equal(adapter.weight, fitted(task, alpha=1.0).weight)
    few = fitted(make_task(shots=3)).report
    assert few.chosen == {"alpha": 0.1} and few.val_score is None and few.chosen_on.startswith("defaults")


def test_alpha_stays_at_the_start_where_no_alpha_is_ever_right(make_task):
    task = make_task(shots=2)
    wrong = FeatureSet(task.support.features, (task.support.labels + 1) % 5)
    task = replace(task, val=wrong, text=TextClassifier(class_means(task.support.unit, task.support.labels, 5)[0]))
    report = fitted(task, val=True).report
    assert report.val_score == 0 and report.chosen == {"alpha": 0.1}


@pytest.mark.parametrize("scale, bias", [(430.0, None), (10.0, -12.0)])
def test_alpha_means_the_same_at_every_logit_scale(make_task, scale, bias):
    task = make_task(shots=5)
    other = replace(task, text=replace(task.text, logit_scale=scale, logit_bias=bias))
    a, b = fitted(task, val=True), fitted(other, val=True)
    assert a.report.chosen == b.report.chosen
    torch.testing.assert_close(
        b.logits(task.test), a.logits(task.test) * scale / 100 + (bias or 0.0), atol=1e-3, rtol=1e-5
    )


def test_the_order_of_samples_and_classes_does_not_matter(make_task):
    task = make_task(shots=4)
    base = fitted(task, alpha=1.0).logits(task.test)
    shuffled = replace(
        task, support=task.support.select(torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    )
    torch.testing.assert_close(fitted(shuffled, alpha=1.0).logits(task.test), base, atol=1e-4, rtol=1e-5)
    order = torch.tensor([3, 0, 4, 1, 2])
    support = FeatureSet(task.support.features, order.argsort()[task.support.labels])
    renamed = replace(task, support=support, text=TextClassifier(task.text.weights[order]))
    torch.testing.assert_close(fitted(renamed, alpha=1.0).logits(task.test), base[:, order], atol=1e-4, rtol=1e-5)


def test_a_class_without_images_gets_the_mean_of_a_new_class(make_task):
    task = make_task(shots=[4, 0, 4, 4, 4])
    adapter = fitted(task, alpha=1.0, neighbors=5, text_copies=3)
    rows, labels = task.support.unit, task.support.labels
    nearest = rows[(rows @ task.text.weights[1]).topk(5).indices].double()
    mean = (nearest.sum(dim=0) + 3 * task.text.weights[1].double()) / 8
    torch.testing.assert_close(adapter.weight[1], (plain_shrunk(rows, labels) @ mean).float(), atol=1e-3, rtol=1e-4)
    assert any(note.startswith("1 classes without images") for note in adapter.report.notes)


def test_a_thousand_classes_with_ten_views_of_sixteen_shots():
    """160,000 rows: a matrix of rows by rows would take 100 GB."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, 24, generator=generator)
    labels = torch.arange(1000).repeat_interleave(16)
    views = centres[labels][:, None] + 0.5 * torch.randn(16000, 10, 24, generator=generator)
    support = FeatureSet(views.mean(dim=1), labels, views=views)
    text = TextClassifier(centres + torch.randn(1000, 24, generator=generator))
    started = time.monotonic()
    adapter = build_adapter("gda", alpha=1e4)
    adapter.fit(support, text)
    assert (adapter.predict(centres) == torch.arange(1000)).float().mean() > 0.95
    other = adapter.for_classes(None, [str(i) for i in range(1000)], text)
    assert torch.isfinite(other.logits(centres)).all()
    assert time.monotonic() - started < 60


NAMES, UNSEEN = ("sea", "polka_dotted", "X-ray", "Boeing 737-800"), ("forest", "beach", "parking lot")
TEMPLATES = ["a photo of a {}.", "a blurry {}."]


@pytest.fixture(scope="module")
def on_towers(small_clip, tmp_path_factory):
    """GDA fitted with a backbone, and its file."""
    classifier = build_classifier(small_clip, NAMES, TEMPLATES)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(5)
    features = classifier.weights[labels] + 0.2 * torch.randn(20, 24, generator=generator)
    support = FeatureSet(features, labels, NAMES, backbone=small_clip.fingerprint)
    adapter = build_adapter("gda", alpha=10.0, neighbors=6, text_copies=2)
    adapter.fit(support, classifier, backbone=small_clip, resources={"templates": TEMPLATES})
    return adapter, adapter.save(tmp_path_factory.mktemp("gda") / "adapter.safetensors"), features


def test_other_classes_by_the_backbone(on_towers, small_clip):
    """As `fit --novel` calls it; also from a file, and twice."""
    adapter, path, features = on_towers
    other = adapter.for_classes(small_clip, UNSEEN)
    text = build_classifier(small_clip, UNSEEN, TEMPLATES)
    means, precision = new_class_gaussians(text.weights, adapter.rows, 6, 2)
    x = F.normalize(features, dim=-1).double()
    gaussian = x @ precision @ means.T - ((means @ precision) * means).sum(dim=1) / 2 - torch.tensor(3.0).log()
    scale = float(small_clip.logit_scale)
    wanted = text.logits(x.float()) + 10 * scale / 100 * gaussian.float()
    torch.testing.assert_close(other.logits(features), wanted, atol=1e-2, rtol=1e-4)
    assert other.class_names_ == UNSEEN and other.options == adapter.options
    again = load_adapter(path, small_clip).for_classes(small_clip, UNSEEN)
    torch.testing.assert_close(again.logits(features), other.logits(features))
    torch.testing.assert_close(other.for_classes(small_clip, NAMES[:2]).logits(features),
                               adapter.for_classes(small_clip, NAMES[:2]).logits(features))  # fmt: skip


def test_what_other_classes_need(on_towers, small_clip, make_task):
    adapter = on_towers[0]
    with pytest.raises(CapabilityError, match="give a backbone or their classifier"):
        adapter.for_classes(None, UNSEEN)
    with pytest.raises(CapabilityError, match="not fitted"):
        build_adapter("gda").for_classes(small_clip, UNSEEN)
    with pytest.raises(CapabilityError, match="24"):
        adapter.for_classes(None, UNSEEN, TextClassifier(torch.eye(3)))
    task = make_task()
    with pytest.raises(CapabilityError, match="keep_rows"):
        fitted(task, keep_rows=False).for_classes(None, ("a",), TextClassifier(torch.eye(16)[:1]))
    with pytest.raises(CapabilityError, match="without templates"):
        fitted(task).for_classes(small_clip, UNSEEN)
    named = replace(task, support=replace(task.support, backbone="another"))
    with pytest.raises(CapabilityError, match="not the one that adapter 'gda' was fitted on"):
        fitted(named, resources={"templates": TEMPLATES}).for_classes(small_clip, UNSEEN)


def test_without_its_rows_the_file_is_small_and_says_the_same(make_task, tmp_path):
    task = make_task(shots=40, dim=64, views=4)
    with_rows, without = (fitted(task, alpha=1.0, keep_rows=keep) for keep in (True, False))
    assert torch.equal(with_rows.logits(task.test), without.logits(task.test))
    sizes = [a.save(tmp_path / f"{i}.safetensors").stat().st_size for i, a in enumerate((with_rows, without))]
    assert abs(sizes[0] - sizes[1] - 4 * 64 * 800) < 100
    read = load_adapter(tmp_path / "1.safetensors")
    torch.testing.assert_close(read.logits(task.test), without.logits(task.test))


def test_defaults_are_published():
    options = build_adapter("gda").options
    assert (options["alpha"], options["views"], options["estimator"]) == (None, 10, "shrunk")
    assert (options["neighbors"], options["text_copies"]) == (64, 16)
