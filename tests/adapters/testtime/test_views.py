from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vladapt.adapters.testtime._views import OPERATIONS, random_boxes, random_views
from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.errors import CapabilityError

PLAIN = Preprocess(16, (0.0,) * 3, (1.0,) * 3)
GIVEN = {"scale": (0.08, 1.0), "augmix": False, "seed": 0}


def picture(seed=0, height=30, width=40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.02, 1.0), st.integers(0, 99))
def test_boxes_lie_inside_the_image_and_keep_the_share_they_should(height, width, low, seed):
    boxes = random_boxes(height, width, 20, (low, 1.0), np.random.default_rng(seed))
    for top, left, rows, columns in boxes:
        assert 0 <= top <= height - rows and 0 <= left <= width - columns
        assert rows >= 1 and columns >= 1
        if min(height, width) > 100 and max(height, width) < 1.3 * min(height, width):
            assert rows * columns >= 0.9 * low * height * width
            assert 0.7 < columns / rows < 1.4


def test_a_strip_gives_its_middle_within_the_ratios():
    assert random_boxes(10, 1000, 2, (1.0, 1.0), np.random.default_rng(0)) == [[0, 494, 10, 13]] * 2
    assert random_boxes(1000, 10, 1, (1.0, 1.0), np.random.default_rng(0)) == [[494, 0, 13, 10]]


def test_small_and_large_crops_both_occur_everywhere():
    boxes = np.array(random_boxes(200, 200, 2000, (0.08, 1.0), np.random.default_rng(0)))
    share = boxes[:, 2] * boxes[:, 3] / 200**2
    assert share.min() < 0.1 and share.max() > 0.9 and share.mean() == pytest.approx(0.5, abs=0.05)
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert (boxes[:, 0] + boxes[:, 2]).max() == (boxes[:, 1] + boxes[:, 3]).max() == 200


def test_views_are_resized_crops_some_of_them_flipped():
    """The whole of a square image: only the flip is left to chance."""
    image = picture(height=16, width=16)
    views = random_views(image, 40, 16, PLAIN, **{**GIVEN, "scale": (1.0, 1.0)})
    assert views.shape == (40, 3, 16, 16)
    whole = PLAIN(image)
    as_it_is, flipped = (sum(torch.equal(view, one) for view in views) for one in (whole, whole.flip(-1)))
    assert as_it_is > 2 and flipped > 2


def test_views_depend_on_the_image_and_the_seed_alone():
    first, again = (random_views(picture(), 5, 16, PLAIN, **GIVEN) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, random_views(picture(), 5, 16, PLAIN, **{**GIVEN, "seed": 1}))
    longer = random_views(picture(), 9, 16, PLAIN, **{**GIVEN, "scale": (1.0, 1.0)})
    assert longer.shape[0] == 9
    state = torch.get_rng_state()
    np.random.seed(3)
    want = np.random.random()
    np.random.seed(3)
    random_views(picture(), 2, 16, PLAIN, **GIVEN)
    assert np.random.random() == want and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("augmix", [False, True])
def test_deep_images_look_like_those_of_8_bits(augmix):
    image = picture()
    shallow = random_views(image, 4, 16, PLAIN, **{**GIVEN, "augmix": augmix})
    boxes = []
    deep = image.astype(np.float32) / 255

    def transform(part):
        boxes.append(part.dtype)
        return PLAIN(part)

    views = random_views(deep, 4, 16, transform, **{**GIVEN, "augmix": augmix})
    assert views.shape == shallow.shape and views.min() >= 0 and views.max() <= 1
    assert np.dtype(np.float32) in boxes  # its depth is kept where no 8-bit operation is run


def test_augmix_stays_near_the_crop_but_changes_it():
    image = np.asarray(Image.fromarray(picture()).resize((64, 48), Image.Resampling.BICUBIC))
    mixed = random_views(image, 30, 32, Preprocess(32, (0.0,) * 3, (1.0,) * 3), **{**GIVEN, "augmix": True})
    assert mixed.min() >= 0 and mixed.max() <= 1  # the weights of the mixture sum to 1
    plain = random_views(image, 30, 32, Preprocess(32, (0.0,) * 3, (1.0,) * 3), **GIVEN)
    gaps = (mixed - plain).abs().mean(dim=(1, 2, 3))  # the same crops and flips
    assert (gaps > 1e-4).all() and gaps.mean() < 0.15


def test_every_operation_changes_an_image_at_some_level():
    large = np.asarray(Image.fromarray(picture()).resize((200, 200), Image.Resampling.BICUBIC))
    image = Image.fromarray((0.8 * large + 50).astype(np.uint8))
    for operation in OPERATIONS:
        rng = np.random.default_rng(0)
        made = [np.asarray(operation(image, rng)) for _ in range(30)]
        assert all(one.shape == (200, 200, 3) for one in made)
        assert any((one != np.asarray(image)).any() for one in made)


def test_clips_are_refused():
    with pytest.raises(CapabilityError, match=r"clip .* of shape \(2, 4, 4, 3\)"):
        random_views(np.zeros((2, 4, 4, 3), np.uint8), 2, 16, PLAIN, **GIVEN)
