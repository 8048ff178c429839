from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from parity_checks.prompt import pomp

from vladapt.adapters.prompt.pomp import local_logits
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import build_adapter, load_adapter

NAMES = ("sea", "polka_dotted", "X-ray", "Boeing 737-800")
MANY = tuple(f"thing {i}" for i in range(60))
FAST = {"epochs": 4, "lr": 0.05, "n_ctx": 4, "batch_size": 8}


def fitted(support, classifier, backbone, *, name="pomp", seed=0, resources=None, **options):
    adapter = build_adapter(name, **{**FAST, **options})
    adapter.report = adapter.fit(support, classifier, backbone=backbone, seed=seed, resources=resources)
    return adapter


@pytest.fixture(scope="module")
def many(small_clip):
    """(support, classifier) of 60 classes, 20 of which have an image."""
    with torch.no_grad():
        centres = small_clip.encode_text([f"a blurry {name} drawing" for name in MANY])
    labels = torch.arange(0, 60, 3)
    noise = 0.05 * torch.randn(20, centres.shape[1], generator=torch.Generator().manual_seed(0))
    classifier = TextClassifier(centres, class_names=MANY, logit_scale=14.0)
    return FeatureSet(centres[labels] + noise, labels, MANY), classifier


def test_agrees_with_the_reference_logits_loss_and_gradients(agrees):
    agrees(pomp)


def test_an_images_own_class_is_no_negative():
    """Where it was drawn, as is the rule with many classes, the released code gives it -1e6, here it has none."""
    generator = torch.Generator().manual_seed(0)
    unit, text = (F.normalize(torch.randn(n, 6, generator=generator), dim=-1) for n in (3, 9))
    labels, drawn = torch.tensor([4, 0, 7]), torch.tensor([7, 2, 4, 8])
    is_own = labels[:, None] == drawn
    logits = local_logits(unit, text[labels], text[drawn], is_own, logit_scale=50.0, classes=9, correction="log10")
    assert torch.equal(torch.isneginf(logits[:, 1:]), is_own) and torch.isfinite(logits[:, 0]).all()


def sampled_sum(classes=30, draws=8, repeats=4000, correction="ln") -> tuple[float, float]:
    """The mean over many draws of the sum of exponentials over other classes, and that over all of them."""
    generator = torch.Generator().manual_seed(0)
    unit, text = (F.normalize(torch.randn(n, 6, generator=generator), dim=-1) for n in (1, classes))
    every = local_logits(unit, text[:1], text, torch.arange(classes)[None] == 0, logit_scale=3.0, classes=classes)
    sums = []
    for _ in range(repeats):
        drawn = torch.randperm(classes, generator=generator)[:draws]
        logits = local_logits(
            unit, text[:1], text[drawn], drawn[None] == 0, logit_scale=3.0, classes=classes, correction=correction
        )
        sums.append(logits[0, 1:].exp().sum())
    return float(torch.stack(sums).mean()), float(every[0, 1:].exp().sum())


@pytest.mark.thorough
def test_the_margin_makes_up_for_the_classes_that_were_not_drawn():
    found, want = sampled_sum()
    assert found == pytest.approx(want, rel=0.02)
    assert sampled_sum(correction=None)[0] < 0.4 * want
    assert sampled_sum(correction="log10")[0] < 0.7 * want


def test_the_margin_counts_the_classes_drawn_for_each_image():
    unit, others = F.normalize(torch.randn(2, 5), dim=-1), F.normalize(torch.randn(3, 5), dim=-1)
    is_own = torch.tensor([[False, True, False], [False, False, False]])
    given = {"logit_scale": 10.0, "classes": 11}
    with_margin, without = (local_logits(unit, unit, others, is_own, correction=c, **given) for c in ("ln", None))
    margin = with_margin - without
    assert margin[:, 0].abs().max() == 0
    assert margin[0, [1, 3]].tolist() == pytest.approx([math.log(10 / 2)] * 2, rel=1e-4)
    assert margin[1, 1:].tolist() == pytest.approx([math.log(10 / 3)] * 3, rel=1e-4)


def test_with_all_classes_it_is_coop(small_clip, many):
    support, classifier = many
    for sampled in (60, 1000):
        ours = fitted(support, classifier, small_clip, sampled_classes=sampled)
        coop = fitted(support, classifier, small_clip, name="coop")
        assert torch.equal(ours.ctx, coop.ctx)


def test_training_is_pomp_written_out(small_clip, many):
    """One epoch, classes drawn by the same generator, each image by itself."""
    support, classifier = many
    order = torch.arange(20)[None]
    options = {"epochs": 1, "warmup": None, "momentum": 0.0, "weight_decay": 0.0, "sampled_classes": 10}
    start = 0.5 * torch.randn(4, 32, generator=torch.Generator().manual_seed(9))
    ours = fitted(support, classifier, small_clip, seed=5, resources={"ctx": start, "batch_order": order}, **options)
    from vladapt.core.prompts.context import PromptLearner

    generator = torch.Generator().manual_seed(5)
    learner = PromptLearner(small_clip, MANY, ctx=start)
    for rows in (order[0, :8], order[0, 8:16]):
        drawn = torch.randperm(60, generator=generator)[:9]
        text, losses = learner.encode(), []
        for row in rows:
            label = support.labels[row]
            others = drawn[drawn != label]
            logits = 14.0 * text[torch.cat([label[None], others])] @ support.unit[row]
            logits = logits + torch.tensor([0.0] + [math.log(59 / len(others))] * len(others))
            losses.append(F.cross_entropy(logits, torch.tensor(0)))
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), learner.ctx)
        with torch.no_grad():
            learner.ctx -= 0.05 * gradient
    assert (ours.ctx - start).abs().max() > 1e-3
    assert torch.allclose(ours.ctx, learner.ctx, atol=1e-5)


def test_a_step_encodes_the_drawn_classes_and_its_own_alone(fresh_clip, counted, many):
    prompts = counted(fresh_clip)
    fitted(*many, fresh_clip, epochs=1, sampled_classes=10)
    *steps, last = prompts
    assert len(steps) == 2 and all(9 <= count <= 17 for count in steps)  # 9 drawn, up to 8 of the batch
    assert last == 60


def test_views_are_trained_on(make_support, small_clip, classifier):
    support = make_support(small_clip, views=3)
    some = [fitted(support, classifier, small_clip, views=views, sampled_classes=3).ctx for views in (0, 2)]
    assert not torch.allclose(*some, atol=1e-6)


def test_the_seed_fixes_which_classes_are_drawn(small_clip, many):
    start = {"ctx": torch.zeros(4, 32), "batch_order": torch.arange(20).repeat(4, 1)}
    first, again, other = (fitted(*many, small_clip, seed=s, sampled_classes=5, resources=start).ctx for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-6)


def test_chunks_change_memory_only(small_clip, many):
    usual, chunked = (
        fitted(*many, small_clip, sampled_classes=10, **options)
        for options in ({}, {"class_chunk": 4, "checkpointing": True, "trim": False})
    )
    assert torch.allclose(usual.ctx, chunked.ctx, atol=1e-5)
    assert torch.allclose(usual.text_features, chunked.text_features, atol=1e-5)


def test_learning_on_samples_serves_all_classes(small_clip, many):
    """Right among all 60, though no step saw more than 10 others."""
    support, classifier = many
    untrained, trained = (
        fitted(support, classifier, small_clip, sampled_classes=10, epochs=epochs, lr=2e-3) for epochs in (1, 40)
    )
    assert trained.report.history[-1]["loss"] < 0.7 * trained.report.history[0]["loss"]
    assert trained.logits(support).shape == (20, 60)
    before, after = ((a.predict(support) == support.labels).float().mean() for a in (untrained, trained))
    assert after > before + 0.15


def test_smallest_and_largest_tasks(small_clip):
    for count, sampled in ((2, 2), (3, 2), (1000, 1000), (1001, 1000)):
        names = tuple(f"thing {i}" for i in range(count))
        text = F.normalize(torch.randn(count, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
        support = FeatureSet(text[:2], torch.arange(2), names)
        classifier = TextClassifier(text, class_names=names, logit_scale=430.0, logit_bias=-3.0)
        adapter = fitted(support, classifier, small_clip, epochs=1, sampled_classes=sampled)
        assert torch.isfinite(adapter.logits(support)).all() and math.isfinite(adapter.report.history[0]["loss"])


def test_other_classes_and_other_processes(small_clip, many, tmp_path, logits_elsewhere):
    support, classifier = many
    adapter = fitted(support, classifier, small_clip, sampled_classes=10)
    assert torch.allclose(logits_elsewhere(adapter, support.features), adapter.logits(support), atol=1e-6)
    other = adapter.for_classes(small_clip, ("sushi", MANY[3]))
    assert torch.allclose(other.logits(support)[:, 1], adapter.logits(support)[:, 3], atol=1e-4)
    assert load_adapter(other.save(tmp_path / "new.safetensors")).class_names_ == ("sushi", MANY[3])


def test_what_cannot_be_is_said(small_clip, several_labels, classifier):
    for bad in ({"sampled_classes": 1}, {"correction": "log2"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            build_adapter("pomp", **bad)
    with pytest.raises(CapabilityError, match="'pomp' takes one label per image"):
        fitted(several_labels, classifier, small_clip)


def test_published_settings():
    adapter = build_adapter("pomp")
    assert (adapter.sampled_classes, adapter.n_ctx, adapter.batch_size, adapter.lr) == (1000, 16, 32, 2e-3)
    assert adapter.correction == "ln" and adapter.default_epochs == ((1, 20),)


def test_learns_through_the_embedded_tower(embedded_task):
    backbone, support, classifier = embedded_task
    adapter = build_adapter("pomp", n_ctx=4, epochs=8, lr=0.02, sampled_classes=2)
    report = adapter.fit(support, classifier, backbone=backbone)
    assert report.history[-1]["loss"] < report.history[0]["loss"]
