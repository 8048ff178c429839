"""DMN and TDA at several views of each image: in the fit, of other images, in a stream, and as published."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt.adapters.testtime._bags import RandomViews
from vladapt.adapters.testtime._views import random_views
from vladapt.core.contracts import Batch, FeatureSet, Item, TrainingImages
from vladapt.core.errors import CapabilityError
from vladapt.core.recipes.asked_for import with_published, with_published_views
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import build_adapter, load_adapter

IN_VIEWS = ("dmn", "tda")
VIEWS, SEED = 6, 3
HOW = {"n_views": VIEWS, "selection": 0.5, "shuffle": False, "crop_scale": (0.2, 0.6), "augmix": False}


def pictures(first: int, count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (30, 24, 3), dtype=np.uint8) for i in range(first, first + count)]


@pytest.fixture(scope="module")
def looked_at(small_clip):
    """Images -> their features (N, D), and bags (N, V, D) of unit features, the image itself first."""

    def look(images, views=VIEWS, scale=HOW["crop_scale"]):
        transform = small_clip.preprocess()
        with torch.no_grad():
            features = small_clip.encode_image(torch.stack([transform(image) for image in images]), normalize=False)
            how = {"scale": scale, "augmix": False, "seed": SEED}
            pixels = [random_views(image, views - 1, small_clip.image_size, transform, **how) for image in images]
            crops = torch.stack([small_clip.encode_image(each) for each in pixels])
        return features, torch.cat([F.normalize(features, dim=1)[:, None], crops], dim=1)

    return look


@pytest.fixture(scope="module")
def unlabelled(small_clip, looked_at):
    """Images: their features, their bags, and the resource of a fit."""
    images = pictures(0, 24)
    features, bags = looked_at(images)
    by_id = {f"image {number}": image for number, image in enumerate(images)}
    items = [Item(name, source=None, target=None) for name in by_id]
    transform = small_clip.preprocess()
    resource = TrainingImages(items, lambda item: by_id[item.id], transform, transform, [])
    return FeatureSet(features, ids=tuple(by_id)), bags, {"unlabeled_images": resource}


def fitted(name, rows, text, backbone, resources, **options):
    adapter = build_adapter(name, **{**HOW, **options})
    adapter.fit(None, text, unlabeled=rows, backbone=backbone, resources=resources, seed=SEED)
    return adapter


@pytest.mark.parametrize("name", IN_VIEWS)
def test_a_fit_makes_the_views_that_it_is_asked_for(name, unlabelled, classifier, small_clip):
    rows, bags, resources = unlabelled
    adapter = fitted(name, rows, classifier, small_clip, resources)
    given = fitted(name, FeatureSet(rows.features, views=bags), classifier, None, {}, n_views=1)
    alone = fitted(name, rows, classifier, None, {}, n_views=1)
    torch.testing.assert_close(adapter.log_assignments, given.log_assignments, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(adapter.log_assignments, alone.log_assignments, atol=1e-3)


@pytest.mark.parametrize("name", IN_VIEWS)
def test_other_images_are_seen_in_views_too_and_so_are_those_of_a_stream(
    name, unlabelled, classifier, small_clip, looked_at, tmp_path
):
    rows, _, resources = unlabelled
    adapter, others = fitted(name, rows, classifier, small_clip, resources), pictures(50, 4)
    adapter = load_adapter(adapter.save(tmp_path / "adapter.safetensors"), small_clip)
    features, bags = looked_at(others)
    batch = Batch(features=features, images=others)
    expected = torch.stack([adapter._as_if_next(bag) for bag in bags])
    torch.testing.assert_close(adapter.logits(batch), expected, atol=1e-4, rtol=1e-4)
    in_turn = torch.stack([adapter._next(bag) for bag in bags])
    again = load_adapter(tmp_path / "adapter.safetensors", small_clip)
    torch.testing.assert_close(again.stream(batch), in_turn, atol=1e-4, rtol=1e-4)
    with pytest.raises(CapabilityError, match="looks at views of each test image"):
        again.logits(features)


@pytest.mark.parametrize("name", IN_VIEWS)
def test_several_views_without_the_images_are_one_line(name, unlabelled, classifier, small_clip):
    with pytest.raises(CapabilityError, match=f"'{name}' looks at {VIEWS} views of each image; pass resources"):
        fitted(name, unlabelled[0], classifier, small_clip, {})


def test_dmn_weighs_its_memories_on_views_of_val_images(unlabelled, classifier, small_clip, looked_at, monkeypatch):
    """Its labelled images that are held out are seen in views as the others are."""
    rows, _, resources = unlabelled
    images = pictures(80, 12)
    features, bags = looked_at(images)
    by_id = {f"labelled {number}": image for number, image in enumerate(images)}
    taught = FeatureSet(features, torch.arange(12) % len(classifier), classifier.class_names, ids=tuple(by_id))
    transform = small_clip.preprocess()
    items = [Item(name, source=None, target=None) for name in by_id]
    own = TrainingImages(items, lambda item: by_id[item.id], transform, transform, [])
    adapter = build_adapter("dmn", **HOW, train=False, views=0)
    adapter.attach(small_clip)
    adapter._begin(classifier, SEED)
    bag_of = adapter._bags_of(taught, {"images": own}, "images")
    torch.testing.assert_close(torch.stack([bag_of(row) for row in range(12)]), bags, atol=1e-4, rtol=1e-4)
    asked = []

    def watched(views, method, image, transform, first):
        asked.append(image)
        return first[None]

    monkeypatch.setattr(RandomViews, "bag", watched)
    how = {"unlabeled": rows, "backbone": small_clip, "resources": {**resources, "images": own}, "seed": SEED}
    adapter.fit(taught, classifier, val=taught, **how)
    assert len(asked) == len(rows) + len(taught)


@pytest.mark.parametrize(
    ("name", "options", "views"),
    [
        ("dmn", {}, 1),
        ("dmn", {"preset": "dtd"}, 32),
        ("dmn", {"preset": "imagenet-a"}, 32),
        ("dmn", {"preset": "dtd", "n_views": 5}, 5),
        ("tda", {}, 1),
        ("tda", {"preset": "dtd"}, 1),
        ("tda", {"preset": "imagenet"}, 1),
        ("tda", {"preset": "ImageNetV2"}, 64),
        ("tda", {"preset": "imagenet_sketch"}, 64),
        ("tda", {"preset": "imagenet-r", "n_views": 1}, 1),
    ],
)
def test_a_preset_takes_the_published_views(name, options, views):
    adapter = build_adapter(name, **options)
    assert adapter.n_views == views
    assert ("images" in adapter.needs) == ("images" in adapter.at_predict) == (views > 1)


@pytest.mark.parametrize(
    ("given", "known", "dmn", "tda"),
    [
        ({}, None, 1, 1),
        ({}, "imagenet_a", 1, 1),  # merely recognised: 64 times the cost
        ({"preset": "imagenet-a"}, "imagenet_a", 32, 64),
        ({"protocol": "transductive"}, None, 32, 1),
        ({"protocol": "transductive"}, "dtd", 32, 1),
        ({"protocol": "transductive"}, "imagenet_r", 32, 64),
        ({"protocol": "transductive", "features": "rows.npz"}, None, 1, 1),
        ({"preset": "imagenet-r", "features": "rows.npz"}, "imagenet_r", 1, 1),
    ],
)
def test_a_protocol_and_a_preset_that_is_asked_for_take_the_published_views(given, known, dmn, tda):
    recipe = with_published_views(resolve(flags={"adapter": "tda", **given}), IN_VIEWS)
    recipe, _ = with_published(recipe, known, IN_VIEWS)
    built = [build_adapter(name, **recipe.with_adapter(name).adapter_options) for name in IN_VIEWS]
    assert [each.n_views for each in built] == [dmn, tda]


@pytest.mark.thorough(but=("None-4", "eurosat"))
@pytest.mark.parametrize(
    ("preset", "shots", "rate", "epochs"),
    [
        (None, 4, 1e-4, 20),
        ("imagenet", 4, 1e-5, 100),
        ("oxford_flowers", 1, 1e-3, 100),
        ("eurosat", 4, 1e-4, 100),
        ("eurosat", 8, 1e-3, 100),
        ("food101", 4, 1e-4, 20),
        ("food101", 16, 1e-4, 100),
        ("sun397", 16, 1e-4, 20),
    ],
)
def test_dmn_learns_at_the_published_rate_and_for_the_published_epochs(make_task, preset, shots, rate, epochs):
    task = make_task(classes=3, shots=shots)
    adapter = build_adapter("dmn", preset=preset, n_views=1, views=0, dynamic_weight=1.0, static_weight=1.0)
    report = adapter.fit(task.support, task.text, unlabeled=task.test.without_labels())
    assert len(report.history) == epochs and adapter._published(shots) == (rate, epochs)
    given = build_adapter("dmn", preset=preset, lr=rate, epochs=epochs, n_views=1, views=0,
                          dynamic_weight=1.0, static_weight=1.0)  # fmt: skip
    given.fit(task.support, task.text, unlabeled=task.test.without_labels())
    torch.testing.assert_close(given.query_residual, adapter.query_residual, rtol=0, atol=0)
