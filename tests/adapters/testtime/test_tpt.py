from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks.prompt import tpt_selection, tpt_tuning

from vladapt.adapters.testtime._views import random_views
from vladapt.adapters.testtime.tpt import mean_entropy
from vladapt.core.contracts import Batch, FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.prompts.context import PromptLearner
from vladapt.core.registry import build_adapter, load_adapter

NAMES = ("sea", "polka_dotted", "X-ray", "Boeing 737-800")
FAST = {"n_views": 8, "selection": 0.25, "lr": 0.05}


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Five of different sizes."""
    sizes = ((20, 30), (16, 16), (40, 18), (25, 25), (31, 17))
    return [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)]


def prepared(support, classifier, backbone, *, seed=0, resources=None, **options):
    adapter = build_adapter("tpt", **{**FAST, **options})
    adapter.report = adapter.fit(support, classifier, backbone=backbone, seed=seed, resources=resources)
    return adapter


def features_of(backbone, images) -> torch.Tensor:
    with torch.no_grad():
        return backbone.encode_image(torch.stack([backbone.preprocess()(image) for image in images]), normalize=False)


@pytest.mark.parametrize("comparison", [tpt_selection, tpt_tuning], ids=["selection", "tuning"])
def test_agrees_with_the_reference(agrees, comparison):
    agrees(comparison)


def test_one_image_written_out(small_clip, support, classifier, images):
    """Views, selection, one step of AdamW by hand, and the image itself with the tuned context."""
    adapter = prepared(support, classifier, small_clip, n_views=12, weight_decay=0.1, seed=4)
    image, transform = images[0], small_clip.preprocess()
    crops = random_views(image, 11, 16, transform, scale=(0.08, 1.0), augmix=False, seed=4)
    with torch.no_grad():
        x = small_clip.encode_image(torch.cat([transform(image)[None], crops]))
    learner = PromptLearner(small_clip, NAMES, ctx_init="a photo of a")
    start, scale = learner.ctx.detach().clone(), float(small_clip.logit_scale)
    p = (scale * x @ learner.encode().T).softmax(dim=1)
    sure = (-(p * p.log()).sum(dim=1)).sort().indices[:3]
    mean = p[sure].mean(dim=0)
    (gradient,) = torch.autograd.grad(-(mean * mean.log()).sum(), learner.ctx)
    tuned = start * (1 - 0.05 * 0.1) - 0.05 * gradient / (gradient.abs() + 1e-8)
    want = scale * x[:1] @ PromptLearner(small_clip, NAMES, ctx=tuned).encode().T
    assert torch.allclose(adapter.logits(Batch(images=[image])), want, atol=1e-3)
    untuned = scale * x[:1] @ PromptLearner(small_clip, NAMES, ctx=start).encode().T
    assert not torch.allclose(want, untuned, atol=0.05)


def test_a_step_lowers_the_entropy_of_the_kept_views(small_clip, support, classifier):
    adapter = prepared(support, classifier, small_clip, steps=1, lr=1e-4, selection=1.0)
    views = F.normalize(torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    views = views[:, :1].expand(-1, 8, -1)  # all alike, so that view 0 tells of all
    before = adapter._scores(views, adapter._prompts, adapter.ctx.expand(3, -1, -1))[:, :1]
    assert (mean_entropy(adapter.tuned_logits(views)[:, None]) < mean_entropy(before)).all()


def test_mean_entropy_of_certain_views_is_finite():
    sure = torch.zeros(1, 2, 3)
    sure[:, :, 0] = 1e5
    assert mean_entropy(sure).tolist() == [0.0]
    sure[0, 1] = sure[0, 1].flip(0)
    assert mean_entropy(sure).item() == pytest.approx(float(np.log(2)), rel=1e-5)


def test_images_do_not_depend_on_each_other(small_clip, support, classifier, images):
    adapter = prepared(support, classifier, small_clip)
    batch = Batch(images=images, features=features_of(small_clip, images))
    together = adapter.logits(batch)
    order = [3, 1, 4, 0, 2]
    shuffled = adapter.logits(Batch(images=[images[i] for i in order], features=batch.features[order]))
    assert torch.equal(shuffled, together[order])
    assert torch.allclose(adapter.logits(Batch(images=images[2:3])), together[2:3], atol=1e-4)
    assert torch.equal(adapter.logits(batch), together)


@pytest.mark.parametrize("options", [{"images_at_once": 2}, {"images_at_once": 9}, {"class_chunk": 3},
                                     {"class_chunk": 2, "checkpointing": True, "images_at_once": 5}, {"trim": False}],
                         ids=str)  # fmt: skip
def test_side_by_side_and_in_chunks_it_is_the_same(small_clip, support, classifier, images, options):
    usual, other = (
        prepared(support, classifier, small_clip, **given).logits(Batch(images=images)) for given in ({}, options)
    )
    assert torch.allclose(usual, other, atol=1e-2)
    assert set(options) <= type(build_adapter("tpt")).cost_options


def test_the_transform_of_the_batch_is_used(small_clip, support, classifier, images):
    adapter = prepared(support, classifier, small_clip)
    plain = small_clip.preprocess()
    usual = adapter.logits(Batch(images=images))
    assert torch.equal(adapter.logits(Batch(images=images, transform=plain)), usual)
    darker = adapter.logits(Batch(images=images, transform=lambda image: plain(image) - 1))
    assert not torch.allclose(darker, usual, atol=1e-2)


def test_features_of_the_batch_are_those_of_the_image_itself(small_clip, support, classifier, images):
    adapter = prepared(support, classifier, small_clip, selection=0.3)
    other = features_of(small_clip, images).flip(0)
    usual, swapped = (adapter.logits(Batch(images=images, features=f)) for f in (None, other))
    assert not torch.allclose(usual, swapped, atol=1e-2)


def test_the_seed_draws_the_views_and_the_start(small_clip, support, classifier, images):
    first, again, other = (
        prepared(support, classifier, small_clip, seed=s).logits(Batch(images=images)) for s in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-4)
    assert prepared(support, classifier, small_clip, ctx_init=None, n_ctx=3).ctx.shape == (3, 32)


def test_published_settings():
    adapter = build_adapter("tpt")
    assert (adapter.n_views, adapter.selection, adapter.steps, adapter.lr) == (64, 0.1, 1, 5e-3)
    assert (adapter.weight_decay, adapter.crop_scale, adapter.ctx_init) == (0.01, (0.08, 1.0), "a photo of a")


def test_it_starts_from_a_learned_context(small_clip, support, classifier, images):
    coop = build_adapter("coop", n_ctx=3, epochs=2, lr=0.05)
    coop.fit(support, classifier, backbone=small_clip)
    adapter = prepared(support, classifier, small_clip, resources={"ctx": coop.ctx}, lr=1e-9)
    batch = Batch(images=images, features=features_of(small_clip, images))
    assert torch.allclose(adapter.logits(batch), coop.logits(batch.features), atol=1e-3)  # a step too small to tell
    own = build_adapter("coop", n_ctx=3, epochs=1, csc=True)
    own.fit(support, classifier, backbone=small_clip)
    with pytest.raises(ConfigError, match=r"\(4, 3, 32\).*one context for all classes"):
        prepared(support, classifier, small_clip, resources={"ctx": own.ctx})


def test_no_labels_are_needed(small_clip, support, classifier, images):
    labelled = prepared(support, classifier, small_clip)
    nothing = FeatureSet(torch.zeros(0, 24), None, NAMES, backbone=small_clip.fingerprint)
    for unlabelled in (nothing, support.without_labels()):
        adapter = prepared(unlabelled, classifier, small_clip)
        assert torch.equal(adapter.logits(Batch(images=images)), labelled.logits(Batch(images=images)))
    assert adapter.report.history == [] and "nothing is learned" in adapter.report.notes[0]


def test_a_logit_bias_is_kept(small_clip, support, classifier, images):
    biased = TextClassifier(classifier.weights, class_names=NAMES, logit_scale=14.0, logit_bias=-10.0)
    plain = TextClassifier(classifier.weights, class_names=NAMES, logit_scale=14.0)
    with_bias, without = (
        prepared(support, words, small_clip).logits(Batch(images=images)) for words in (biased, plain)
    )
    assert torch.allclose(with_bias, without - 10, atol=1e-2)


def test_two_classes_and_many(small_clip, images):
    for count in (2, 1000):
        names = tuple(f"thing {i}" for i in range(count))
        words = TextClassifier(torch.randn(count, 24), class_names=names, logit_scale=430.0)
        adapter = prepared(FeatureSet(torch.zeros(0, 24), None, names), words, small_clip, checkpointing=count > 2)
        logits = adapter.logits(Batch(images=images[:2]))
        assert logits.shape == (2, count) and torch.isfinite(logits).all()


def test_other_classes_and_reading_back(small_clip, support, classifier, images, tmp_path):
    adapter, batch = prepared(support, classifier, small_clip, seed=3), Batch(images=images)
    reread = load_adapter(adapter.save(tmp_path / "a.safetensors"), small_clip)
    assert torch.equal(reread.logits(batch), adapter.logits(batch))
    with pytest.raises(CapabilityError, match="runs the backbone at prediction"):
        load_adapter(tmp_path / "a.safetensors").logits(batch)
    other = adapter.for_classes(small_clip, ("golden retriever", "sushi"))
    assert other.logits(batch).shape == (5, 2)
    assert torch.equal(other.for_classes(small_clip, NAMES).logits(batch), adapter.logits(batch))


def test_inside_inference_mode_it_tunes_all_the_same(small_clip, support, classifier, images):
    adapter = prepared(support, classifier, small_clip)
    batch = Batch(images=images, features=features_of(small_clip, images))
    want = adapter.logits(batch)
    with torch.inference_mode():
        assert torch.equal(adapter.logits(Batch(images=images, features=batch.features * 1)), want)
    assert not want.requires_grad


def test_what_cannot_be_is_said(small_clip, support, several_labels, classifier, images):
    bad = [{"n_views": 1}, {"selection": 0.0}, {"steps": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"images_at_once": 0}]
    for given in [*bad, {"crop_scale": (0.5, 0.2)}, {"crop_scale": (0.5,)}, {"amp": "fp16"}, {"class_chunk": 0}]:
        with pytest.raises(ConfigError, match=next(iter(given))):
            build_adapter("tpt", **given)
    with pytest.raises(CapabilityError, match="'tpt' takes one label per image"):
        prepared(several_labels, classifier, small_clip)
    with pytest.raises(CapabilityError, match="text tower"):
        build_adapter("tpt").fit(support.without_labels(), classifier)
    with pytest.raises(CapabilityError, match="24 wide, text features 8"):
        prepared(support.without_labels(), TextClassifier(torch.randn(4, 8), class_names=NAMES), small_clip)
    with pytest.raises(ConfigError, match="tpt writes prompts around class names"):
        prepared(FeatureSet(support.features), TextClassifier(classifier.weights), small_clip)
    with pytest.raises(CapabilityError, match=r"Batch\(images"):
        prepared(support, classifier, small_clip).logits(support)
    with pytest.raises(CapabilityError, match="5 images for 20 rows"):
        prepared(support, classifier, small_clip).logits(Batch(images=images, features=support.features))


def test_a_trainable_tower_gets_no_gradient(small_clip_spec, support, classifier, images):
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(small_clip_spec, device="cpu")
    backbone.model.requires_grad_(True)
    prepared(support, classifier, backbone).logits(Batch(images=images[:1]))
    assert all(p.grad is None for p in backbone.model.parameters())


def test_tunes_through_the_embedded_towers(embedded_task, images):
    backbone, support, classifier = embedded_task
    adapter = prepared(support, classifier, backbone, n_views=4)
    batch = Batch(images=images[:2], features=features_of(backbone, images[:2]))
    logits = adapter.logits(batch)
    assert logits.shape == (2, 3) and torch.isfinite(logits).all()
    assert not torch.allclose(logits, classifier.logits(batch.unit), atol=1e-2)
