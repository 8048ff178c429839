from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity_checks.prompt import kgcoop

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.prompts.classifier import build_classifier
from vladapt.core.registry import build_adapter, load_adapter

NAMES = ("sea", "polka_dotted", "X-ray", "Boeing 737-800")
FAST = {"epochs": 4, "lr": 0.05, "batch_size": 8}


def fitted(support, classifier, backbone, *, name="kgcoop", seed=0, resources=None, **options):
    adapter = build_adapter(name, **{**FAST, **options})
    adapter.report = adapter.fit(support, classifier, backbone=backbone, seed=seed, resources=resources)
    return adapter


def test_agrees_with_the_reference_loss_and_gradients(agrees):
    agrees(kgcoop)


def test_published_settings():
    adapter = build_adapter("kgcoop")
    assert (adapter.guidance, adapter.batch_size, adapter.ctx_init, adapter.lr) == (8.0, 128, "a photo of a", 2e-3)
    assert adapter.default_epochs == ((1, 100),)


def test_without_guidance_it_is_coop(small_clip, support, classifier):
    ours = fitted(support, classifier, small_clip, guidance=0.0)
    coop = fitted(support, classifier, small_clip, name="coop", ctx_init="a photo of a")
    assert torch.equal(ours.ctx, coop.ctx)


def test_guidance_holds_the_text_features_near_the_template(small_clip, support, classifier):
    def away(guidance):
        text = fitted(support, classifier, small_clip, guidance=guidance, epochs=20, lr=2e-3).text_features
        return float((1 - F.cosine_similarity(text, classifier.weights)).mean())

    assert away(0.0) > 2 * away(8.0) > 2 * away(100.0)


def test_the_template_it_is_held_near_is_that_of_the_classifier(small_clip, support, classifier):
    texture = build_classifier(small_clip, NAMES, ["a photo of a {}, a type of texture."])
    usual, other = (fitted(support, words, small_clip) for words in (classifier, texture))
    assert not torch.allclose(usual.ctx, other.ctx, atol=1e-4)


def test_n_ctx_counts_where_no_words_are_given(small_clip, support, classifier):
    assert fitted(support, classifier, small_clip, ctx_init=None, n_ctx=3, epochs=1).ctx.shape == (3, 32)


def test_chunks_change_memory_only(small_clip, support, classifier):
    usual, chunked = (
        fitted(support, classifier, small_clip, **options)
        for options in ({}, {"class_chunk": 1, "checkpointing": True, "trim": False})
    )
    assert torch.allclose(usual.ctx, chunked.ctx, atol=1e-5)


def test_the_order_of_classes_changes_nothing(small_clip, support, classifier):
    order = torch.tensor([2, 0, 3, 1])
    moved = FeatureSet(support.features, order.argsort()[support.labels], tuple(NAMES[i] for i in order))
    usual = fitted(support, classifier, small_clip)
    other = fitted(moved, classifier.select(order), small_clip)
    assert torch.allclose(usual.logits(support)[:, order], other.logits(support), atol=1e-3)


def test_several_labels_an_image(small_clip, several_labels):
    classifier = build_classifier(small_clip, NAMES, ["{}."], negative_templates=["a photo without {}."])
    free, held = (
        fitted(several_labels, classifier, small_clip, epochs=20, lr=2e-3, guidance=guidance) for guidance in (0.0, 8.0)
    )
    assert held.report.history[-1]["loss"] < held.report.history[0]["loss"]
    assert held.predict(several_labels).shape == (20, 4)
    near = [float(F.cosine_similarity(a.text_features, classifier.weights).mean()) for a in (free, held)]
    assert near[1] > near[0]


@pytest.mark.parametrize("counts", [[1, 1], [5, 1, 0]])
def test_few_and_unequal_shots_and_a_class_without_any(small_clip, counts):
    names, labels = NAMES[: len(counts)], torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    features = torch.randn(len(labels), 24, generator=torch.Generator().manual_seed(0))
    adapter = fitted(FeatureSet(features, labels, names), build_classifier(small_clip, names, ["{}"]), small_clip)
    assert torch.isfinite(adapter.logits(features)).all()


def test_a_logit_bias_is_kept(small_clip, support, classifier):
    biased = TextClassifier(weights=classifier.weights, class_names=NAMES, logit_scale=14.0, logit_bias=-10.0)
    plain = TextClassifier(weights=classifier.weights, class_names=NAMES, logit_scale=14.0)
    with_bias, without = (fitted(support, words, small_clip).logits(support) for words in (biased, plain))
    assert torch.allclose(with_bias, without - 10, atol=1e-3)


def test_other_classes_and_other_processes(small_clip, support, classifier, tmp_path, logits_elsewhere):
    adapter = fitted(support, classifier, small_clip)
    assert torch.allclose(logits_elsewhere(adapter, support.features), adapter.logits(support), atol=1e-6)
    other = adapter.for_classes(small_clip, ("golden retriever", "sushi", "sea"))
    assert other.name == "kgcoop" and other.logits(support).shape == (20, 3)
    assert torch.allclose(other.logits(support)[:, 2], adapter.logits(support)[:, 0], atol=1e-4)
    reread = load_adapter(other.save(tmp_path / "new.safetensors"))
    assert torch.equal(reread.logits(support), other.logits(support))
    with pytest.raises(CapabilityError, match="kgcoop with csc=True"):
        fitted(support, classifier, small_clip, csc=True, epochs=1).for_classes(small_clip, NAMES)


def test_what_cannot_be_is_said(small_clip, support, classifier):
    with pytest.raises(ConfigError, match="guidance"):
        build_adapter("kgcoop", guidance=-1.0)
    with pytest.raises(ConfigError, match="kgcoop writes prompts around class names"):
        fitted(FeatureSet(support.features, support.labels), TextClassifier(classifier.weights), small_clip)


def test_learns_through_the_embedded_tower(embedded_task):
    backbone, support, classifier = embedded_task
    adapter = build_adapter("kgcoop", epochs=8, lr=0.02, guidance=1.0, csc=True)
    report = adapter.fit(support, classifier, backbone=backbone)
    zero_shot = (classifier.logits(support.unit).argmax(dim=1) == support.labels).float().mean()
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    assert (adapter.predict(support) == support.labels).float().mean() > zero_shot
