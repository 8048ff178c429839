import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.errors import ConfigError, DataError

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.27, 0.28)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def made(**changes) -> Preprocess:
    return Preprocess(**{"image_size": 24, "mean": MEAN, "std": STD, **changes})


@settings(max_examples=12, deadline=None)
@example(height=5, width=81, size=8, mode="shortest", interpolation="bicubic")  # a strip, whose ends were once cut
@given(
    height=st.integers(5, 90),
    width=st.integers(5, 90),
    size=st.integers(8, 40),
    mode=st.sampled_from(["shortest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_equals_open_clips_own_transform(height, width, size, mode, interpolation):
    from open_clip.transform import image_transform

    theirs = image_transform(size, False, mean=MEAN, std=STD, resize_mode=mode, interpolation=interpolation)
    ours = made(image_size=size, mode=mode, interpolation=interpolation)
    array = picture(height, width)
    assert torch.equal(ours(array), theirs(Image.fromarray(array)))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_a_pil_image_of_another_mode_equals_open_clips(mode):
    from open_clip.transform import image_transform

    image = Image.fromarray(picture(40, 30)).convert(mode)
    assert torch.equal(made()(image), image_transform(24, False, mean=MEAN, std=STD)(image))


def test_a_palette_image_is_its_colours():
    palette = Image.fromarray(picture(40, 30)).convert("P")
    assert torch.equal(made()(palette), made()(palette.convert("RGB")))


def test_grey_is_the_same_in_three_channels():
    grey = picture(40, 30)[..., 0]
    three = made()(np.stack([grey] * 3, axis=-1))
    assert torch.equal(made()(grey), three)
    assert torch.equal(made()(grey[..., None]), three)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_float_agrees_with_8_bit_to_its_rounding(mode):
    array = picture(60, 40) // 2 + 64
    exact = made(mode=mode)(array.astype(np.float32) / 255)
    assert exact.dtype == torch.float32
    # Pillow rounds to 1/255 after each of its two passes, and the second one can sharpen the error of the first.
    assert (exact - made(mode=mode)(array)).abs().max() < 2.5 / 255 / min(STD)


def test_float_keeps_what_8_bits_would_lose():
    deep = np.full((40, 40, 3), 0.5, dtype=np.float32)
    deep[:, 20:] += 0.0005
    pixels = made(mode="squash")(deep)
    assert pixels[0, 0, 0] != pixels[0, 0, -1]


def test_float_is_held_within_0_and_1_as_8_bits_are():
    steep = np.zeros((40, 40, 3), dtype=np.float64)
    steep[:, 20:] = 1
    pixels = made(mean=(0, 0, 0), std=(1, 1, 1), image_size=64)(steep)
    assert pixels.min() >= 0 and pixels.max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_the_oddest_shapes_give_a_square(shape):
    pixels = made()(picture(*shape))
    assert pixels.shape == (3, 24, 24)
    assert torch.isfinite(pixels).all()


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 4), np.uint8), np.zeros((4,), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_of_another_shape_is_refused(array):
    with pytest.raises(DataError, match=r"shape .* is not usable; give \(H, W\)"):
        made()(array)


def test_an_array_of_another_kind_is_refused():
    with pytest.raises(DataError, match="uint16 is not usable; give uint8, or float"):
        made()(np.zeros((4, 4, 3), np.uint16))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_augmentation_is_a_function_of_the_seed(kind):
    array = (picture(60, 40) / (255 if kind is np.float32 else 1)).astype(kind)
    train = made(train=True)
    draws = [train(array, seed=seed) for seed in range(8)]
    assert all(torch.equal(draw, train(array, seed=seed)) for seed, draw in enumerate(draws))
    assert len({draw.sum().item() for draw in draws}) > 4
    assert not torch.equal(train(array), train(array))


def test_augmentation_flips_and_crops():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], (64, 1, 3))
    whole = made(train=True, scale=(1.0, 1.0), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
    rises = {bool(whole(ramp, seed=seed)[0, 0, -1] > whole(ramp, seed=seed)[0, 0, 0]) for seed in range(12)}
    assert rises == {True, False}
    small = made(train=True, scale=(0.08, 0.1), mean=(0, 0, 0), std=(1, 1, 1))
    span = max((small(ramp, seed=seed).max() - small(ramp, seed=seed).min()).item() for seed in range(5))
    assert span < 0.6


def test_without_a_flip_the_crops_are_the_same_and_nothing_is_mirrored():
    image, usual = picture(40, 60), made(train=True)
    unflipped = usual.without_flip()
    pairs = [(usual(image, seed=seed), unflipped(image, seed=seed)) for seed in range(12)]
    mirrored = [not torch.equal(one, other) for one, other in pairs]
    assert any(mirrored) and not all(mirrored)
    assert all(torch.equal(one.flip(-1), other) for (one, other), turned in zip(pairs, mirrored) if turned)
    assert unflipped.spec["flip"] is False and "flip" not in usual.spec


def test_the_seed_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    made(train=True)(picture(20, 20), seed=3)
    assert torch.equal(torch.rand(1), expected)


def test_spec_is_json_and_tells_every_choice_apart():
    variants = [
        made(),
        made(image_size=25),
        made(mean=(0, 0, 0)),
        made(std=(1, 1, 1)),
        made(interpolation="bilinear"),
        made(mode="squash"),
        made(train=True),
        made(train=True, scale=(0.08, 1.0)),
    ]
    assert len({json.dumps(variant.spec, sort_keys=True) for variant in variants}) == len(variants)
    assert made(scale=(0.5, 1.0)).spec == made().spec  # without augmentation it changes nothing


def test_it_travels_to_workers():
    array = picture(30, 30)
    assert torch.equal(pickle.loads(pickle.dumps(made()))(array), made()(array))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"mode": "longest"}, "shortest, squash"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"scale": (0.9, 0.1)}, "scale="),
    ],
)
def test_a_wrong_choice_is_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        made(**changes)


def test_views_keep_at_least_half_the_image_as_the_cache_adapters_publish():
    assert made(train=True).scale == (0.5, 1.0)
