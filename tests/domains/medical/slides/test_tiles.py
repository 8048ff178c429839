"""How a slide is cut into tiles, and what their pixels are."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.medical.slides.drawn import deflated, write_pyramid
from vladapt.domains.medical.slides.reading import Slide, overview
from vladapt.domains.medical.slides.regions import regions_of
from vladapt.domains.medical.slides.tiles import Tiling, tile_grid, tiles_of
from vladapt.domains.medical.slides.tissue import shares, tissue_mask

EVERY_64 = Tiling(tile=64, mpp=0.5, tissue=0.5)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(30, 700))
def test_a_grid_lies_side_by_side_inside_the_slide_and_leaves_less_than_a_tile(width, height, side):
    coords = tile_grid(width, height, side)
    assert coords.shape == ((width // side) * (height // side), 2) and coords.dtype == np.int64
    assert (coords % side == 0).all() and len(np.unique(coords, axis=0)) == len(coords)
    if len(coords):
        assert coords.min() == 0
        assert (np.array([width, height]) - coords.max(axis=0) - side >= 0).all()
        assert (np.array([width, height]) - coords.max(axis=0) - side < side).all()


@given(st.data())
def test_the_share_of_a_tile_is_that_of_its_pixels(data):
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random((12, 17)) < 0.5
    scale, side = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 20))
    large = mask.repeat(scale, 0).repeat(scale, 1)
    coords = tile_grid(large.shape[1], large.shape[0], side)
    counted = [large[y : y + side, x : x + side].mean() for x, y in coords]
    assert shares(mask, scale, coords, side) == pytest.approx(counted, abs=1e-9)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize("height, width", [(512, 768), (500, 700)])
def test_a_slide_full_of_tissue_gives_every_tile_that_lies_in_it(write_slide, mpp, height, width):
    tiles = tiles_of(write_slide("a.tif", height, width, mpp=mpp), EVERY_64)
    side = round(64 * 0.5 / mpp)
    assert len(tiles) == (width // side) * (height // side)
    size = {"width": width, "height": height, "origin": [0, 0]}
    assert tiles.attributes == {"side": 64, "level0_side": side, "mpp": 0.5, **size}


@settings(max_examples=25, deadline=None)
@given(left=st.integers(0, 8), top=st.integers(0, 4), across=st.integers(4, 8), down=st.integers(4, 8))
def test_tiles_cover_the_tissue_and_no_background(tmp_path_factory, left, top, across, down):
    pixels = np.full((512, 768, 3), 250, np.uint8)
    pixels[64 * top : 64 * (top + down), 64 * left : 64 * (left + across)] = (214, 160, 190)
    file = tmp_path_factory.mktemp("slides") / "a.tif"
    write_pyramid(file, [(512, 768)], [deflated(pixels)], 0.5)
    tiles = tiles_of(file, EVERY_64)
    right, bottom = min(12, left + across), min(8, top + down)
    expected = {(64 * x, 64 * y) for x in range(left, right) for y in range(top, bottom)}
    assert {(int(x), int(y)) for x, y in tiles.coords} == expected


def test_tiles_are_the_pixels_of_the_slide_where_the_scales_agree(write_slide):
    pixels = np.random.default_rng(0).integers(0, 150, (256, 320, 3), np.uint8)
    pixels[..., 0] |= 128
    tiles = tiles_of(write_slide("a.tif", pixels=pixels), EVERY_64)
    assert len(tiles) == 20
    for (x, y), tile in zip(tiles.coords, tiles.read(range(20)), strict=True):
        assert np.array_equal(tile, pixels[y : y + 64, x : x + 64])


def test_tiles_are_read_from_the_nearest_finer_level_and_resized(write_slide):
    """Of levels of 0.25, 0.5 and 1 micrometres, tiles of 0.8 come from the second."""
    pixels = np.full((1024, 1024, 3), (200, 100, 100), np.uint8)
    fine, middle, coarse = pixels.copy(), pixels[::2, ::2].copy(), pixels[::4, ::4].copy()
    middle[..., 1] = 60
    file = write_slide("a.tif", pixels=pixels)
    write_pyramid(
        file, [(1024,) * 2, (512,) * 2, (256,) * 2], [deflated(each) for each in (fine, middle, coarse)], 0.25
    )
    tiles = tiles_of(file, Tiling(tile=64, mpp=0.8, tissue=0.5))
    assert tiles.attributes["level0_side"] == 205 and tiles.attributes["mpp"] == pytest.approx(205 * 0.25 / 64)
    assert (tiles.read(range(2)) == (200, 60, 100)).all()


def test_a_missing_tile_of_the_file_is_white_and_no_tissue(tmp_path):
    pixels = np.full((512, 512, 3), (214, 160, 190), np.uint8)
    stored = list(deflated(pixels))
    stored[1] = b""
    write_pyramid(tmp_path / "a.tif", [(512, 512)], [iter(stored)], 0.5)
    assert (overview(Slide.of(tmp_path / "a.tif"), 1)[:256, 256:] == 255).all()
    tiles = tiles_of(tmp_path / "a.tif", Tiling(tile=256, mpp=0.5, tissue=0.5))
    assert tiles.coords.tolist() == [[0, 0], [0, 256], [256, 256]]
    tiles = tiles_of(tmp_path / "a.tif", Tiling(tile=512, mpp=0.5, tissue=0.5))
    assert (tiles.read(range(1))[0, :256, 256:] == 255).all()


@pytest.mark.parametrize("downsample", [1, 3.7, 16])
def test_an_overview_read_in_strips_is_that_read_at_once(write_slide, monkeypatch, downsample):
    file = write_slide("a.tif", 300, 500, tissue=(slice(40, 200), slice(100, 333)), levels=1)
    whole = overview(Slide.of(file), downsample)
    assert whole.shape == (int(np.ceil(300 / downsample)), int(np.ceil(500 / downsample)), 3)
    monkeypatch.setattr("vladapt.domains.medical.slides.reading.STRIP_PIXELS", 3000)
    strips = overview(Slide.of(file), downsample)
    assert np.abs(strips.astype(int) - whole).mean() < 2


def test_small_pieces_are_dropped_and_small_holes_filled():
    pixels = np.full((200, 200, 3), 245, np.uint8)
    pixels[50:150, 50:150] = (214, 160, 190)
    pixels[90:98, 90:98] = 245  # 64 micrometres: filled
    pixels[100:140, 100:140] = 245  # 320 micrometres: a hole
    pixels[5:12, 5:12] = (214, 160, 190)  # dust
    mask = tissue_mask(pixels, 8.0)
    assert mask[94, 94] and not mask[120, 120] and not mask[8, 8]
    assert abs(mask.mean() - (100 * 100 - 40 * 40) / 200**2) < 0.005


@pytest.mark.parametrize("shade", [(250, 250, 250), (243, 240, 236), (0, 0, 0), (128, 128, 128)])
def test_glass_a_black_border_and_grey_are_no_tissue(shade):
    noise = np.random.default_rng(0).normal(0, 2, (200, 200, 3))
    assert not tissue_mask(np.clip(np.array(shade) + noise, 0, 255).astype(np.uint8), 8.0).any()


def test_only_tiles_with_their_centre_in_a_region_are_taken(write_slide, tmp_path):
    square = [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]
    hole = [[64, 64], [128, 64], [128, 128], [64, 128], [64, 64]]
    geometry = {"type": "MultiPolygon", "coordinates": [[square, hole]]}
    features = [{"type": "Feature", "geometry": geometry}, {"geometry": {"type": "Point", "coordinates": [700, 2]}}]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    tiles = tiles_of(write_slide("a.tif"), Tiling(64, 0.5, 0.5, regions=tmp_path / "a.geojson"))
    expected = [[64 * x, 64 * y] for y in range(4) for x in range(4) if (x, y) != (1, 1)]
    assert tiles.coords.tolist() == expected


def test_regions_count_from_what_was_scanned(write_slide, tmp_path):
    from vladapt.domains.medical.slides.regions import read_regions

    square = [[0, 0], [64, 0], [64, 64], [0, 64], [0, 0]]
    (tmp_path / "a.geojson").write_text(json.dumps([{"geometry": {"type": "Polygon", "coordinates": [square]}}]))
    slide = Slide(tmp_path / "a.mrxs", 1000, 1000, (1.0,), origin=(100, 30))
    assert read_regions(tmp_path / "a.geojson", slide, 0).bounds == (100, 30, 164, 94)


@pytest.mark.parametrize(
    "content, reason",
    [
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [9000, 0], [9000, 50], [0, 0]]]},
            "beyond the slide a.tif of 768",
        ),
        ({"type": "Polygon", "coordinates": [[[-200, 0], [90, 0], [90, 50], [-200, 0]]]}, "reach from -200"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]}, "no tile of a.tif has its centre"),
        ({"type": "Polygon", "coordinates": [[[1, "x"]]]}, "polygon 1 cannot be read"),
        ({"type": "Polygon", "coordinates": 7}, "polygon 1 cannot be read"),
        ({"type": "FeatureCollection", "features": []}, "has no polygon"),
        ([{"type": "Point", "coordinates": [1, 2]}], "has no polygon"),
        (7, "has no polygon"),
    ],
)
def test_regions_that_do_not_fit_are_refused(write_slide, tmp_path, content, reason):
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    with pytest.raises(DataError, match=reason):
        tiles_of(write_slide("a.tif"), Tiling(64, 0.5, 0.5, regions=tmp_path / "a.geojson"))


def test_regions_are_found_by_the_name_of_their_slide(tmp_path):
    for name in ("a.geojson", "b.svs.geojson"):
        (tmp_path / name).write_text("[]")
    assert regions_of(tmp_path, tmp_path / "a.svs").name == "a.geojson"
    assert regions_of(tmp_path, tmp_path / "b.svs").name == "b.svs.geojson"
    assert regions_of(tmp_path, tmp_path / "c.svs") is None
    assert regions_of(tmp_path / "a.geojson", tmp_path / "c.svs") is None
    with pytest.raises(ConfigError, match="no such file or folder"):
        regions_of(tmp_path / "missing", tmp_path / "a.svs")


def test_what_gives_no_tile_is_refused_in_one_line(write_slide):
    with pytest.raises(DataError, match=r"0\.5 micrometres per pixel, coarser than tiles of 0\.25; give --mpp 0\.5"):
        tiles_of(write_slide("a.tif"), Tiling(64, 0.25, 0.5))
    with pytest.raises(DataError, match="smaller than one tile of 1024"):
        tiles_of(write_slide("a.tif"), Tiling(1024, 0.5, 0.5))
    with pytest.raises(DataError, match=r"no tile of 64 pixels at 0\.5 micrometres with 50% tissue"):
        tiles_of(write_slide("b.tif", tissue=(slice(0), slice(0))), EVERY_64)


def test_the_tiles_of_a_damaged_level_are_refused_with_the_slide_and_the_place(write_slide):
    noise = np.random.default_rng(0).integers(0, 150, (512, 512, 3), np.uint8) | np.array([128, 0, 0], np.uint8)
    file = write_slide("a.tif", pixels=noise, levels=1)
    tiles = tiles_of(file, EVERY_64)
    content = bytearray(file.read_bytes())
    content[300_000:310_000] = bytes(10_000)  # within the pixels of the second tile or later
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a.tif: level 0 at \d+, \d+ cannot be read .*; copy the slide again"):
        tiles.read(range(len(tiles)))
