"""Views that are encoded when an epoch begins."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from vladapt.core.contracts import FeatureSet
from vladapt.core.contracts.images import TrainingImages
from vladapt.core.errors import DataError
from vladapt.core.testing.drawn_samples import draw_square, drawn_item
from vladapt.core.testing.towers import plain_towers
from vladapt.core.training.epoch_views import ON_CPU, EpochViews
from vladapt.core.training.small_heads import training_features

COUNT = 2 * ON_CPU + 3


def noisy(image, seed):
    """What is asked of an image, and of which seed."""
    pixels = plain_towers(24).preprocess(False)(image)
    return pixels + torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images() -> TrainingImages:
    items = [drawn_item("support", i, i % 3, 3, False) for i in range(COUNT)]
    return TrainingImages(items, draw_square, noisy, plain_towers(24).preprocess(False), prompts=[["a"], ["b"], ["c"]])


@pytest.fixture
def support(images) -> FeatureSet:
    labels = torch.tensor([item.class_label() for item in images.items])
    return FeatureSet(torch.zeros(COUNT, 24), labels, ids=tuple(item.id for item in images.items))


def test_views_are_of_the_seed_the_image_and_the_epoch(images, support):
    views = EpochViews(images, plain_towers(24), seed=1)
    first, second = views.of(support, 0), views.of(support, 1)
    assert first.shape == (COUNT, 1, 24) and first.dtype == torch.float32
    assert not torch.isclose(first, second).all(dim=2).any() and len(first.unique(dim=0)) == COUNT
    assert torch.equal(EpochViews(images, plain_towers(24), seed=1).of(support, 1), second)
    assert not torch.isclose(EpochViews(images, plain_towers(24), seed=2).of(support, 1), second).all(dim=2).any()


def test_they_are_what_the_tower_says_of_each_view(images, support):
    seeds = []
    watched = replace(images, train_transform=lambda image, seed: seeds.append(seed) or noisy(image, seed))
    rows = EpochViews(replace(watched, workers=1), plain_towers(24), seed=0, count=2).of(support, 0)
    assert rows.shape == (COUNT, 2, 24) and len(set(seeds)) == 2 * COUNT
    for i in (0, COUNT - 1):
        pixels = torch.stack([noisy(draw_square(images.items[i]), seeds[2 * i + number]) for number in range(2)])
        assert torch.allclose(rows[i], plain_towers(24).encode_image(pixels, False), atol=1e-4)


def test_a_part_of_the_support_has_the_views_of_its_own_images(images, support):
    views, part = EpochViews(images, plain_towers(24), seed=1), torch.tensor([7, 3, COUNT - 1])
    whole = views.of(support, 2)[part]
    assert torch.allclose(views.of(support.select(part), 2), whole, atol=1e-5)


def test_an_epoch_is_encoded_once_and_dropped_with_the_next(images, support):
    calls = []
    counted = replace(images, train_transform=lambda image, seed: calls.append(seed) or noisy(image, seed))
    views = EpochViews(counted, plain_towers(24), seed=1)
    held = weakref.ref(views.of(support, 0))
    assert all(views.of(support, 0) is held() for _ in range(3)) and len(calls) == COUNT
    unit = training_features(support, torch.tensor([4, 2]), views, 0)
    assert torch.allclose(unit.norm(dim=1), torch.ones(2)) and len(calls) == COUNT
    assert torch.allclose(unit[0], torch.nn.functional.normalize(held()[4, 0], dim=0))
    views.of(support, 1)
    assert len(calls) == 2 * COUNT and held() is None


def test_no_more_than_a_batch_passes_the_tower_at_once(images, support, monkeypatch):
    backbone, sizes = plain_towers(24), []
    encode = type(backbone).encode_image
    monkeypatch.setattr(type(backbone), "encode_image", lambda *given: sizes.append(len(given[1])) or encode(*given))
    rows = EpochViews(images, backbone, seed=1).of(support, 0)
    assert sizes == [ON_CPU, ON_CPU, 3]
    assert not rows.requires_grad and not rows.is_inference()


def test_the_towers_are_in_eval_mode_for_the_views_alone(images, support, monkeypatch):
    backbone, modes = plain_towers(24), []
    encode = type(backbone).encode_image
    watched = lambda *given: modes.append(backbone.model.training) or encode(*given)  # noqa: E731
    monkeypatch.setattr(type(backbone), "encode_image", watched)
    backbone.model.train()
    try:
        EpochViews(images, backbone, seed=1).of(support, 0)
        assert not any(modes) and backbone.model.training
    finally:
        backbone.model.eval()


def test_an_image_that_can_no_longer_be_read_is_named(images, support):
    def broken(item):
        if item.id == images.items[5].id:
            raise DataError("the file has gone")
        return draw_square(item)

    with pytest.raises(DataError, match=f"^{images.items[5].id}: the file has gone$"):
        EpochViews(replace(images, load=broken), plain_towers(24), seed=1).of(support, 0)
