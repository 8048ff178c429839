"""TransCLIP: its formulas, what it keeps, what it is told, and hard shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from forked import run
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.adapters.transductive._mixture import first_mixture
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import build_adapter

HARD = {"noise": 1.6, "dim": 24}  # text and shots are both wrong often enough for every term to matter


def unsure(task, scale=10.0):
    """The same task, its text less sure."""
    return replace(task, text=replace(task.text, logit_scale=scale))


def fitted(task, *, val=None, unlabeled=None, seed=0, **options):
    adapter = build_adapter("transclip", **options)
    unlabeled = task.test.without_labels() if unlabeled is None else unlabeled
    adapter.fit(task.support, task.text, val=val, unlabeled=unlabeled, seed=seed)
    return adapter


def dense_transclip(task, few_shot, gamma=0.0, scale=100.0):
    """The formulas written out over (Q, Q) and (Q, C, D), in double precision: log z, means, variance."""
    x, w, s = task.test.unit.double(), task.text.weights.double(), task.support.unit.double()
    labels = F.one_hot(task.support.labels, len(w)).double()
    lam, weight = (0.5, gamma * 50) if few_shot else (1.0, 0.0)
    log_y = (scale * x @ w.T).log_softmax(dim=1)

    def neighbours(rows, skip_self):
        cosines = rows @ x.T
        if skip_self:
            cosines = cosines - 9 * torch.eye(len(x))
        least = cosines.topk(3, dim=1).values[:, -1:]
        return torch.where(cosines >= least, cosines.clamp_min(0), 0)  # (rows, Q)

    among, to_shots = neighbours(x, True), neighbours(s, False)
    if few_shot:
        means = F.normalize(labels.T @ s, dim=1)
    else:
        top = log_y.topk(8, dim=0).indices
        means = F.normalize(torch.stack([log_y.exp()[r, k] @ x[r] for k, r in enumerate(top.T)]), dim=1)
    variance, z = torch.full((x.shape[1],), 1 / x.shape[1]).double(), log_y.exp()

    def assign(z):
        likelihood = -0.5 * ((x[:, None] - means) ** 2 / variance).sum(dim=-1)
        for _ in range(5):
            spread = among.T @ z + among @ z + (to_shots.T @ labels if few_shot else 0)
            log_z = (lam * log_y + likelihood / 50 + spread / 6).log_softmax(dim=1)
            z = log_z.exp()
        return log_z

    for _ in range(10):
        z = assign(z).exp()
        all_z = torch.cat([z / len(x), weight * labels / len(s)])  # (Q + S, C)
        rows = torch.cat([x, s])
        means = F.normalize(all_z.T @ rows / all_z.sum(dim=0)[:, None], dim=1)
        variance = torch.einsum("ic,icd->d", all_z, (rows[:, None] - means) ** 2) / all_z.sum()
    return assign(z), means, variance


@pytest.mark.parametrize("few_shot", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_formulas_written_out(make_task, few_shot, seed):
    task = make_task(shots=[3, 5, 2, 4, 4], seed=seed, **HARD)
    adapter = fitted(task, mode="few-shot" if few_shot else "zero-shot", gamma=0.03)
    log_z, means, variance = dense_transclip(task, few_shot, gamma=0.03)
    torch.testing.assert_close(adapter.logits(task.test).double(), log_z, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(adapter.means.double(), means, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(adapter.variance.double(), variance, atol=1e-6, rtol=1e-3)


def test_without_neighbours_and_mixture_it_is_zero_shot(make_task):
    task = make_task(**HARD)
    adapter = fitted(task, mode="zero-shot", n_neighbors=0, temperature=1e9)
    torch.testing.assert_close(adapter.logits(task.test), task.text.logits(task.test.unit).log_softmax(dim=1))
    outside = adapter.logits(task.val)
    torch.testing.assert_close(outside, task.text.logits(task.val.unit).log_softmax(dim=1), atol=1e-4, rtol=1e-4)


def test_more_are_right_together(make_task):
    task = make_task(classes=8, shots=4, dim=32, text_noise=2.5)
    zero_shot = build_adapter("zero-shot")
    zero_shot.fit(task.support, task.text)
    together = task.accuracy(fitted(task, mode="zero-shot"))
    assert together > task.accuracy(zero_shot)
    assert task.accuracy(fitted(task)) >= together


@pytest.mark.parametrize("mode", ["zero-shot", "few-shot"])
def test_another_image_gets_one_update(make_task, mode):
    """Text, likelihood and its three nearest unlabelled images, counted both ways."""
    task = make_task(**HARD)
    adapter = fitted(task, mode=mode)
    x, queries = task.val.unit.double(), task.test.unit.double()
    z, means, variance = adapter.logits(task.test).double().exp(), adapter.means.double(), adapter.variance.double()
    cosines, index = (x @ queries.T).topk(3, dim=1)
    expected = (0.5 if mode == "few-shot" else 1.0) * task.text.logits(task.val.unit).double().log_softmax(dim=1)
    expected += -0.5 / 50 * ((x[:, None] - means) ** 2 / variance).sum(dim=-1)
    expected += (cosines.clamp_min(0)[:, :, None] * z[index]).sum(dim=1) / 3
    torch.testing.assert_close(adapter.logits(task.val).double(), expected.log_softmax(dim=1), atol=1e-3, rtol=1e-3)


def test_an_answer_does_not_depend_on_the_batch(make_task):
    task = make_task(**HARD)
    adapter = fitted(task)
    rows = torch.cat([task.test.features, task.val.features])
    together = adapter.logits(rows)
    alone = torch.cat([adapter.logits(row[None]) for row in rows])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
    turned = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapter.logits(rows[turned]), together[turned], atol=1e-4, rtol=1e-4)
    assert adapter.logits(rows[:0]).shape == (0, 5)


def test_last_bits_and_length_of_a_feature_do_not_matter(make_task):
    task = make_task(**HARD)
    adapter = fitted(task)
    other = adapter.logits(2 * task.test.features * (1 + 1e-6 * torch.randn(task.test.features.shape)))
    torch.testing.assert_close(other, adapter.logits(task.test))
    moved = adapter.logits(task.test.features + 0.01 * torch.randn(task.test.features.shape))
    assert not torch.allclose(moved, adapter.logits(task.test), atol=1e-3)


def test_copies_of_an_image_share_one_answer(make_task):
    task = make_task(**HARD)
    copied = task.test.select([0, 1, 0, 2, 0, 0, 0, 3, 1, *range(4, len(task.test))])
    adapter = fitted(task, unlabeled=copied.without_labels())
    logits = adapter.logits(copied)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(len(copied)))
    for row in (2, 4, 5, 6):
        assert torch.equal(logits[row], logits[0])
    assert torch.equal(adapter.logits(task.test.features[:1])[0], logits[0])


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000), mode=st.sampled_from(["zero-shot", "few-shot"]), scale=st.sampled_from([100.0, 430.0])
)
def test_order_does_not_matter(make_task, seed, mode, scale):
    """Of the images (also where the text is sure of many), of the classes and of the shots."""
    task = make_task(classes=4, seed=seed, noise=1.2)
    task = replace(task, text=replace(task.text, logit_scale=scale))
    expected = fitted(task, mode=mode, gamma=0.02).logits(task.test)
    generator = torch.Generator().manual_seed(seed)
    rows, classes = torch.randperm(len(task.test), generator=generator), torch.randperm(4, generator=generator)
    shots = torch.randperm(len(task.support), generator=generator)
    support = task.support.select(shots)
    support = replace(support, labels=classes.argsort()[support.labels], class_names=())
    other = replace(task, support=support, text=task.text.select(classes))
    adapter = fitted(other, mode=mode, gamma=0.02, unlabeled=task.test.select(rows).without_labels())
    torch.testing.assert_close(adapter.logits(task.test), expected[:, classes], atol=5e-3, rtol=5e-3)


def test_first_means_are_of_the_surest_images_where_all_predictions_are_1():
    """In float32 the text gives class 0 to 20 images with p = 1; which of them are surest shows in the logits alone."""
    features = F.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    logits = torch.stack([100 + (7 * torch.arange(20.0)) % 20, torch.zeros(20), torch.arange(20.0)], dim=1)
    assert (logits.softmax(dim=1)[:, 0] == 1).all()
    surest = (logits[:, 0] - logits[:, 2]).topk(2).indices
    mean = first_mixture(features, logits, 2).means[0]
    torch.testing.assert_close(mean, F.normalize(features[surest].sum(dim=0), dim=0))


def test_how_many_images_a_first_mean_is_made_of(make_task):
    task = make_task(**HARD)
    answers = [fitted(task, mode="zero-shot", iterations=1, confident_images=n).logits(task.test) for n in (1, 8)]
    assert not torch.allclose(*answers, atol=1e-3)


def test_the_zero_shot_mode_does_not_look_at_the_support(make_task):
    task = make_task(**HARD)
    empty = FeatureSet(torch.zeros(0, HARD["dim"]))
    for support in (task.support.without_labels(), empty, task.val):
        other = fitted(replace(task, support=support), mode="zero-shot")
        assert torch.equal(other.logits(task.test), fitted(task, mode="zero-shot").logits(task.test))


def test_gamma_is_chosen_on_val(make_task):
    task = unsure(make_task(shots=3, **HARD))
    gammas = (0.0, 0.01, 5.0)

    def val_accuracy(adapter):
        nearest = (task.val.unit @ task.test.unit.T).argmax(dim=1)
        return float((adapter.predict(task.test)[nearest] == task.val.labels).double().mean())

    scores = [val_accuracy(fitted(task, gamma=gamma)) for gamma in gammas]
    assert len(set(scores)) > 1
    adapter = build_adapter("transclip", gammas=gammas)
    report = adapter.fit(task.support, task.text, val=task.val, unlabeled=task.test.without_labels())
    assert report.chosen == {"gamma": gammas[scores.index(max(scores))]}
    assert report.val_score == max(scores) and report.chosen_on == "val (30 images)"
    again = fitted(task, gamma=report.chosen["gamma"])
    assert torch.equal(adapter.logits(task.test), again.logits(task.test))  # nothing is left of the other gammas


def test_of_gammas_that_score_alike_the_middle_is_taken_or_the_first(make_task):
    task = unsure(make_task(shots=3, **HARD))
    alike = (0.01, 0.01001, 0.01002, 0.01003, 0.01004)
    chosen = {}
    for ties in ("plateau", "published"):
        adapter = build_adapter("transclip", gammas=alike, ties=ties)
        report = adapter.fit(task.support, task.text, val=task.val, unlabeled=task.test.without_labels())
        chosen[ties] = report.chosen["gamma"]
    assert chosen == {"plateau": 0.01002, "published": 0.01}


def test_gamma_without_val(make_task):
    def report(shots, **options):
        task = make_task(shots=shots, **HARD)
        return build_adapter("transclip", **options).fit(task.support, task.text, unlabeled=task.test.without_labels())

    held = report(8)
    assert held.chosen_on == "10 images held out of the support" and 0 < held.val_score <= 1
    few = report(3)
    assert few.chosen == {"gamma": 0.02} and few.chosen_on.startswith("defaults") and few.val_score is None
    given_one = report(8, gamma=0.07)
    assert given_one.chosen == {"gamma": 0.07} and given_one.chosen_on == "given as options"
    none = report(8, mode="zero-shot")
    assert none.chosen == {} and none.chosen_on == "nothing to choose"
    assert none.notes[0].startswith("40 unlabelled images classified together; ")


@pytest.mark.parametrize("mode", ["zero-shot", "few-shot"])
@pytest.mark.parametrize(
    "case",
    [
        {"classes": 2, "shots": 1}, {"shots": [1, 7, 2, 16, 5]}, {"shots": [4, 0, 4, 4, 4]}, {"dim": 3}, {"dim": 512},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scale", [1.0, 430.0])
def test_hard_shapes(make_task, mode, case, scale):
    task = make_task(**case)
    task = replace(task, text=replace(task.text, logit_scale=scale, logit_bias=-16.5))
    adapter = fitted(task, mode=mode, iterations=3)
    for images in (task.test, task.val):
        logits = adapter.logits(images)
        assert logits.shape == (len(images), len(task.text)) and torch.isfinite(logits).all()


@pytest.mark.parametrize("mode", ["zero-shot", "few-shot"])
def test_a_thousand_classes(mode):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 32, generator=generator)
    text = TextClassifier(features + torch.randn(1000, 32, generator=generator))
    adapter = build_adapter("transclip", mode=mode, iterations=2)
    adapter.fit(FeatureSet(features, torch.arange(1000)), text, unlabeled=FeatureSet(features))
    assert (adapter.predict(features) == torch.arange(1000)).float().mean() > 0.9


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["zero-shot", "few-shot"])
def test_few_images(make_task, mode, count):
    """Fewer than a neighbourhood, and most classes without an image."""
    task = make_task()
    adapter = fitted(task, mode=mode, unlabeled=task.test.select(range(count)).without_labels())
    assert torch.isfinite(adapter.logits(task.test)).all() and torch.isfinite(adapter.means).all()


def test_a_class_without_images_keeps_a_mean(make_task):
    """All images of one class, text sure of it: the mass of others is 0 in float32."""
    task = make_task(classes=3, text_noise=0.0, noise=0.1)
    task = unsure(task, scale=2000.0)
    images = task.test.select((task.test.labels == 1).tolist())
    adapter = fitted(task, mode="zero-shot", unlabeled=images.without_labels())
    torch.testing.assert_close(adapter.means.norm(dim=1), torch.ones(3))
    assert (adapter.predict(images) == 1).all() and task.accuracy(adapter) > 0.3


def test_equal_images_have_a_variance(make_task):
    task = make_task()
    adapter = fitted(task, unlabeled=FeatureSet(task.test.features[:1].repeat(20, 1)))
    assert (adapter.variance > 0).all() and torch.isfinite(adapter.logits(task.test)).all()


def test_same_seed_same_numbers(make_task):
    task = make_task(shots=8, **HARD)
    assert torch.equal(*(fitted(task, seed=3).logits(task.test) for _ in range(2)))


@pytest.mark.parametrize("gammas", [(), (0.1, -1)])
def test_bad_weights_to_choose_among(gammas):
    with pytest.raises(ConfigError, match="option gammas="):
        build_adapter("transclip", gammas=gammas)


@pytest.mark.parametrize("mode", ["zero-shot", "few-shot"])
def test_what_it_cannot_work_on(make_task, make_multilabel_task, mode):
    task, several = make_task(), make_multilabel_task()
    adapter = build_adapter("transclip", mode=mode)
    with pytest.raises(CapabilityError, match="unlabel"):
        adapter.fit(task.support, task.text)
    with pytest.raises(CapabilityError, match="pass some as unlabeled="):
        adapter.fit(task.support, task.text, unlabeled=FeatureSet(torch.zeros(0, task.test.dim)))
    with pytest.raises(CapabilityError, match=r"width \[9, 16\]"):
        adapter.fit(task.support, task.text, unlabeled=FeatureSet(torch.ones(5, 9)))
    with pytest.raises(CapabilityError, match="one label per image"):
        adapter.fit(several.support, several.text, unlabeled=several.test.without_labels())


def test_few_shot_needs_labels(make_task):
    task = make_task()
    with pytest.raises(CapabilityError, match="labelled support"):
        fitted(replace(task, support=task.support.without_labels()))


def test_memory_does_not_grow_with_pairs_of_images():
    """16,000 images, 64 classes: one (Q, Q) matrix or one (Q, C, D) array takes 1 GB."""
    script = """
import resource, torch
from vladapt import FeatureSet, TextClassifier, build_adapter
images = torch.randn(16_000, 256)
text = TextClassifier(torch.randn(64, 256))
adapter = build_adapter("transclip", mode="zero-shot", iterations=1)
adapter.fit(FeatureSet(images[:99]), text, unlabeled=FeatureSet(images[:99]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
adapter.fit(FeatureSet(images[:99]), text, unlabeled=FeatureSet(images))
adapter.logits(images)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    added = run(["-c", script], check=True).stdout
    assert float(added) < 300  # MiB
