"""Rasters of numbers over images: what they mean, how they are brought to the image's pixels, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt.core.errors import DataError

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

from vladapt.domains.remote_sensing.number_maps import NumberSource
from vladapt.domains.remote_sensing.number_maps.target import scaled_pixels, source_over
from vladapt.domains.remote_sensing.rasters import header_of

BOX = (2, 1, 4, 3)


@pytest.fixture
def image(write_raster):
    """An image of 12 x 16 pixels of 10 metres."""
    return write_raster("image.tif", np.full((3, 12, 16), 90, np.uint8))


def over(image, target, **options):
    header = header_of([image])
    return source_over(target, image, header, (header.height, header.width), **options)


def read(source, box=BOX):
    with source.open() as dataset:
        return source.read(dataset, box)


def heights(kind=np.float32):
    return np.arange(12 * 16).reshape(1, 12, 16).astype(kind)


def test_numbers_are_those_of_the_file_and_nothing_is_where_it_says_so(image, write_raster):
    stored = heights(np.int16)
    stored[0, 1, 2], stored[0, 2, 3] = -1, 7
    target = write_raster("t.tif", stored, nodata=-1, scales=(0.5,), offsets=(10.0,), names=("canopy height",))
    values, there = read(over(image, target, nodata=7))
    expected = stored[0, 1:4, 2:6] * 0.5 + 10
    assert there.sum() == 10 and not there[0, 0] and not there[1, 1]
    assert np.allclose(values[there], expected[there]) and (values[~there] == 0).all()
    again = NumberSource.from_json(over(image, target, nodata=7).to_json())
    assert np.array_equal(read(again)[0], values) and again.name == "canopy height"


def test_a_number_that_is_none_is_nothing(image, write_raster):
    stored = heights()
    stored[0, 1, 2], stored[0, 2, 2] = np.nan, np.inf
    values, there = read(over(image, write_raster("t.tif", stored)))
    assert there.sum() == 10 and np.isfinite(values).all()


def test_a_finer_target_is_averaged_and_a_coarser_one_interpolated(image, write_raster):
    plane = np.add.outer(2.0 * np.arange(24), np.arange(32.0))[None].astype(np.float32)  # of 5 m
    fine = over(image, write_raster("fine.tif", plane, metres=5.0))
    block = plane[0].reshape(12, 2, 16, 2).mean(axis=(1, 3))
    assert fine.finer and np.allclose(read(fine)[0], block[1:4, 2:6], atol=1e-4)
    coarse = over(image, write_raster("coarse.tif", plane[:, ::4, ::4], metres=20.0))
    assert not coarse.finer and np.allclose(read(coarse)[0], block[1:4, 2:6] - 4.5, atol=1e-3)  # a plane stays one


def test_what_a_target_does_not_reach_is_nothing(image, write_raster):
    half = write_raster("half.tif", heights()[:, :, :8], left=500_000.0)
    _, there = read(over(image, half), (0, 0, 16, 12))
    assert there[:, :8].all() and not there[:, 8:].any()


def test_where_the_image_has_nothing_is_told_apart(write_raster):
    values = np.full((3, 4, 4), 90, np.uint8)
    values[:, 0, 0] = 0
    pixels, valid = scaled_pixels(write_raster("i.tif", values, nodata=0), {})
    assert pixels.max() == pytest.approx(90 / 255) and not valid[0, 0] and valid.sum() == 15


OTHERS = {
    "another resolution": (
        {"metres": 25.0},
        r"pixels of 25 x 25 are not those of image.tif \(10 x 10\).*--resample-target",
    ),
    "another place": ({"left": 900_000.0}, "lies elsewhere than image.tif"),
    "another CRS": ({"crs": "EPSG:32634"}, "is in EPSG:32634, but image.tif in EPSG:32633; reproject"),
    "no CRS": ({"crs": None}, "t.tif: has no CRS, but image.tif"),
}


@pytest.mark.parametrize("place", OTHERS)
def test_a_target_that_lies_otherwise_is_refused(place, image, write_raster):
    profile, words = OTHERS[place]
    with pytest.raises(DataError, match=words):
        over(image, write_raster("t.tif", heights(), **profile))


def test_another_resolution_is_taken_where_it_is_asked_for(image, write_raster):
    target = write_raster("t.tif", heights()[:, :4, :6], metres=30.0)
    assert over(image, target, resample=True).grid is not None


def test_an_image_without_a_crs_beside_a_target_with_one_is_refused(write_raster):
    image = write_raster("bare.tif", np.full((3, 12, 16), 90, np.uint8), crs=None)
    with pytest.raises(DataError, match=r"bare.tif: has no CRS, but t.tif"):
        over(image, write_raster("t.tif", heights()))


def test_without_any_crs_sizes_must_agree(write_raster):
    image = write_raster("bare.tif", np.full((3, 12, 16), 90, np.uint8), crs=None)
    assert over(image, write_raster("same.tif", heights(), crs=None)).grid is None
    with pytest.raises(DataError, match=r"16 x 10 pixels over bare.tif of 16 x 12"):
        over(image, write_raster("other.tif", heights()[:, :10], crs=None))


def test_what_is_no_raster_of_numbers_is_refused(image, write_raster, tmp_path):
    text = tmp_path / "text.tif"
    text.write_text("12.5 m")
    palette = write_raster("palette.tif", heights(np.uint8) % 4, palette={k: (k, 0, 0, 255) for k in range(4)})
    several = write_raster("several.tif", np.repeat(heights(), 3, axis=0))
    for target, options, words in (
        (text, {}, "text.tif: ends early or is damaged"),
        (write_raster("complex.tif", heights(np.complex64)), {}, "has complex64 values"),
        (palette, {}, "colours of a palette.*--task segmentation"),
        (several, {}, "has 3 bands.*--target-band"),
        (several, {"band": 4}, "has no band 4"),
    ):
        with pytest.raises(DataError, match=words):
            over(image, target, **options)
    assert over(image, several, band=2).band == 2
