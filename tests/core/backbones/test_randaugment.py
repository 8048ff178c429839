"""RandAugment after the random crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt.core.backbones.preprocessing import OPERATIONS, Preprocess, randaugment

PLAIN = Preprocess(16, (0.0,) * 3, (1.0,) * 3, train=True)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 200, (24, 32, 3), dtype=np.uint8))


def made(image, seed):
    return np.asarray(randaugment(image, torch.Generator().manual_seed(seed)))


def test_it_is_a_function_of_the_image_and_the_seed(image):
    state = torch.get_rng_state()
    assert np.array_equal(made(image, 3), made(image, 3))
    assert len({made(image, seed).tobytes() for seed in range(40)}) > 20
    assert torch.equal(state, torch.get_rng_state())


def test_each_operation_but_one_changes_an_image_and_none_its_size(image):
    before = np.asarray(image)
    changed = 0
    for operation, low, high in OPERATIONS:
        after = np.asarray(operation(image, low + 0.2 * (high - low)))
        assert after.shape == before.shape and after.dtype == np.uint8
        changed += not np.array_equal(after, before)
    assert (len(OPERATIONS), changed) == (15, 14)


def test_each_of_two_drawn_operations_is_left_out_two_times_in_five(image):
    """0.16 of images keep both out; identities, and operations that meet nothing to change, come on top."""
    untouched = np.mean([np.array_equal(made(image, seed), np.asarray(image)) for seed in range(600)])
    assert 0.16 < untouched < 0.32


def test_a_transform_has_it_after_its_crop_and_says_so(image):
    usual, more = PLAIN.with_crop((1.0, 1.0)), PLAIN.with_crop((1.0, 1.0)).with_randaugment()
    assert "randaugment" not in usual.spec and more.spec == {**usual.spec, "randaugment": True}
    views = [(usual(image, seed=seed), more(image, seed=seed)) for seed in range(40)]
    assert any(torch.equal(one, other) for one, other in views)  # both operations left out: the same crop and flip
    assert sum(not torch.equal(one, other) for one, other in views) > 20
    assert torch.equal(more(image, seed=1), more(image, seed=1))


def test_deep_images_are_brought_to_8_bits(image):
    deep = np.asarray(image).astype(np.float32) / 255
    pixels = PLAIN.with_randaugment()(deep, seed=5)
    assert pixels.shape == (3, 16, 16) and pixels.min() >= 0 and pixels.max() <= 1
    assert torch.allclose(pixels * 255, (pixels * 255).round(), atol=1e-3)
