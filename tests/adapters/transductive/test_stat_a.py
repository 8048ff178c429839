"""StatA: its formulas, each of its terms, what it keeps, and hard shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from forked import run
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.adapters.transductive._anchored import Anchor, Gaussians
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter

HARD = {"noise": 1.6, "dim": 24}  # text is wrong often enough for every term to matter


def unsure(task, scale=10.0):
    """The same task, its text less sure."""
    return replace(task, text=replace(task.text, logit_scale=scale))


def fitted(task, *, unlabeled=None, **options):
    adapter = build_adapter("stat-a", **options)
    adapter.fit(None, task.text, unlabeled=task.test.without_labels() if unlabeled is None else unlabeled)
    return adapter


def dense_stat_a(x, text, scale, *, drop="", soft=False, alpha=1.0, lap=1.0, lam=1.0, temperature=50.0):
    """The formulas written out over (Q, Q) and (Q, C, D), in double precision, without the term `drop`.

    Returns log z, means, variances.
    """
    x, t = x.double(), text.double()
    log_y = (scale * x @ t.T).log_softmax(dim=1)
    z = log_y.exp()
    cosines = x @ x.T - 9 * torch.eye(len(x))
    least = cosines.topk(3, dim=1).values[:, -1:]
    among = torch.where(cosines >= least, cosines.clamp_min(0), 0)
    first = torch.einsum("ic,icd->d", z, (x[:, None] - t) ** 2) / len(x)  # s_0
    means, variances = t, first.expand_as(t)

    def assign(z):
        likelihood = -0.5 * ((x[:, None] - means) ** 2 / variances).sum(dim=-1)
        if drop != "log-determinant":
            likelihood = likelihood - 0.5 * variances.log().sum(dim=-1)
        for _ in range(5):
            spread = 0 if drop == "neighbours" else lap * (among.T @ z + among @ z) / 6
            log_z = ((0 if drop == "text" else lam * log_y) + likelihood / temperature + spread).log_softmax(dim=1)
            z = log_z.exp()
        return log_z

    for _ in range(10):
        z = assign(z).exp()
        counts = z.sum(dim=0) if soft else z.argmax(dim=1).bincount(minlength=len(t)).double()
        b = (counts / (alpha + counts))[:, None]
        b_mean, b_spread = (
            torch.ones_like(b) if drop == f"anchor of the {name}" else b for name in ("means", "variances")
        )
        share = z / z.sum(dim=0)
        means = F.normalize(b_mean * F.normalize(share.T @ x, dim=1) + (1 - b_mean) * t, dim=1)
        spread = torch.einsum("ic,icd->cd", share, (x[:, None] - means) ** 2)
        if drop == "own variance":
            spread = torch.einsum("ic,icd->d", z, (x[:, None] - means) ** 2).expand_as(spread) / len(x)
        apart = 0 if drop == "distance to the text" else (t - means) ** 2
        variances = b_spread * spread + (1 - b_spread) * (first + apart)
    return assign(z), means, variances


@pytest.mark.parametrize("given", [{}, {"alpha": 4.0, "soft": True, "lap": 0.5, "lam": 0.7}], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_formulas_written_out(make_task, given, seed):
    task = make_task(seed=seed, **HARD)
    names = {"soft": "soft_counts", "lap": "neighbor_weight", "lam": "text_weight"}
    adapter = fitted(task, **{names.get(name, name): value for name, value in given.items()})
    log_z, means, variances = dense_stat_a(task.test.unit, task.text.weights, 100.0, **given)
    torch.testing.assert_close(adapter.logits(task.test).double(), log_z, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(adapter.means.double(), means, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(adapter.variances.double(), variances, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    "term",
    [
        "anchor of the means", "anchor of the variances", "distance to the text", "own variance", "log-determinant",
        "neighbours", "text",
    ],
)  # fmt: skip
def test_without_a_term_the_formulas_are_others(make_task, term):
    """So that the test above would fail without it; at a temperature at which the mixture counts."""
    task = unsure(make_task(classes=8, dim=64, noise=1.6, text_noise=2.0), scale=20.0)
    ours = fitted(task, temperature=5.0).logits(task.test).double()
    whole, lacking = (
        dense_stat_a(task.test.unit, task.text.weights, 20.0, drop=drop, temperature=5.0)[0] for drop in ("", term)
    )
    torch.testing.assert_close(ours, whole, atol=2e-3, rtol=1e-3)
    assert (ours.exp() - lacking.exp()).abs().max() > 0.02


def test_likelihoods_are_those_of_the_gaussians():
    generator = torch.Generator().manual_seed(0)
    x, means = (F.normalize(torch.randn(n, 512, generator=generator), dim=1) for n in (20, 7))
    variances = 1e-3 * (0.1 + torch.rand(7, 512, generator=generator))
    ours = Gaussians(means, variances).log_likelihood(x, x.mean(dim=0))
    normal = torch.distributions.Normal(means.double(), variances.double().sqrt())
    wanted = normal.log_prob(x.double()[:, None]).sum(dim=-1)
    gap = ours - wanted
    assert (gap - gap.mean()).abs().max() < 0.02  # beside 1,000 and more: of float32


def test_a_class_without_images_is_its_anchor(make_task):
    """It keeps the text and the first variance to the last bit."""
    task = unsure(make_task(classes=8, text_noise=0.4, noise=0.2, dim=64), scale=100.0)
    present = task.test.select((task.test.labels < 3).tolist())
    adapter = fitted(task, unlabeled=present.without_labels())
    assert (adapter.predict(present) < 3).all()
    assert torch.equal(adapter.means[3:], task.text.weights[3:])
    y = task.text.logits(present.unit).softmax(dim=1)
    first = Anchor.of(present.unit, y, task.text.weights).variance
    assert torch.equal(adapter.variances[3:], first.expand(5, -1))
    assert not torch.allclose(adapter.means[:3], task.text.weights[:3], atol=1e-2)


def test_the_first_variance_is_of_all_images_however_many(make_task):
    """The released code divides once more per chunk of 2,500."""
    task = make_task(classes=3)
    y = task.text.logits(task.test.unit).softmax(dim=1)
    one = Anchor.of(task.test.unit, y, task.text.weights).variance
    many = Anchor.of(task.test.unit.repeat(230, 1), y.repeat(230, 1), task.text.weights).variance  # 5,520 images
    torch.testing.assert_close(one, many, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_a_class_whose_assignments_are_all_0_in_float32(make_task, soft):
    """A mean of nothing would be 0 / 0."""
    task = make_task(classes=3, text_noise=0.0, noise=0.1)
    task = unsure(task, scale=20_000.0)
    images = task.test.select((task.test.labels == 1).tolist())
    adapter = fitted(task, unlabeled=images.without_labels(), soft_counts=soft)
    assert adapter.logits(images).exp()[:, 0].max() == 0
    assert torch.equal(adapter.means[[0, 2]], task.text.weights[[0, 2]])
    assert (adapter.predict(images) == 1).all() and task.accuracy(adapter) > 0.9


def test_without_neighbours_and_mixture_it_is_zero_shot(make_task):
    task = make_task(**HARD)
    adapter = fitted(task, n_neighbors=0, temperature=1e9)
    for images in (task.test, task.val):
        zero_shot = task.text.logits(images.unit).log_softmax(dim=1)
        torch.testing.assert_close(adapter.logits(images), zero_shot, atol=1e-4, rtol=1e-4)


def test_neighbours_of_no_weight_are_no_neighbours(make_task):
    task = unsure(make_task(**HARD))
    without, weightless = fitted(task, n_neighbors=0), fitted(task, neighbor_weight=0.0)
    for images in (task.test, task.val):
        torch.testing.assert_close(without.logits(images), weightless.logits(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_another_image_gets_one_update(make_task, weight):
    """Text, likelihood and its three nearest unlabelled images, counted both ways."""
    task = make_task(**HARD)
    adapter = fitted(task, neighbor_weight=weight)
    x, queries = task.val.unit.double(), task.test.unit.double()
    z, means, variances = adapter.logits(task.test).double().exp(), adapter.means.double(), adapter.variances.double()
    cosines, index = (x @ queries.T).topk(3, dim=1)
    expected = task.text.logits(task.val.unit).double().log_softmax(dim=1)
    expected += -0.5 / 50 * ((x[:, None] - means) ** 2 / variances + variances.log()).sum(dim=-1)
    expected += weight * (cosines.clamp_min(0)[:, :, None] * z[index]).sum(dim=1) / 3
    torch.testing.assert_close(adapter.logits(task.val).double(), expected.log_softmax(dim=1), atol=1e-3, rtol=1e-3)


def test_an_answer_does_not_depend_on_the_batch(make_task):
    task = make_task(**HARD)
    adapter = fitted(task)
    rows = torch.cat([task.test.features, task.val.features])
    together = adapter.logits(rows)
    alone = torch.cat([adapter.logits(row[None]) for row in rows])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
    assert adapter.logits(rows[:0]).shape == (0, 5)


def test_copies_of_an_image_share_one_answer(make_task):
    task = make_task(**HARD)
    copied = task.test.select([0, 1, 0, 2, 0, 0, 0, 3, 1, *range(4, len(task.test))])
    adapter = fitted(task, unlabeled=copied.without_labels())
    logits = adapter.logits(copied)
    for row in (2, 4, 5, 6):
        assert torch.equal(logits[row], logits[0])
    assert torch.equal(adapter.logits(task.test.features[:1])[0], logits[0])


@settings(max_examples=6)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([100.0, 430.0]))
def test_order_does_not_matter(make_task, seed, scale):
    """Of the images, also where the text is sure of many, and of the classes."""
    task = unsure(make_task(classes=4, seed=seed, noise=1.2), scale)
    expected = fitted(task).logits(task.test)
    generator = torch.Generator().manual_seed(seed)
    rows, classes = torch.randperm(len(task.test), generator=generator), torch.randperm(4, generator=generator)
    adapter = fitted(replace(task, text=task.text.select(classes)), unlabeled=task.test.select(rows).without_labels())
    torch.testing.assert_close(adapter.logits(task.test), expected[:, classes], atol=5e-3, rtol=5e-3)


def test_it_looks_at_no_label_and_no_support(make_task):
    task = make_task(**HARD)
    plain = fitted(task).logits(task.test)
    for support in (task.support, task.support.without_labels(), task.val, FeatureSet(torch.zeros(0, HARD["dim"]))):
        adapter = build_adapter("stat-a")
        report = adapter.fit(support, task.text, unlabeled=task.test)
        assert torch.equal(adapter.logits(task.test), plain)
    assert report.chosen == {} and report.chosen_on == "nothing to choose"
    assert report.notes[0].startswith("40 unlabelled images classified together; ")


@pytest.mark.parametrize(
    "case", [{"classes": 2}, {"dim": 3}, {"dim": 512}, {"classes": 30, "dim": 640}, {"norm": 1e-3}], ids=str
)
@pytest.mark.parametrize("scale", [1.0, 430.0])
def test_hard_shapes(make_task, case, scale):
    task = make_task(**case)
    task = replace(task, text=replace(task.text, logit_scale=scale, logit_bias=-16.5))
    adapter = fitted(task, iterations=3)
    for images in (task.test, task.val):
        logits = adapter.logits(images)
        assert logits.shape == (len(images), len(task.text)) and torch.isfinite(logits).all()
    assert torch.isfinite(adapter.means).all() and (adapter.variances > 0).all()


def test_a_thousand_classes():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 32, generator=generator)
    text = TextClassifier(features + torch.randn(1000, 32, generator=generator))
    adapter = build_adapter("stat-a", iterations=2)
    adapter.fit(None, text, unlabeled=FeatureSet(features))
    assert (adapter.predict(features) == torch.arange(1000)).float().mean() > 0.9


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_few_images(make_task, count, alpha):
    """Fewer than a neighbourhood, most classes without an image, also without an anchor."""
    task = make_task()
    images = task.test.select(list(range(count))).without_labels()
    adapter = fitted(task, alpha=alpha, unlabeled=images)
    assert torch.isfinite(adapter.logits(task.test)).all() and torch.isfinite(adapter.means).all()
    assert torch.isfinite(fitted(task, alpha=alpha, soft_counts=True, unlabeled=images).logits(task.test)).all()


def test_equal_images_and_a_feature_that_is_always_0_have_a_variance(make_task):
    task = make_task()
    rows = task.test.features[:1].repeat(20, 1)
    rows[:, 3] = 0
    text = replace(task.text, weights=task.text.weights * (torch.arange(16) != 3), raw=None, prototypes=None)
    adapter = fitted(replace(task, text=text), unlabeled=FeatureSet(rows), alpha=0.0)
    assert (adapter.variances > 0).all() and torch.isfinite(adapter.logits(task.test)).all()


def test_what_it_cannot_work_on(make_task, make_multilabel_task):
    task, several = make_task(), make_multilabel_task()
    adapter = build_adapter("stat-a")
    with pytest.raises(CapabilityError, match="unlabel"):
        adapter.fit(task.support, task.text)
    with pytest.raises(CapabilityError, match="pass some as unlabeled="):
        adapter.fit(None, task.text, unlabeled=FeatureSet(torch.zeros(0, task.test.dim)))
    with pytest.raises(CapabilityError, match=r"width \[9, 16\]"):
        adapter.fit(None, task.text, unlabeled=FeatureSet(torch.ones(5, 9)))
    with pytest.raises(CapabilityError, match="one label per image"):
        adapter.fit(several.support, several.text, unlabeled=several.test.without_labels())


def test_memory_does_not_grow_with_classes_times_width():
    """4,000 images, 1,000 classes: one (Q, C, D) array takes 4 GB."""
    script = """
import resource, torch
from vladapt import FeatureSet, TextClassifier, build_adapter
images = torch.randn(4_000, 256)
text = TextClassifier(torch.randn(1_000, 256))
adapter = build_adapter("stat-a", iterations=1, inner_iterations=1)
adapter.fit(None, text, unlabeled=FeatureSet(images[:99]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
adapter.fit(None, text, unlabeled=FeatureSet(images))
adapter.logits(images)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    added = run(["-c", script], check=True).stdout
    assert float(added) < 300  # MiB
