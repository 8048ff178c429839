"""Changes of light for any number of bands and any depth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmcv", reason="extra open-vocab is not installed")

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.transforms.bands import BandDistortion

STILL = {"brightness_delta": 0.0, "contrast_range": (1.0, 1.0), "gain_range": (1.0, 1.0)}


def distorted(pixels, seed=0, **options):
    np.random.seed(seed)
    return BandDistortion(**{**STILL, **options}).transform({"img": pixels.copy()})["img"]


def picture(channels, kind=np.float32):
    return np.random.default_rng(0).uniform(60, 190, (6, 5, channels)).astype(kind)


@settings(max_examples=20, deadline=None)
@given(channels=st.integers(1, 13), seed=st.integers(0, 2**31 - 1), deep=st.booleans())
def test_shape_type_and_range_stay(channels, seed, deep):
    pixels = picture(channels, np.float32 if deep else np.uint8)
    made = distorted(pixels, seed, brightness_delta=300.0, contrast_range=(0.1, 3.0), gain_range=(0.1, 3.0))
    assert made.shape == pixels.shape and made.dtype == pixels.dtype and made.min() >= 0 and made.max() <= 255


def test_what_is_finer_than_8_bits_is_kept():
    pixels = picture(4)
    made = next(m for m in (distorted(pixels, seed, brightness_delta=20.0) for seed in range(9)) if (m != pixels).any())
    assert np.ptp(made - pixels) < 1e-3 and (made != made.round()).mean() > 0.9


@pytest.mark.parametrize(
    ("option", "alike"),
    [("brightness_delta", "difference"), ("contrast_range", "ratio"), ("gain_range", "ratio of each band")],
)
def test_each_option_changes_what_it_says(option, alike):
    pixels = picture(4)
    value = 20.0 if option == "brightness_delta" else (0.8, 1.2)
    made = next(m for m in (distorted(pixels, seed, **{option: value}) for seed in range(9)) if (m != pixels).any())
    difference, ratio = made - pixels, made / pixels
    assert (np.ptp(difference) < 1e-3) == (alike == "difference")
    assert (np.ptp(ratio) < 1e-5) == (alike == "ratio")
    assert (np.ptp(ratio, axis=(0, 1)).max() < 1e-5) == (alike != "difference")
    assert (distorted(pixels, 1) == pixels).all()


@pytest.mark.parametrize("option", [{"brightness_delta": -1.0}, {"contrast_range": (0.0, 1.0)}, {"gain_range": (2, 1)}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        BandDistortion(**option)
