"""Perceptual hashes: copies are a few bits apart, other images are not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vladapt.core.data import bits_apart
from vladapt.core.data.thumbnails import perceptual_hashes


@pytest.fixture(scope="module")
def grey():
    random = np.random.default_rng(0)
    smooth = np.stack([gaussian_filter(random.normal(size=(32, 32)), 2) for _ in range(40)])
    low, high = smooth.min(axis=(1, 2), keepdims=True), smooth.max(axis=(1, 2), keepdims=True)
    return (30 + 200 * (smooth - low) / (high - low)).astype(np.uint8)


def test_brightness_contrast_and_noise_change_a_few_bits_and_another_image_half(grey):
    hashes = perceptual_hashes(grey)
    assert hashes.dtype == np.uint64 and len(set(hashes.tolist())) == 40 and (hashes != 0).all()
    darker = (grey.astype(float) * 0.6 + 10).astype(np.uint8)
    assert bits_apart(hashes, perceptual_hashes(darker)).max() <= 4
    noise = np.random.default_rng(1).integers(-4, 5, grey.shape)
    assert np.median(bits_apart(hashes, perceptual_hashes((grey + noise).astype(np.uint8)))) <= 4
    others = bits_apart(hashes, np.roll(hashes, 1))
    assert 20 < others.mean() < 40 and others.min() > 10


def test_a_flat_image_has_no_hash(grey):
    flat = np.full((2, 32, 32), 200, np.uint8)
    assert perceptual_hashes(flat).tolist() == [0, 0]
    assert perceptual_hashes(np.concatenate([flat, grey[:1]]))[2] == perceptual_hashes(grey[:1])[0]
    assert len(perceptual_hashes(grey[:0])) == 0
