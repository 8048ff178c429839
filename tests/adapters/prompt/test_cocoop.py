from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from parity_checks.prompt import cocoop

from vladapt.adapters.prompt.cocoop import META
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.prompts.context import PromptLearner
from vladapt.core.registry import build_adapter, load_adapter

NAMES = ("sea", "polka_dotted", "X-ray", "Boeing 737-800")
FAST = {"epochs": 3, "lr": 0.05, "batch_size": 4, "reduction": 2}


def fitted(support, classifier, backbone, *, seed=0, resources=None, **options):
    adapter = build_adapter("cocoop", **{**FAST, **options})
    adapter.report = adapter.fit(support, classifier, backbone=backbone, seed=seed, resources=resources)
    return adapter


def test_agrees_with_the_reference_logits_loss_and_gradients(references, parity):
    """Gradients far within the fixture's tolerance, which is as large as some of them."""
    for ref in references(cocoop):
        for check in cocoop.run(ref, parity):
            assert check.share <= (0.1 if "grad" in check.what else 1), check


def test_training_is_cocoop_written_out(small_clip, support, classifier):
    """Image by image, with momentum and weight decay by hand, on the context and on all of the network."""
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(2)])
    ours = fitted(support, classifier, small_clip, resources={"batch_order": order}, epochs=2, batch_size=1)
    start = fitted(support, classifier, small_clip, epochs=1, lr=1e-12, warmup=None, batch_size=20, weight_decay=0.0)
    values = [getattr(start, name).clone().requires_grad_() for name in ("ctx", *META)]
    velocity = [torch.zeros_like(value) for value in values]
    for epoch, lr in enumerate((1e-5, 0.05)):
        for row in order[epoch]:
            ctx, down, down_bias, up, up_bias = values
            x = support.unit[row]
            shift = up @ torch.relu(down @ x + down_bias) + up_bias
            text = PromptLearner(small_clip, NAMES, ctx=ctx).encode_each((ctx + shift)[None])[0]
            loss = F.cross_entropy(float(small_clip.logit_scale) * text @ x, support.labels[row])
            gradients = torch.autograd.grad(loss, values)
            velocity = [0.9 * v + g + 5e-4 * p.detach() for v, g, p in zip(velocity, gradients, values)]
            values = [(p.detach() - lr * v).requires_grad_() for p, v in zip(values, velocity)]
    for name, value, before in zip(("ctx", *META), values, (getattr(start, n) for n in ("ctx", *META))):
        assert (value - before).abs().max() > 1e-3, name
        assert torch.allclose(getattr(ours, name), value, atol=2e-4), name


def test_the_context_of_an_image_depends_on_the_image(small_clip, support, classifier):
    adapter = fitted(support, classifier, small_clip, epochs=1)
    without = adapter.for_classes(small_clip, NAMES)
    without.up_weight = torch.zeros_like(adapter.up_weight)
    text = PromptLearner(small_clip, NAMES, ctx=adapter.ctx + adapter.up_bias).encode()
    want = float(small_clip.logit_scale) * support.unit @ text.T
    assert torch.allclose(without.logits(support), want, atol=1e-4)  # one context for all: CoOp
    assert not torch.allclose(adapter.logits(support), want, atol=1e-2)


def test_learning_lowers_the_loss_and_beats_zero_shot(small_clip, support, classifier):
    adapter = fitted(support, classifier, small_clip, epochs=15, lr=2e-3, batch_size=1)
    losses = [h["loss"] for h in adapter.report.history]
    assert losses[-1] < 0.5 * losses[0]
    zero_shot = (classifier.logits(support.unit).argmax(dim=1) == support.labels).float().mean()
    assert (adapter.predict(support) == support.labels).float().mean() > zero_shot + 0.1


def test_an_image_is_scored_alike_whoever_is_beside_it(small_clip, support, classifier):
    adapter = fitted(support, classifier, small_clip)
    alone = torch.cat([adapter.logits(row[None]) for row in support.features])
    assert torch.allclose(adapter.logits(support.features.flip(0)).flip(0), alone, atol=1e-4)
    assert adapter.logits(support.features.double().float()).shape == (20, 4)


def test_n_ctx_counts_where_no_words_are_given(small_clip, support, classifier):
    assert fitted(support, classifier, small_clip, ctx_init=None, n_ctx=3, epochs=1).ctx.shape == (3, 32)


def test_the_inside_of_the_network_is_a_sixteenth_as_published(small_clip, support, classifier):
    assert fitted(support, classifier, small_clip, reduction=16, epochs=1).down_weight.shape == (1, 24)
    assert build_adapter("cocoop").reduction == 16
    adapter = build_adapter("cocoop")
    report = adapter.fit(support, classifier, backbone=small_clip)
    assert (len(report.history), adapter.batch_size, adapter.lr, adapter.ctx_init) == (10, 1, 2e-3, "a photo of a")


@pytest.mark.parametrize(
    "options", [{"class_chunk": 3}, {"class_chunk": 5, "checkpointing": True}, {"trim": False}], ids=str
)
def test_chunks_change_memory_only(small_clip, support, classifier, options):
    usual, chunked = (fitted(support, classifier, small_clip, **given) for given in ({}, options))
    assert torch.allclose(usual.ctx, chunked.ctx, atol=1e-5)
    assert torch.allclose(usual.logits(support), chunked.logits(support), atol=1e-4)


@pytest.mark.parametrize(("chunk", "runs"), [(None, [80]), (8, [8] * 10), (4, [4] * 20), (3, [3, 1] * 20)])
def test_prediction_holds_no_more_prompts_than_it_was_told(fresh_clip, counted, support, classifier, chunk, runs):
    adapter = fitted(support, classifier, fresh_clip, epochs=1, class_chunk=chunk)
    prompts = counted(fresh_clip)
    adapter.logits(support)
    assert prompts == runs


@pytest.mark.thorough(but=("False",))
@pytest.mark.parametrize("trim", [True, False])
def test_a_graph_of_it_takes_any_number_of_images(small_clip, support, classifier, tmp_path, trim):
    """With what prompts begin with computed once, and without."""
    pytest.importorskip("onnx", reason="extra export is not installed")
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    from vladapt.core.export.folder import Session
    from vladapt.core.export.graph import Graph
    from vladapt.core.tasks.classification.exporting import Head

    adapter, path = fitted(support, classifier, small_clip, epochs=1, trim=trim, class_chunk=1), tmp_path / "head.onnx"
    adapter.attach(small_clip)
    Graph(Head(adapter, None), {"features": support.features[:2]}, ["logits"]).write(path, 18, {})
    for rows in (1, 5):
        found = torch.from_numpy(Session(path)(features=support.features[-rows:].numpy())["logits"])
        torch.testing.assert_close(found, adapter.logits(support.features[-rows:]), atol=1e-3, rtol=1e-4)


def test_the_seed_fixes_the_fit_and_leaves_other_seeds_alone(small_clip, support, classifier):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (fitted(support, classifier, small_clip, seed=s, epochs=1) for s in (3, 3, 4))
    assert torch.equal(first.down_weight, again.down_weight) and torch.equal(first.ctx, again.ctx)
    assert not torch.equal(first.down_weight, other.down_weight)
    assert torch.equal(before, torch.get_rng_state())


def test_the_order_of_classes_changes_nothing(small_clip, support, classifier):
    order = torch.tensor([2, 0, 3, 1])
    moved = FeatureSet(support.features, order.argsort()[support.labels], tuple(NAMES[i] for i in order))
    usual = fitted(support, classifier, small_clip)
    other = fitted(moved, classifier.select(order), small_clip)
    assert torch.allclose(usual.logits(support)[:, order], other.logits(support), atol=1e-3)


@pytest.mark.parametrize("counts", [[1, 1], [5, 1, 0]])
def test_few_and_unequal_shots_and_a_class_without_any(small_clip, counts):
    names, labels = NAMES[: len(counts)], torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    features = torch.randn(len(labels), 24, generator=torch.Generator().manual_seed(0))
    classifier = TextClassifier(torch.randn(len(counts), 24), class_names=names, logit_scale=430.0)
    adapter = fitted(FeatureSet(features, labels, names), classifier, small_clip, epochs=1)
    assert torch.isfinite(adapter.logits(features)).all() and math.isfinite(adapter.report.history[0]["loss"])


def test_a_thousand_classes(small_clip):
    names = tuple(f"thing {i}" for i in range(1000))
    support = FeatureSet(torch.randn(2, 24), torch.arange(2), names)
    classifier = TextClassifier(torch.randn(1000, 24), class_names=names)
    adapter = fitted(support, classifier, small_clip, epochs=1, checkpointing=True, batch_size=1)
    assert adapter.logits(support).shape == (2, 1000)


def test_a_logit_bias_is_kept(small_clip, support, classifier):
    biased = TextClassifier(classifier.weights, class_names=NAMES, logit_scale=14.0, logit_bias=-10.0)
    plain = TextClassifier(classifier.weights, class_names=NAMES, logit_scale=14.0)
    with_bias, without = (fitted(support, words, small_clip).logits(support) for words in (biased, plain))
    assert torch.allclose(with_bias, without - 10, atol=1e-3)


def test_other_classes(small_clip, support, classifier, tmp_path):
    adapter = fitted(support, classifier, small_clip)
    other = adapter.for_classes(small_clip, ("golden retriever", "sushi", "sea"))
    assert torch.allclose(other.logits(support)[:, 2], adapter.logits(support)[:, 0], atol=1e-4)
    reread = load_adapter(other.save(tmp_path / "new.safetensors"), small_clip)
    assert torch.allclose(reread.logits(support), other.logits(support), atol=1e-5)
    again = load_adapter(tmp_path / "new.safetensors").for_classes(small_clip, NAMES)
    assert torch.allclose(again.logits(support), adapter.logits(support), atol=1e-5)
    with pytest.raises(CapabilityError, match="'cocoop' is not fitted"):
        build_adapter("cocoop").for_classes(small_clip, NAMES)


def test_what_cannot_be_is_said(small_clip, support, several_labels, classifier, tmp_path):
    for bad in ({"reduction": 0}, {"n_ctx": 0}, {"lr": 0.0}, {"class_chunk": 0}, {"amp": "fp16"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            build_adapter("cocoop", **bad)
    with pytest.raises(CapabilityError, match="'cocoop' takes one label per image"):
        fitted(several_labels, classifier, small_clip)
    with pytest.raises(CapabilityError, match="fresh_views: new views need the images"):
        fitted(support, classifier, small_clip, fresh_views=True)
    adapter = fitted(support, classifier, small_clip, epochs=1)
    with pytest.raises(CapabilityError, match="runs the backbone at prediction"):
        load_adapter(adapter.save(tmp_path / "a.safetensors")).logits(support)


def test_a_trainable_tower_gets_no_gradient(fresh_clip, support, classifier):
    fresh_clip.model.requires_grad_(True)
    fitted(support, classifier, fresh_clip, epochs=1)
    assert all(p.grad is None for p in fresh_clip.model.parameters())


@pytest.mark.thorough
def test_learns_through_the_embedded_tower(embedded_task):
    backbone, support, classifier = embedded_task
    adapter = build_adapter("cocoop", epochs=4, lr=0.02, batch_size=6)
    report = adapter.fit(support, classifier, backbone=backbone)
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    assert torch.isfinite(adapter.logits(support)).all()
