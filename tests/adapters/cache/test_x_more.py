"""X-MoRe: its weights and mixture, retrieval of both kinds, and the outputs of the public code."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks.cache import released_weights
from parity_checks.cache import x_more as x_more_parity

from vladapt.adapters.cache import x_more
from vladapt.adapters.cache.x_more import NearestTexts, confidence, mixture
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.contracts.resources import TextPool
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import adapter_class, build_adapter


def pool_of(features) -> TextPool:
    return TextPool(tuple(f"caption {i}" for i in range(len(features))), features)


@pytest.fixture(scope="module")
def described(make_task):
    """A task whose text classifier is poor, and 200 captions near what its images show."""
    task = make_task(classes=6, shots=4, dim=24, noise=1.0, text_noise=2.0)
    generator = torch.Generator().manual_seed(5)
    near = torch.cat([task.val.unit, task.test.unit])
    rows = torch.randint(len(near), (200,), generator=generator)
    return task, pool_of(3 * F.normalize(near[rows] + 0.1 * torch.randn(200, 24, generator=generator), dim=-1))


def fitted(task, pool, val=None, unlabeled=None, support=None, text=None, **options):
    adapter = build_adapter("x-more", **options)
    adapter.report = adapter.fit(
        task.support if support is None else support,
        text or task.text,
        val=val,
        unlabeled=unlabeled,
        resources={"captions": pool},
    )
    return adapter


# the formula --------------------------------------------------------------------------------------------------------


def plain_scores(adapter, unit, captions, text, scale, top):
    """(B, C), image by image."""
    share = lambda logits: 1 + (logits.softmax(-1) * logits.log_softmax(-1)).sum() / np.log(len(text))  # noqa: E731
    scores = []
    for image in unit:
        own = scale * image @ text.T
        found = captions[(captions @ image).argsort(descending=True)[:top]]
        said = (scale * found @ text.T).softmax(dim=-1).mean(dim=0)
        w_image = share(own) / adapter.image_confidence
        w_caption = share(said.log()) / adapter.caption_confidence
        scores.append((w_image * own.softmax(dim=-1) + w_caption * said) / (w_image + w_caption))
    return torch.stack(scores)


@pytest.mark.parametrize("top", [1, 16, 500])
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_the_softmax_of_the_logits_is_the_weighted_mean(described, top, scale):
    task, pool = described
    text = replace(task.text, logit_scale=scale)
    adapter = fitted(task, pool, text=text, top_k=top)
    wanted = plain_scores(adapter, task.test.unit, F.normalize(pool.features, dim=-1), text.weights, scale, top)
    torch.testing.assert_close(adapter.logits(task.test).softmax(dim=-1), wanted, atol=1e-5, rtol=1e-4)


def test_means_over_support_and_val_or_unlabelled_images(described):
    task, pool = described

    def means(images):
        image, caption = adapter._log_probabilities(images)
        return [float(confidence(image).mean()), float(confidence(caption).mean())]

    for given, images in (
        ({}, task.support.unit),
        ({"val": task.val}, torch.cat([task.support.unit, task.val.unit])),
        ({"val": task.val, "unlabeled": task.test.without_labels()}, task.test.unit),
    ):
        adapter = fitted(task, pool, **given)
        assert [adapter.image_confidence, adapter.caption_confidence] == pytest.approx(means(images), abs=1e-6)
    assert "48 unlabelled images" in adapter.report.notes[1]


def test_confidence_of_certain_and_even_predictions():
    rows = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -99.0, -99.0]])
    found = confidence(rows.nan_to_num(neginf=-1e4).log_softmax(dim=-1))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.5]), atol=1e-6, rtol=0)


def test_a_modality_without_weight_says_nothing():
    image, caption = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    one, none = torch.ones(3), torch.zeros(3)
    torch.testing.assert_close(mixture(image, caption, one, none), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixture(image, caption, none, one), caption, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mixture(image, caption, none, none).exp(), (image.exp() + caption.exp()) / 2, atol=1e-6, rtol=0
    )


def test_captions_that_are_the_image_give_zero_shot(described):
    """The limit: where the one caption retrieved says what the image says, any weights leave the image's own answer."""
    task, _ = described
    adapter = fitted(task, pool_of(task.test.features), top_k=1)
    wanted = task.text.logits(task.test.unit).log_softmax(dim=-1)
    likely = wanted > -80  # less than that is counted as that
    torch.testing.assert_close(adapter.logits(task.test)[likely], wanted[likely], atol=1e-3, rtol=1e-4)


def test_captions_help_where_they_say_more_than_the_image(make_task):
    """Captions at the class centres of noisy images: the nearest of them agree, and their mean is cleaner."""
    task = make_task(classes=6, shots=4, dim=24, noise=2.0, text_noise=0.7)
    centres = torch.stack([task.support.unit[task.support.labels == c].mean(dim=0) for c in range(6)])
    generator = torch.Generator().manual_seed(0)
    captions = centres.repeat(30, 1) + 0.02 * torch.randn(180, 24, generator=generator)
    zero_shot = build_adapter("zero-shot")
    zero_shot.fit(task.support, task.text)
    assert task.accuracy(fitted(task, pool_of(captions))) > task.accuracy(zero_shot) + 0.02


def test_images_do_not_depend_on_each_other_or_on_order(described):
    task, pool = described
    logits = fitted(task, pool).logits(task.test)
    shuffled = pool_of(pool.features[torch.arange(200).flip(0)])
    other = fitted(task, shuffled, support=task.support.select(torch.arange(24).flip(0)))
    one_by_one = torch.cat([other.logits(row[None]) for row in task.test.features])
    torch.testing.assert_close(one_by_one, logits, atol=1e-3, rtol=1e-4)
    order = torch.tensor([3, 1, 4, 0, 2, 5])
    turned = replace(task.support, labels=order.argsort()[task.support.labels], class_names=())
    turned = fitted(task, pool, support=turned, text=task.text.select(order))
    torch.testing.assert_close(turned.logits(task.test), logits[:, order], atol=1e-3, rtol=1e-4)


def test_labels_are_not_needed(described):
    task, pool = described
    bare = fitted(task, pool, support=task.support.without_labels())
    torch.testing.assert_close(bare.logits(task.test), fitted(task, pool).logits(task.test))


@pytest.mark.parametrize(
    "case", [{"classes": 2}, {"classes": 1000, "shots": 1}, {"dim": 3}, {"shots": [4, 0, 1, 4, 2]}]
)
def test_hard_shapes(make_task, case):
    task = make_task(**case)
    adapter = fitted(
        task, pool_of(task.val.features[:50]), text=replace(task.text, logit_scale=430.0, logit_bias=-12.0)
    )
    logits = adapter.logits(task.test)
    assert torch.isfinite(logits).all() and logits.shape == (len(task.test), len(task.text))
    assert adapter.logits(task.test.features[:0]).shape == (0, len(task.text))


# retrieval ----------------------------------------------------------------------------------------------------------


def test_both_searches_find_the_same(described):
    task, pool = described
    pytest.importorskip("faiss")
    unit = F.normalize(pool.features, dim=-1)
    by_torch, by_faiss = (NearestTexts(unit, search)(task.test.unit, 7) for search in ("torch", "faiss"))
    assert torch.equal(by_torch, by_faiss) and by_torch.shape == (48, 7)
    cosines = task.test.unit @ unit.T
    assert torch.equal(cosines.gather(1, by_torch), cosines.sort(dim=-1, descending=True).values[:, :7])
    assert NearestTexts(unit, "torch")(task.test.unit, 999).shape == (48, 200)
    torch.testing.assert_close(*(fitted(task, pool, search=s).logits(task.test) for s in ("torch", "faiss")))


def test_large_pools_are_searched_by_faiss_where_it_is(described, monkeypatch):
    pytest.importorskip("faiss")
    unit = F.normalize(described[1].features, dim=-1)
    assert NearestTexts(unit)._index is None
    monkeypatch.setattr(x_more, "LARGE", 200)
    assert NearestTexts(unit)._index is not None and NearestTexts(unit, "torch")._index is None
    monkeypatch.setattr(x_more, "find_spec", lambda name: None)
    assert NearestTexts(unit)._index is None


def test_a_new_pool_is_searched_after_a_second_fit(described):
    task, pool = described
    adapter = fitted(task, pool, top_k=3)
    adapter.fit(task.support, task.text, resources={"captions": pool_of(pool.features.flip(0)[:50])})
    fresh = fitted(task, pool_of(pool.features.flip(0)[:50]), top_k=3)
    torch.testing.assert_close(adapter.logits(task.test), fresh.logits(task.test))


def test_blocks_change_nothing(described, monkeypatch):
    task, pool = described
    wanted = fitted(task, pool).logits(task.test)
    monkeypatch.setattr(x_more, "CHUNK_ELEMENTS", 1000)
    monkeypatch.setattr(x_more, "CHUNK_ELEMENTS", 1000)
    torch.testing.assert_close(fitted(task, pool).logits(task.test), wanted, atol=1e-4, rtol=1e-5)


# options, errors, saving --------------------------------------------------------------------------------------------


def test_options(described):
    task, pool = described
    assert not torch.allclose(*(fitted(task, pool, top_k=k).logits(task.test) for k in (1, 16)), atol=1e-3)
    assert [fitted(task, pool, top_k=k).report.chosen_on for k in (1, 16)] == ["given as options", "published settings"]
    cls = adapter_class("x-more")
    assert {f.name for f in fields(cls)} == {"top_k", "search"} and cls.cost_options == {"search"}
    with pytest.raises(ConfigError, match="top_k"):
        build_adapter("x-more", top_k=0)
    with pytest.raises(ConfigError, match=r"search.*auto, faiss, torch"):
        build_adapter("x-more", search="hnsw")


def test_errors(described):
    task, pool = described
    with pytest.raises(CapabilityError, match="needs a pool of captions"):
        build_adapter("x-more").fit(task.support, task.text)
    with pytest.raises(DataError, match="captions: features are 5 wide, those of the images 24"):
        fitted(task, pool_of(torch.ones(4, 5)))
    with pytest.raises(DataError, match="the pool is empty"):
        fitted(task, pool_of(torch.ones(0, 24)))
    with pytest.raises(CapabilityError, match="there are none; pass a support"):
        fitted(task, pool, support=task.support.select([]))
    narrow = replace(task.support, features=task.support.features[:, :3], labels=None)
    with pytest.raises(CapabilityError, match="must come from one backbone"):
        fitted(task, pool, support=narrow)


# outputs of the public code, real features --------------------------------------------------------------------------


def test_confidences_and_scores_of_the_public_code(agrees):
    """Its weights, in its order, through our mixture; ours take the means of the fit in their place."""
    agrees(x_more_parity)


def test_the_running_weights_tend_to_ours():
    """After many images the ratio of the released code's two weights is that of confidences over their means."""
    generator = torch.Generator().manual_seed(0)
    image, caption = 0.2 + 0.8 * torch.rand(2, 4000, generator=generator)
    theirs = released_weights(image)[-500:] / released_weights(caption)[-500:]
    ours = (image / image.mean() / (caption / caption.mean()))[-500:]
    torch.testing.assert_close(theirs, ours, atol=0, rtol=0.03)
    assert (released_weights(image)[:5] / released_weights(caption)[:5] / (image / caption)[:5]).std() > 0.1


def test_real_features(data_dir):
    """ViT-B/32, 106 prompts a class as the pool: captions made of the class names say nothing new, and cost little."""
    path = data_dir / "features" / "whurs19_clip" / "whurs19_CLIP_ViTB32.npz"
    if not path.is_file():
        pytest.skip("the whurs19 features are not there")
    with np.load(path) as stored:
        get = lambda name: torch.from_numpy(stored[name].astype(np.float32))  # noqa: E731
        data = FeatureSet(get("image_features"), torch.from_numpy(stored["labels"]), raw_norms=False)
        text, captions = TextClassifier(get("text_average")), get("text_prompts").flatten(0, 1)
    adapter = build_adapter("x-more")
    adapter.fit(data, text, resources={"captions": pool_of(captions)})
    right = [
        float((scores.argmax(dim=-1) == data.labels).double().mean())
        for scores in (adapter.logits(data), text.logits(data.unit))
    ]
    assert right[0] > right[1] - 0.04 and right[0] > 0.75
