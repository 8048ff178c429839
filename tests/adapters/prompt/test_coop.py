from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from parity_checks.prompt import class_names, coop, coop_cases, coop_trained, coop_training

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.prompts.classifier import build_classifier
from vladapt.core.prompts.context import PromptLearner
from vladapt.core.registry import build_adapter, load_adapter

NAMES = ("sea", "polka_dotted", "X-ray", "Boeing 737-800")
FAST = {"epochs": 4, "lr": 0.05, "n_ctx": 4, "batch_size": 8}


def fitted(support, classifier, backbone, *, seed=0, resources=None, **options):
    adapter = build_adapter("coop", **{**FAST, **options})
    adapter.report = adapter.fit(support, classifier, backbone=backbone, seed=seed, resources=resources)
    return adapter


def test_training_is_coop_written_out(small_clip, support, classifier):
    """Dassl's loop step by step on the untrimmed prompt: momentum and decay by hand, warm-up, dropped last batch."""
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(4)])
    start = 0.5 * torch.randn(4, 32, generator=torch.Generator().manual_seed(9))
    ours = fitted(support, classifier, small_clip, resources={"batch_order": order, "ctx": start})

    tokens = small_clip.tokenize([f"X X X X {name.replace('_', ' ')}." for name in NAMES])
    mask = small_clip.token_mask(tokens)
    words = small_clip.embed_tokens(tokens).detach()
    ctx, velocity, losses = start.clone().requires_grad_(), torch.zeros_like(start), []
    for epoch in range(4):
        lr = 1e-5 if epoch == 0 else 0.05 * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / 4))
        for rows in (order[epoch, :8], order[epoch, 8:16]):  # 20 = 8 + 8 + 4 dropped
            prompts = torch.cat([words[:, :1], ctx.expand(4, -1, -1), words[:, 5:]], dim=1)
            text = F.normalize(small_clip.encode_prompt(prompts, mask, normalize=False), dim=-1)
            logits = float(small_clip.logit_scale) * F.normalize(support.features[rows], dim=-1) @ text.T
            loss = F.cross_entropy(logits, support.labels[rows])
            (gradient,) = torch.autograd.grad(loss, ctx)
            velocity = 0.9 * velocity + gradient + 5e-4 * ctx.detach()
            ctx = (ctx.detach() - lr * velocity).requires_grad_()
            losses.append(loss.item())
    assert (ours.ctx - start).abs().max() > 0.01
    assert torch.allclose(ours.ctx, ctx.detach(), atol=1e-5)
    assert [h["loss"] for h in ours.report.history] == pytest.approx([sum(losses[i : i + 2]) / 2 for i in (0, 2, 4, 6)])


def test_agrees_with_the_reference_training_run(references, parity):
    """The context and the logits at the end, and the loss and the rate of every epoch."""
    for ref in references(coop_training):
        for check in coop_training.run(ref, parity):
            assert check.share <= 1, check
        history = coop_trained(ref, parity)[2].history
        steps = len(ref["loss_per_step"]) // len(history)
        losses, rates = (ref[f"{name}_per_step"].view(-1, steps) for name in ("loss", "lr"))
        told = ref.told["loss_per_step"]
        assert [row["loss"] for row in history] == pytest.approx(
            losses.mean(dim=1).tolist(), rel=told["rtol"], abs=told["atol"]
        )
        assert [row["lr"] for row in history] == pytest.approx(rates[:, 0].tolist(), rel=1e-6)


def test_agrees_with_the_reference_forward_and_gradients(agrees):
    agrees(coop)


@pytest.mark.parametrize("trim", [True, False])
def test_tokens_texts_and_losses_are_the_references(references, parity, trim):
    for ref in references(coop):
        backbone, names = parity.backbone(ref), class_names(ref)
        images = backbone.encode_image(ref["pixels"]).detach()
        for case, kind, n, position in coop_cases(ref):
            learner = PromptLearner(backbone, names, position=position, ctx=ref[f"ctx_{kind}_n{n}"], trim=trim)
            tokens, length = ref[f"tokenized_prompts_n{n}"], learner.tokens.shape[1]
            assert torch.equal(learner.tokens, tokens[:, :length])
            assert length == (tokens.shape[1] if not trim else int(learner.mask.sum(dim=1).max()))
            text = learner.encode(normalize=False)
            logits = backbone.logit_scale.detach() * images @ F.normalize(text, dim=-1).T
            loss = F.cross_entropy(logits, ref["labels"])
            loss.backward()
            ref.assert_close(text, f"text_features_{case}")
            ref.assert_close(logits, f"logits_{case}")
            ref.assert_close(loss, f"loss_{case}")
            ref.assert_close(learner.ctx.grad, f"grad_ctx_{case}")


@pytest.mark.parametrize("trim", [True, False])
def test_words_to_start_from_are_the_references(references, parity, trim):
    for ref in references(coop):
        backbone, words = parity.backbone(ref), re.search("'(.+)'", ref.meaning("logits_ctx_init"))[1]
        learner = PromptLearner(backbone, class_names(ref), ctx_init=words, trim=trim)
        ref.assert_close(learner.ctx, "ctx_init_vectors")
        images = backbone.encode_image(ref["pixels"]).detach()
        ref.assert_close(backbone.logit_scale.detach() * images @ learner.encode().T, "logits_ctx_init")


def test_learning_lowers_the_loss_and_moves_the_context(small_clip, support, classifier):
    adapter = fitted(support, classifier, small_clip, epochs=30, lr=2e-3)
    losses = [h["loss"] for h in adapter.report.history]
    assert losses[-1] < 0.5 * losses[0]
    zero_shot = (classifier.logits(support.unit).argmax(dim=1) == support.labels).float().mean()
    assert (adapter.predict(support) == support.labels).float().mean() > zero_shot + 0.1


def test_logits_come_from_the_learned_context(small_clip, support, classifier):
    """Without the learned vectors the prompts would be bare names, and two starts would agree."""
    adapter = fitted(support, classifier, small_clip)
    bare = build_classifier(small_clip, NAMES, ["{}."]).logits(support.unit)
    again = fitted(support, classifier, small_clip)
    assert torch.equal(adapter.logits(support), again.logits(support))
    assert not torch.allclose(adapter.logits(support), bare, atol=0.05)
    with torch.no_grad():
        same = adapter.for_classes(small_clip, NAMES).logits(support)
    assert torch.allclose(same, adapter.logits(support), atol=1e-4)


def test_linear_and_constant_warmup_are_told_apart_by_the_schedule_only():
    with pytest.raises(ConfigError, match="warmup"):
        build_adapter("coop", warmup="cosine")
    assert build_adapter("coop", warmup="linear").warmup == "linear"


def test_trimming_changes_speed_only(small_clip, support, classifier):
    cut, whole = (fitted(support, classifier, small_clip, trim=trim) for trim in (True, False))
    assert torch.allclose(cut.ctx, whole.ctx, atol=1e-5)
    assert torch.allclose(cut.logits(support), whole.logits(support), atol=1e-4)


def test_the_seed_fixes_the_fit_and_only_it(small_clip, support, classifier):
    first, again, other = (fitted(support, classifier, small_clip, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.ctx, again.ctx)
    assert not torch.equal(first.ctx, other.ctx)


@pytest.mark.parametrize(("per_class", "epochs"), [(1, 50), (2, 100), (4, 100), (8, 200)])
def test_epochs_follow_the_shots_as_published(make_support, small_clip, per_class, epochs):
    names = NAMES[:2]
    support = make_support(small_clip, per_class, names)
    adapter = build_adapter("coop", n_ctx=1)
    report = adapter.fit(support, build_classifier(small_clip, names, ["{}"]), backbone=small_clip)
    assert report.chosen["epochs"] == len(report.history) == epochs
    assert adapter.logits(support).shape == (2 * per_class, 2)


def test_imagenet_is_trained_for_fifty_epochs_at_any_number_of_shots(make_support, small_clip):
    names = NAMES[:2]
    classifier = build_classifier(small_clip, names, ["{}"])
    adapter = build_adapter("coop", n_ctx=1, preset="ImageNet")
    report = adapter.fit(make_support(small_clip, 8, names), classifier, backbone=small_clip)
    assert report.chosen["epochs"] == len(report.history) == 50


def test_a_thousand_classes(small_clip):
    names = tuple(f"thing {i}" for i in range(1000))
    text = F.normalize(torch.randn(1000, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    support = FeatureSet(text[:8], torch.arange(8), names)
    classifier = TextClassifier(weights=text, class_names=names, logit_scale=14.0)
    adapter = fitted(support, classifier, small_clip, epochs=1)
    assert adapter.logits(support).shape == (8, 1000)


@pytest.mark.parametrize("negative_templates", [None, ["a photo without {}."]])
def test_several_labels_an_image_learn_calibrated_logits(small_clip, several_labels, negative_templates):
    support = several_labels
    classifier = build_classifier(small_clip, NAMES, ["{}."], negative_templates=negative_templates)
    adapter = fitted(support, classifier, small_clip, epochs=40, lr=2e-3)
    losses = [h["loss"] for h in adapter.report.history]
    assert losses[-1] < 0.5 * losses[0]
    probabilities = adapter.predict(support)
    assert probabilities.shape == (20, 4)
    known = ~torch.isnan(support.labels)
    positive = probabilities[known & (support.labels == 1)].mean()
    assert positive > 1.5 * probabilities[known & (support.labels == 0)].mean()
    assert 0.15 < probabilities.mean() < 0.4  # a quarter of the labels are set


def test_negative_prompts_are_what_the_logits_are_relative_to(small_clip, several_labels):
    support = several_labels
    classifier = build_classifier(small_clip, NAMES, ["{}."], negative_templates=["a photo without {}."])
    adapter = fitted(support, classifier, small_clip)
    difference = support.unit @ (adapter.text_features - classifier.negative).T
    assert torch.allclose(adapter.logits(support), classifier.logit_scale * difference, atol=1e-4)


def test_a_logit_bias_is_kept(small_clip, support, classifier):
    biased = TextClassifier(weights=classifier.weights, class_names=NAMES, logit_scale=14.0, logit_bias=-10.0)
    with_bias, without = (
        fitted(support, c, small_clip).logits(support)
        for c in (biased, TextClassifier(weights=classifier.weights, class_names=NAMES, logit_scale=14.0))
    )
    assert torch.allclose(with_bias, without - 10, atol=1e-3)


def test_the_context_serves_other_classes(make_support, small_clip, support, classifier, tmp_path):
    adapter = fitted(support, classifier, small_clip)
    new = ("golden retriever", "sushi")
    other = adapter.for_classes(small_clip, new)
    images = make_support(small_clip, names=new)
    assert other.logits(images).shape == (10, 2)
    reread = load_adapter(other.save(tmp_path / "new.safetensors"), small_clip)
    assert reread.class_names_ == new
    assert torch.equal(reread.logits(images), other.logits(images))
    later = load_adapter(adapter.save(tmp_path / "base.safetensors")).for_classes(small_clip, new)
    assert torch.allclose(later.logits(images), other.logits(images), atol=1e-5)
    assert adapter.class_names_ == NAMES


def test_what_cannot_serve_other_classes_says_so(small_clip, support, several_labels, classifier):
    with pytest.raises(CapabilityError, match="not fitted"):
        build_adapter("coop").for_classes(small_clip, NAMES)
    with pytest.raises(CapabilityError, match="csc=True"):
        fitted(support, classifier, small_clip, csc=True, epochs=1).for_classes(small_clip, NAMES)
    several = fitted(several_labels, classifier, small_clip, epochs=1)
    with pytest.raises(CapabilityError, match="one label"):
        several.for_classes(small_clip, NAMES)
    elsewhere = fitted(support, classifier, small_clip, epochs=1)
    elsewhere.backbone_ = "another"
    with pytest.raises(CapabilityError, match="not the one"):
        elsewhere.for_classes(small_clip, NAMES)


def test_needs_are_said_in_one_line(small_clip, support, classifier):
    with pytest.raises(CapabilityError, match="trains through the text tower"):
        build_adapter("coop").fit(support, classifier)
    with pytest.raises(CapabilityError, match="fresh_views: new views need the images"):
        fitted(support, classifier, small_clip, fresh_views=True)
    nameless = TextClassifier(weights=classifier.weights)
    with pytest.raises(ConfigError, match="class names"):
        fitted(FeatureSet(support.features, support.labels), nameless, small_clip)
    with pytest.raises(ConfigError, match="batch_order"):
        fitted(support, classifier, small_clip, resources={"batch_order": torch.zeros(1, 20, dtype=torch.long)})


def test_a_start_without_words_is_refused():
    with pytest.raises(ConfigError, match="ctx_init"):
        build_adapter("coop", ctx_init="")


def test_a_trainable_tower_gets_no_gradient(small_clip_spec, support, classifier):
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(small_clip_spec, device="cpu")
    backbone.model.requires_grad_(True)
    fitted(support, classifier, backbone, epochs=1)
    assert all(p.grad is None for p in backbone.model.parameters())


def test_learns_through_the_embedded_tower(embedded_task):
    backbone, support, classifier = embedded_task
    adapter = build_adapter("coop", n_ctx=4, epochs=8, lr=0.02, csc=True)
    report = adapter.fit(support, classifier, backbone=backbone)
    zero_shot = (classifier.logits(support.unit).argmax(dim=1) == support.labels).float().mean()
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    assert (adapter.predict(support) == support.labels).float().mean() > zero_shot


@pytest.mark.parametrize(
    "options", [{"class_chunk": 3}, {"checkpointing": True}, {"class_chunk": 1, "checkpointing": True}], ids=str
)
def test_chunks_and_checkpointing_change_memory_only(small_clip, support, classifier, options):
    usual, chunked = (fitted(support, classifier, small_clip, **given) for given in ({}, options))
    assert torch.allclose(usual.ctx, chunked.ctx, atol=1e-5)
    assert torch.allclose(usual.logits(support), chunked.logits(support), atol=1e-4)
    assert set(options) <= type(chunked).cost_options


@pytest.mark.parametrize(
    ("options", "runs"),
    [({}, [4]), ({"class_chunk": 3}, [3, 1]), ({"class_chunk": 2, "checkpointing": True}, [2, 2] * 2)],
    ids=str,
)
def test_how_many_prompts_a_training_step_encodes_at_once(fresh_clip, counted, support, classifier, options, runs):
    """In the forward pass; with checkpointing again in the backward pass."""
    prompts = counted(fresh_clip)
    fitted(support, classifier, fresh_clip, epochs=1, batch_size=20, **options)
    assert prompts[: len(runs)] == runs
    assert sum(prompts) == sum(runs) + 4  # and once at the end, for good
