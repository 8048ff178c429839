"""Remote sensing by the command line: what a run keeps of its rasters, and what a random split would have said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
shapely = pytest.importorskip("shapely", reason="extra remote-sensing is not installed")


def put(file: Path, values: np.ndarray, left: float = 5e5) -> Path:
    from rasterio.transform import from_origin

    file.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(
        file, "w", "GTiff", crs="EPSG:32633", transform=from_origin(left, 5e6, 10, 10), **shape
    ) as raster:
        raster.write(values)
    return file


@pytest.fixture
def fit(vladapt, small_clip_spec):
    def call(*arguments):
        how = ("--domain", "remote-sensing", "--backbone", small_clip_spec, "--adapter", "tip-adapter", "--shots", 2)
        return vladapt("fit", *how, "--set", "adapter.views=0", *arguments)

    return call


@pytest.fixture
def deep_scenes(tmp_path) -> Path:
    """Ten scenes of two classes in 16 bits, each 20 km from the next."""
    drawn = np.random.default_rng(0)
    for label, name in enumerate(("SeaLake", "Forest")):
        for n in range(5):
            values = drawn.integers(1000, 1500, (4, 24, 24)) + 3000 * label
            put(tmp_path / "scenes" / name / f"{name}_{n}.tif", values.astype(np.uint16), 5e5 + 2e4 * (2 * n + label))
    return tmp_path / "scenes"


def test_a_run_keeps_the_bands_and_the_stretch_of_its_rasters(fit, vladapt, deep_scenes):
    made = fit("--data", deep_scenes, "--bands", "3,2,1", "--json")
    assert made.code == 0, made.err
    info = json.loads((Path(made.json["run"]) / "run.json").read_text())
    kept = info["recipe"]["data"]
    assert kept["bands"] == "3,2,1" and len(kept["stretch"]) == 6 and kept["stretch"][0] < kept["stretch"][1]
    assert info["class_names"] == ["forest", "sea lake"]
    dark = deep_scenes / "SeaLake" / "SeaLake_0.tif"
    answers = vladapt("predict", made.json["run"], dark, "--json")
    assert answers.code == 0, answers.err
    again = vladapt("eval", made.json["run"], "--json")
    assert again.code == 0 and again.json["adapted"] == made.json["adapted"]


def test_other_rasters_are_stretched_as_those_of_the_fit(fit, vladapt, deep_scenes, tmp_path):
    """A dark scene alone would be as bright as a bright one, were it stretched by its own values."""
    run = fit("--data", deep_scenes, "--bands", "1", "--json").json["run"]
    values = np.random.default_rng(9).integers(1000, 1500, (4, 24, 24)).astype(np.uint16)
    dark, bright = put(tmp_path / "dark.tif", values), put(tmp_path / "bright.tif", values + np.uint16(3000))
    named = {}
    for file in (dark, bright):
        out = vladapt("predict", run, file, "--json").json
        named[file.stem] = json.dumps(out)
    assert '"label": "sea lake"' in named["dark"] and '"label": "forest"' in named["bright"]


@pytest.fixture
def field(tmp_path):
    """Stripes of two crops, 960 m square, and their polygons."""
    drawn = np.random.default_rng(0)
    crops = np.arange(96) // 16 % 2
    values = drawn.integers(0, 120, (3, 96, 96)) + 120 * crops[None, None]
    raster = put(tmp_path / "field.tif", values.astype(np.uint8))
    stripes = [shapely.box(5e5 + 160 * n, 5e6 - 960, 5e5 + 160 * n + 160, 5e6) for n in range(6)]
    labels = np.array([("wheat", "maize")[n % 2] for n in range(6)], dtype=object)
    pyogrio.raw.write(
        tmp_path / "crops.gpkg",
        shapely.to_wkb(np.array(stripes)),
        field_data=[labels],
        fields=["crop"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    return raster, tmp_path / "crops.gpkg"


WINDOWS = ("--window-size", 16, "--overlap", 0, "--block-size", 320)


def test_windows_of_a_raster_are_learned_and_a_random_split_is_shown_beside(fit, vladapt, field):
    raster, layer = field
    made = fit("--data", raster, "--labels", layer, *WINDOWS, "--json")
    assert made.code == 0, made.err
    run = Path(made.json["run"])
    metrics, info = json.loads((run / "metrics.json").read_text()), json.loads((run / "run.json").read_text())
    beside = metrics["random_split"]
    assert beside["blocks"] == "blocks of 320 m" and 0 <= beside["accuracy"] <= 1 and beside["test_images"] >= 2
    assert any("Split by place (blocks of 320 m)" in note and "a random split" in note for note in info["notes"])
    assert "Split by place, and at random" in (run / "report.html").read_text()
    rows = vladapt("predict", run, raster, "--json")
    assert rows.code == 0 and rows.out.count("field.tif#") >= 36


def test_without_blocks_there_is_nothing_beside(fit, field):
    raster, layer = field
    made = fit("--data", raster, "--labels", layer, *WINDOWS[:-1], 0, "--json")
    assert made.code == 0, made.err
    run = Path(made.json["run"])
    assert "random_split" not in json.loads((run / "metrics.json").read_text())
    assert "Split by place" not in (run / "report.html").read_text()


def test_a_redacted_run_does_not_tell_the_label_layer(fit, field):
    raster, layer = field
    made = fit("--data", raster, "--labels", layer, *WINDOWS, "--redact", "--json")
    assert made.code == 0, made.err
    assert "crops.gpkg" not in (Path(made.json["run"]) / "run.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bands", "9"), "has no band 9, only 4"),
        (("--bands", "1,2"), "2 channels in '1,2'"),
        (("--sensor", "sentinel"), "did you mean sentinel-2"),
        (("--stretch", "5,1"), "lowest and highest value"),
        (("--corpus", "imagenet"), "corpus"),
        (("--block-size", "500000"), "less than two blocks of 500 km"),
    ],
)
def test_wrong_options_are_one_line(fit, deep_scenes, arguments, words):
    outcome = fit("--data", deep_scenes, *arguments)
    assert outcome.code in (1, 2) and words in outcome.error


@pytest.mark.thorough
def test_captions_are_retrieved(vladapt, small_clip_spec):
    how = ("--domain", "remote-sensing", "--task", "retrieval", "--backbone", small_clip_spec)
    made = vladapt("fit", *how, "--adapter", "lit", "--epochs", 1, "--json")
    assert made.code == 0, made.err
    info = json.loads((Path(made.json["run"]) / "run.json").read_text())
    assert info["domain"] == "remote-sensing" and info["data"]["images"] == 132 and info["data"]["texts"] == 3 * 132


# maps -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_on_windows(fit, field):
    made = fit("--data", field[0], "--labels", field[1], *WINDOWS, "--json")
    assert made.code == 0, made.err
    return made.json["run"]


def test_a_map_says_of_pixels_what_rows_say_of_windows(run_on_windows, vladapt, field, tmp_path):
    raster, layer = field
    out = ("--out", tmp_path / "map.tif", "--out", tmp_path / "map.html", "--labels", layer)
    shown = vladapt("predict", run_on_windows, raster, *out)
    assert shown.code == 0, shown.err
    assert "maize" in shown.out and "user's" in shown.out and "Accuracy by area" in shown.out
    assert "the accuracy flatters the map" in " ".join(shown.out.split())
    for name in ("map.tif", "map_scores.tif", "map.gpkg", "map.geojson", "map_accuracy.json", "map.html"):
        assert (tmp_path / name).is_file() and name in shown.out.replace("\n", "")
    rows = vladapt("predict", run_on_windows, raster, "--json").json["predictions"]
    with rasterio.open(tmp_path / "map.tif") as of_class, rasterio.open(tmp_path / "map_scores.tif") as of_score:
        names = {number: of_class.tags(1)[f"CLASS_{number}"] for number in (1, 2)}
        for row in rows:
            top, left = map(int, row["id"].rpartition("#")[2].split("_"))
            window = rasterio.windows.Window(left, top, 16, 16)
            assert {names[number] for number in np.unique(of_class.read(1, window=window))} == {row["label"]}
            assert abs(of_score.read(1, window=window) - 100.0 * row["confidence"]).max() <= 0.51
    again = vladapt("predict", run_on_windows, raster, *out)
    assert again.code == 2 and "map.tif: already exists" in again.error


def test_a_page_is_a_map_of_rasters_and_what_no_map_answers_is_one_line(run_on_windows, vladapt, field, tmp_path):
    page = vladapt("predict", run_on_windows, field[0], "--out", tmp_path / "map.html")
    assert page.code == 0 and "flatters" not in page.out
    assert "Transparency of the classes" in (tmp_path / "map.html").read_text()
    picture = tmp_path / "photo.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture)
    assert vladapt("predict", run_on_windows, picture, "--out", tmp_path / "rows.html").code == 0
    assert "Image by image" in (tmp_path / "rows.html").read_text()
    before = sorted(tmp_path.iterdir())
    for arguments, words in (
        (("--out", tmp_path / "map.png"), "maps are not written as files of that kind"),
        (("--out", tmp_path / "map.tif", "--coverage", "0.9"), "--coverage: applies to tables of predictions"),
        (("--out", tmp_path / "map.tif", "--labels", tmp_path / "absent.gpkg"), "absent.gpkg"),
        (("--out", tmp_path / "map.tif", "--stream"), "--stream: files of the domain are not made from a stream"),
    ):
        outcome = vladapt("predict", run_on_windows, field[0], *arguments)
        assert outcome.code in (1, 2) and words in outcome.error and sorted(tmp_path.iterdir()) == before


def test_a_run_of_whole_pictures_maps_where_the_windows_are_said(fit, vladapt, deep_scenes, field, tmp_path):
    run = fit("--data", deep_scenes, "--bands", "3,2,1", "--json").json["run"]
    untold = vladapt("predict", run, field[0], "--out", tmp_path / "map.tif")
    assert untold.code == 2 and "give --window-size" in untold.error and not (tmp_path / "map.tif").exists()
    told = vladapt("predict", run, field[0], "--out", tmp_path / "maps", "--window-size", 24, "--json")
    assert told.code == 0, told.err
    assert {fact["class"] for fact in told.json["predictions"]} == {"forest", "sea lake"}
    assert len(told.json["files"]) == 5 and sum(fact["pixels"] for fact in told.json["predictions"]) == 96 * 96
