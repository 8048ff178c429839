"""Places in several files, and sets of rasters with one stretch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.errors import DataError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.rasters import header_of, open_raster
from vladapt.domains.remote_sensing.stacks import band_of, raster_files
from vladapt.domains.remote_sensing.vrt import xml_root
from vladapt.testing import check_domain

from .conftest import numbers, values

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")


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
    stack = raster_files(files[1])
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
    with pytest.raises(DataError, match="has no band 4, only 3 and one marked as transparency; correct --bands, or"):
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
    files = raster_files(product)
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
    check_domain(RemoteSensing(), task="classification", data=deep_set, reading={"bands": "1,2,3"}, sample=False)


@pytest.mark.thorough
def test_several_pictures_keep_the_contract_too(deep_set):
    check_domain(RemoteSensing(), task="classification", data=deep_set, reading={"bands": "1,2,3+4"}, sample=False)


def test_options_of_rasters_on_photos_are_said_to_do_nothing(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), {"a": "red", "b": "blue"}[name]).save(tmp_path / name / "x.png")
    data = RemoteSensing().read(tmp_path, "classification", bands="3,2,1")
    assert "Option bands has no effect here: it is for rasters (.tif .tiff .jp2 .j2k .vrt)." in data.notes


def test_decode_of_every_item_is_json(deep_set):
    data = RemoteSensing().read(deep_set, "classification", bands="ndvi", sensor="naip")
    assert json.loads(json.dumps(data.items[0].decode)) == data.items[0].decode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!doctype a [<!entity b 'c'>]><a>&b;</a>", "metadata of a product with XML entities of its own"),
        ("<a>", "not metadata of a product"),
        ("<a>" + "b" * 30 + "</a>", "metadata of a product of more than 0 MB"),
    ],
)
def test_xml_that_could_expand_is_broken_or_too_large_is_one_line(tmp_path, text, words):
    file = tmp_path / "MTD_MSIL2A.xml"
    file.write_text(text)
    most = 20 if "of more than" in words else 1000
    with pytest.raises(DataError, match=rf"{words}.*; get it again$") as refusal:
        xml_root(file, "metadata of a product", "get it again", most)
    assert "\n" not in str(refusal.value)
