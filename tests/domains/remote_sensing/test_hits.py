"""Search over rasters: asked by words, by a picture, by a window; answered in the coordinates of the raster."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vladapt.cli import app
from vladapt.core.errors import DataError, VladaptError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.hits import write_hits
from vladapt.domains.remote_sensing.places import item_place

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
shapely = pytest.importorskip("shapely", reason="extra remote-sensing is not installed")
pytest.importorskip("faiss", reason="extra retrieval is not installed")

SIDE = 32
LEFT, TOP = 500_000, 5_000_000


@pytest.fixture(scope="module")
def land(tmp_path_factory, small_clip_spec):
    """A raster of 16 bits of 4 x 4 differing squares, and an index of its windows."""
    folder = tmp_path_factory.mktemp("land")
    squares = np.random.default_rng(0).integers(100, 4000, (3, 4, 4, 8, 8))
    stored = squares.transpose(0, 1, 3, 2, 4).reshape(3, SIDE, SIDE).astype(np.uint16)
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(LEFT, TOP, 10, 10)}
    shape = {"count": 3, "height": SIDE, "width": SIDE, "dtype": stored.dtype}
    with rasterio.open(folder / "land.tif", "w", driver="GTiff", **shape, **place) as raster:
        raster.write(stored)
    how = ["--domain", "remote-sensing", "--window-sides", "8", "--backbone", small_clip_spec, "--device", "cpu"]
    run("index", str(folder / "land.tif"), *how, "--out", str(folder / "land.index"))
    return folder


def run(*words):
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(*words):
    with pytest.raises(VladaptError) as raised:
        CliRunner().invoke(app, list(words), catch_exceptions=False)
    return str(raised.value)


def read_layer(file, layer=None):
    meta, _, geometry, columns = pyogrio.raw.read(file, layer=layer)
    return meta["crs"], shapely.from_wkb(geometry), dict(zip(meta["fields"], columns))


def test_words_are_answered_by_polygons_in_the_coordinates_of_the_raster(land, tmp_path):
    out = tmp_path / "hits.gpkg"
    found = run("search", str(land / "land.index"), "a pond", "--top", "5", "--out", str(out))
    assert found["out"] == str(out) and len(found["hits"]) == 5
    crs, shapes, columns = read_layer(out)
    assert crs == "EPSG:32633" and columns["rank"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(columns["score"], [hit["score"] for hit in found["hits"]], atol=1e-6)
    for shape, hit, source in zip(shapes, found["hits"], columns["source"]):
        left, top, width, height = hit["decode"]["window"]
        west, north = LEFT + 10 * left, TOP - 10 * top
        assert shapely.equals(shape, shapely.box(west, north - 10 * height, west + 10 * width, north))
        assert source == str(land / "land.tif")


@pytest.mark.parametrize("window", [":8,16,8,8", f"@{LEFT + 80},{TOP - 240},{LEFT + 160},{TOP - 160}"])
def test_a_window_of_a_raster_finds_itself_first(land, window):
    found = run("search", str(land / "land.index"), "--image", f"{land / 'land.tif'}{window}", "--top", "2")
    first, second = found["hits"]
    assert first["decode"]["window"] == [8, 16, 8, 8] and first["score"] > 0.9999 > second["score"]


def test_a_picture_beside_the_raster_may_be_asked_for(land, tmp_path):
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "p.png")
    for example in (tmp_path / "p.png", land / "land.tif"):  # one picture, though it is larger than a window
        assert len(run("search", str(land / "land.index"), "--image", str(example), "--top", "3")["hits"]) == 3


def test_one_query_is_answered_as_a_table_too(land, tmp_path):
    for name in ("hits.csv", "hits.jsonl"):
        run("search", str(land / "land.index"), "a pond", "--top", "3", "--out", str(tmp_path / name))
    lines = (tmp_path / "hits.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[1].startswith("1,a pond,1,")
    (query,) = map(json.loads, (tmp_path / "hits.jsonl").read_text().splitlines())
    assert query["query"] == "a pond" and len(query["hits"]) == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["a pond", "--out", "hits.shp"], "give a file that ends in .jsonl or .csv or .gpkg"),
        (["--image", "{}:8,16,40,8"], "the window does not lie in land.tif, which has 32 x 32 pixels"),
        (["--image", "{}@0,0,10,10"], "which has left,bottom,right,top 500000,4999680,500320,5000000"),
        (["--queries", "q.txt"], "give --out FILE too"),
    ],
)
def test_what_cannot_be_asked_is_one_line(land, more, words):
    more = [each.format(land / "land.tif") for each in more]
    assert words in refusal("search", str(land / "land.index"), *more)


def test_an_index_of_plain_images_has_no_geopackage(small_clip_spec, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    index = str(tmp_path / "x.index")
    run("index", str(tmp_path / "a.png"), "--backbone", small_clip_spec, "--device", "cpu", "--out", index)
    assert refusal("search", index, "a pond", "--out", str(tmp_path / "h.gpkg")).endswith("in .jsonl or .csv")


def items_of(*files):
    return [item for file in files for item in RemoteSensing().read_images([file], window_sides=(8,)).items[:2]]


def test_each_crs_has_a_layer_of_its_own(write_raster, tmp_path):
    stored = np.random.default_rng(0).integers(1, 255, (3, 16, 16)).astype(np.uint8)
    files = [write_raster(f"{zone}.tif", stored, crs=f"EPSG:326{zone}") for zone in (32, 33)]
    items = items_of(*files, write_raster("none.tif", stored, crs=None))
    notes = write_hits(items, [0.5 - k / 10 for k in range(6)], tmp_path / "h.gpkg")
    assert sorted(name for name, _ in pyogrio.list_layers(tmp_path / "h.gpkg")) == [
        "hits EPSG:32632",
        "hits EPSG:32633",
    ]
    crs, shapes, columns = read_layer(tmp_path / "h.gpkg", "hits EPSG:32633")
    assert crs == "EPSG:32633" and columns["rank"].tolist() == [3, 4]
    assert shapely.equals(shapes[0], shapely.Polygon(item_place(items[2]).corners))
    assert "one layer for each of 2" in notes[0] and notes[1].endswith("not in h.gpkg: 2.")
    with pytest.raises(DataError, match=r"nothing says where the results lie; give a \.csv"):
        write_hits(items[4:], [0.1, 0.2], tmp_path / "n.gpkg")
    assert not (tmp_path / "n.gpkg").exists()
