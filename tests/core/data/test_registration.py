"""Two thumbnails of one picture agree whatever its tone, its place in the frame and a mark on it."""

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.thumbnails import (
    NO_AGREEMENT,
    SYMMETRIES,
    TRIMMED,
    Pictures,
    PreparedThumbnails,
    agreements,
    cut_view,
    half_view,
    low_spectra,
    shows_enough,
    spectral_likeness,
    thumbnail,
    turned,
    turned_spectra,
)


def drawn(number, size=256):
    coarse = np.random.default_rng(number).integers(30, 226, (12, 12), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def pictures(*images):
    """Of grey images (H, W) uint8."""
    rows = np.stack([thumbnail(np.repeat(image[..., None], 3, axis=2)) for image in images])
    return Pictures(rows[:, :1024].reshape(-1, 32, 32), rows[:, 1024:-8].reshape(-1, 8, 8, 2), np.full(len(rows), 256))


def agree(one, other):
    """(4, N) of pictures as they lie."""
    likeness = (low_spectra(one.grey) * low_spectra(other.grey)).sum(axis=(1, 2))
    return agreements(PreparedThumbnails.of(one), PreparedThumbnails.of(other), likeness)


def agreement(one, other):
    return agree(pictures(one), pictures(other))[:, 0]


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_each_symmetry_is_told_by_its_number(symmetry):
    images = pictures(*(drawn(number) for number in range(5)))
    moved = turned(images.grey, np.full(5, symmetry))
    likeness = spectral_likeness(low_spectra(images.grey), low_spectra(moved))
    spectra = turned_spectra(low_spectra(images.grey), np.full(5, symmetry))
    np.testing.assert_allclose(spectra, low_spectra(moved), atol=1e-5)
    assert (likeness.argmax(axis=0) == symmetry).all() and likeness[symmetry] == pytest.approx(1, abs=1e-5)
    assert np.array_equal(np.sort(moved.reshape(5, -1)), np.sort(images.grey.reshape(5, -1)))


@pytest.mark.parametrize("scale, edge", [(0.95, 6), (TRIMMED, 12)])
def test_a_view_is_told_from_low_spectra_as_from_a_picture_that_is_cut(scale, edge):
    low = low_spectra(pictures(drawn(0, 240)).grey)
    own = low_spectra(pictures(drawn(0, 240)[edge : 240 - edge, edge : 240 - edge]).grey)
    assert 1 - (cut_view(low, scale) * own).sum() < 0.4 * (1 - (low * own).sum())


def test_a_half_is_told_whatever_covers_the_other():
    image, other = drawn(0), drawn(1)
    for lower, rows in enumerate((slice(0, 96), slice(160, 256))):  # kept
        covered = other.copy()
        covered[rows] = image[rows]
        first, second = (half_view(low_spectra(pictures(each).grey), lower) for each in (image, covered))
        assert (first * second).sum() > 0.7
    flipped, own = (low_spectra(pictures(each).grey) for each in (image[::-1], image))
    np.testing.assert_allclose(half_view(flipped, True), half_view(own, False), atol=1e-4)


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_what_is_prepared_is_turned_as_its_picture_is(symmetry):
    images, symmetries = pictures(drawn(0), drawn(1)), np.full(2, symmetry)
    before = Pictures(turned(images.grey, symmetries), turned(images.colour, symmetries), images.sides)
    for one, other in zip(
        vars(PreparedThumbnails.of(before)).values(), vars(PreparedThumbnails.of(images).turned(symmetries)).values()
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("tone", [lambda x: 0.5 * x + 60, lambda x: 255 * (x / 255) ** 0.6, lambda x: 0.6 * x])
def test_no_change_of_tone_counts(tone):
    image = drawn(1)
    assert (agreement(image, np.rint(tone(image.astype(float))).astype(np.uint8)) > 2.5).all()


def test_different_pictures_do_not_agree():
    found = agree(pictures(*map(drawn, range(20))), pictures(*map(drawn, range(20, 40))))
    assert found.max() < 1


@pytest.mark.parametrize("cut", [np.s_[:243, :243], np.s_[13:, :243], np.s_[13:243, 13:243], np.s_[:, :243]])
@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_cut_agrees_once_registered(cut, backwards):
    pair = (drawn(2), drawn(2)[cut])
    in_place, registered, *_ = agreement(*pair[::-1] if backwards else pair)
    assert registered > 1.5 > in_place


def test_a_mark_spoils_its_own_blocks_alone():
    image = drawn(3)
    marked, covered = image.copy(), image.copy()
    marked[64:128, 64:192], covered[:192, :] = 255, 255
    assert agreement(image, marked)[0] > 1.5 and (agreement(image, covered) < 1).all()


def test_what_shows_nothing_agrees_with_nothing():
    flat, speck = np.full((256, 256), 90, np.uint8), np.full((256, 256), 90, np.uint8)
    speck[100:120, 100:120] = 255
    assert not shows_enough(pictures(flat, speck).grey).any() and shows_enough(pictures(drawn(0)).grey).all()
    assert (agreement(speck, speck)[:2] == NO_AGREEMENT).all()
