"""Bands of rasters by number and name, composites, indices, sensors."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt.core.contracts import Band
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import load_domain
from vladapt.domains.remote_sensing.bands import check_bands, named_bands, sensors
from vladapt.domains.remote_sensing.pictures import decode_raster

from .conftest import numbers, values

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")


@pytest.mark.parametrize(
    ("bands", "wanted"),
    [
        ("4,3,2", (3, 2, 1)),
        ("red,green,blue", (3, 2, 1)),
        ("B04,B03,B02", (3, 2, 1)),
        ("true-color", (3, 2, 1)),
        ("false-color", (7, 3, 2)),
        ("nir08", (8,)),
        (None, (3, 2, 1)),
    ],
)
def test_bands_by_number_name_code_and_composite(write_raster, bands, wanted):
    stored = numbers(13, 6, 8)
    file = write_raster("a.tif", stored)
    np.testing.assert_allclose(values(file, bands=bands, sensor="sentinel-2"), stored[list(wanted)] / 1e4, rtol=1e-6)


def test_eurosat_has_its_narrow_infrared_last(write_raster):
    stored = numbers(13, 6, 8)
    file = write_raster("a.tif", stored)
    np.testing.assert_allclose(values(file, bands="nir08,swir16,cirrus", sensor="eurosat"), stored[[12, 10, 9]] / 1e4)


def test_descriptions_of_bands_are_names(write_raster):
    stored = numbers(3, 6, 8)
    file = write_raster("a.tif", stored, names=("nir", "red", "green"))
    assert np.array_equal(values(file, bands="nir,red,green"), stored.astype(np.float32))
    with pytest.raises(DataError, match=r"a\.tif: has no band 'blue', only nir, red, green; (did you mean|there are)"):
        values(file, bands="blue")


@pytest.mark.parametrize(
    ("index", "one", "other"), [("ndvi", "nir", "red"), ("ndwi", "green", "nir"), ("ndbi", "swir16", "nir")]
)
def test_indices_are_normalised_differences_of_reflectance(write_raster, index, one, other):
    stored = numbers(7, 6, 8, high=40_000)
    file = write_raster("a.tif", stored)
    order = ["coastal", "blue", "green", "red", "nir", "swir16", "swir22"]
    a, b = (stored[order.index(name)] * 0.0000275 - 0.2 for name in (one, other))
    np.testing.assert_allclose(
        values(file, bands=index, sensor="landsat-9")[0], (a - b) / (a + b), rtol=2e-3, atol=1e-3
    )
    picture = decode_raster(file, {"bands": index, "sensor": "landsat-9"})
    inside = abs((a - b) / (a + b)) < 1  # reflectances below zero leave it
    np.testing.assert_allclose(picture[..., 1][inside], (((a - b) / (a + b) + 1) / 2)[inside], atol=1e-3)


def test_radar_is_both_polarisations_and_their_ratio(write_raster):
    stored = -numbers(2, 6, 8, kind=np.float32, high=20)
    file = write_raster("a.tif", stored, names=("VV", "VH"))
    assert np.array_equal(values(file), [stored[0], stored[1], stored[0] - stored[1]])


def test_several_pictures_of_a_place(write_raster):
    stored = numbers(4, 6, 8, kind=np.uint8, high=255)
    file = write_raster("a.tif", stored, photometric="minisblack")
    pictures = decode_raster(file, {"bands": "1,2,3+4"})
    assert pictures.shape == (2, 6, 8, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures[0], stored[:3].transpose(1, 2, 0))
    assert all(np.array_equal(pictures[1][..., c], stored[3]) for c in range(3))


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ("9", "has no band 9, only 4"),
        ("red", "its bands have no names, so none is 'red'; give numbers, or name the --sensor"),
        ("ndvi", "its bands have no names"),
    ],
)
def test_bands_that_are_not_there_are_one_line(write_raster, bands, words):
    with pytest.raises(DataError, match=words):
        values(write_raster("a.tif", numbers(4, 6, 8)), bands=bands)


def test_two_bands_of_unknown_meaning_are_asked_for(write_raster):
    with pytest.raises(DataError, match="nothing says what its 2 bands are"):
        values(write_raster("a.tif", numbers(2, 6, 8)))


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ("4,3", "2 channels in '4,3'"),
        ("1,2,3,4+1", "4 channels in '1,2,3,4'; give each of"),
        ("0", "counted from 1"),
        ("1,2,3,2", "band 2 is named twice in '1,2,3,2'; name each once"),
    ],
)
def test_a_choice_that_makes_no_picture_is_refused(bands, words):
    with pytest.raises(ConfigError, match=words):
        check_bands(bands)


@pytest.mark.parametrize("given", ["4, 3,2", (4, 3, 2), [4, "3", 2]])
def test_numbers_may_be_a_list_as_options_by_set_are(given):
    assert check_bands(given) == "4,3,2" and check_bands(4) == "4"


def test_a_sensor_with_other_bands_is_refused(write_raster):
    with pytest.raises(DataError, match="has 4 bands, but files of sar have 2, 1; correct or omit --sensor"):
        values(write_raster("a.tif", numbers(4, 6, 8)), sensor="sar")


def test_every_sensor_names_each_of_its_bands_once():
    for sensor in sensors().values():
        for order in sensor.orders:
            assert set(order) <= set(sensor.bands) and len(set(order)) == len(order)
        assert len(set(sensor.bands.values())) == len(sensor.bands)


RED = Band("sentinel-2", "B04", "red", 665, 30)


@pytest.mark.parametrize(
    ("text", "sensor", "names", "band"),
    [
        ("b04,b03,b02", None, ("b04", "b03", "b02"), RED),
        ("red,green,blue", "sentinel-2", ("red", "green", "blue"), RED),
        ("4,3,2,8", "eurosat", ("4", "3", "2", "8"), Band("eurosat", "B04", "red", 665, 30)),
        ("4,3,2,8", "sentinel-2", ("4", "3", "2", "8"), Band()),  # its files have other bands in these places
        ("nir,blue,red,green", "landsat-9", ("red", "green", "blue", "nir"), Band("landsat-9", "B4", "red", 655, 37)),
        ("red,green,blue", None, ("red", "green", "blue"), Band("", "", "red")),  # of some sensor
        ("1@650,2,3,4", None, ("1", "2", "3", "4"), Band("", "", "", 650.0)),
        (
            "red@660/25,green,blue",
            "sentinel-2",
            ("red", "green", "blue"),
            Band("sentinel-2", "B04", "red", 660.0, 25.0),
        ),
        ("sar", None, ("vv", "vh", "vv-vh"), Band("sar", "VV", "vv")),
    ],
)
def test_what_is_known_of_each_band(text, sensor, names, band):
    channels = load_domain("remote-sensing").channels({"bands": text, "sensor": sensor})
    assert channels.names == names and channels.bands[0] == band
    assert (channels.names, channels.bands) == named_bands(text, sensor)


@pytest.mark.parametrize("text", [None, "ndvi", "true-color+false-color"])
def test_of_other_pictures_no_bands_are_told(text):
    assert load_domain("remote-sensing").channels({"bands": text}) is None


def test_wavelengths_are_no_part_of_names(write_raster):
    assert check_bands("4@842,3@560/35,2") == "4@842,3@560/35,2"
    stored = numbers(4, 6, 8)
    file = write_raster("a.tif", stored)
    np.testing.assert_array_equal(values(file, bands="4@842,3@560/35,2"), values(file, bands="4,3,2"))
    for wrong in ("4@nir,3,2", "4@,3,2", "true-color@600", "4@842/,3,2"):
        with pytest.raises(ConfigError, match="as in 4@842"):
            check_bands(wrong)


def test_every_band_of_an_optical_sensor_has_its_wavelength():
    for sensor in sensors().values():
        assert sensor.name == "sar" or set(sensor.wavelengths) == set(sensor.bands)
