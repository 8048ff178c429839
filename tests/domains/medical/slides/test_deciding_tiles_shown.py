"""Which tiles decide, of slides with stored tile features: in rows, in files for QuPath, on pictures, in reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vladapt

h5py = pytest.importorskip("h5py", reason="extra slides is not installed")
shapely = pytest.importorskip("shapely", reason="extra slides is not installed")

SIDE, EDGE, TILES = 512, 4, 12


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Slides of which one tile in 12 makes a tumour: the folder, and where that tile lies (x, y)."""
    folder, rng, rows, places = tmp_path_factory.mktemp("slides"), np.random.default_rng(0), ["slide_id,label"], {}
    (folder / "bags").mkdir()
    for number in range(24):
        grid = np.stack(np.meshgrid(np.arange(EDGE), np.arange(EDGE)), axis=-1).reshape(-1, 2) * SIDE
        coords = grid[np.sort(rng.permutation(len(grid))[:TILES])]
        features, planted = rng.normal(size=(TILES, 6)).astype(np.float32), rng.integers(TILES)
        features[planted, 0] += 9 * (number % 2)
        places[f"s{number:02d}"] = tuple(coords[planted].tolist())
        rows.append(f"s{number:02d},{'tumour' if number % 2 else 'normal'}")
        with h5py.File(folder / "bags" / f"s{number:02d}.h5", "w") as file:
            file["features"], file["coords"] = features, coords
            size = {"level0_width": EDGE * SIDE, "level0_height": EDGE * SIDE}
            file["coords"].attrs.update(patch_size=256, patch_size_level0=SIDE, level0_magnification=40, **size)
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder, places


@pytest.fixture(scope="module")
def run(slides, tmp_path_factory):
    options = {"name": "abmil", "embed": 0, "hidden": 8, "epochs": 5, "lr": 5e-2}
    of = {"data": str(slides[0] / "table.csv"), "bags": str(slides[0] / "bags"), "adapter": options, "shots": "all"}
    return vladapt.fit(domain="medical", **of, device="cpu", out=str(tmp_path_factory.mktemp("runs"))).run


def test_the_planted_tile_is_the_first_in_rows_and_in_files_for_qupath(run, slides, tmp_path):
    folder, places = slides
    files = [folder / "bags" / f"s{number:02d}.h5" for number in range(1, 12, 2)]
    made = vladapt.predict(run, files, explain="auto", out=tmp_path / "why", device="cpu")
    whole = shapely.box(0, 0, EDGE * SIDE, EDGE * SIDE)
    for file, row in zip(files, made.rows()):
        why = row["explanation"]
        assert why["weights"] == "attention" and len(why["parts"]) == 5
        best = why["parts"][0]["x"], why["parts"][0]["y"]
        features = json.loads(Path(why["geojson"]).read_text())["features"]
        squares = [shapely.from_geojson(json.dumps(each["geometry"])) for each in features]
        assert len(squares) == TILES and all(each.area == SIDE**2 and whole.covers(each) for each in squares)
        assert squares[0].bounds[:2] == best and features[0]["properties"]["classification"]["name"] == row["label"]
        assert best == places[file.stem]
    picture = np.asarray(Image.open(made.rows()[0]["explanation"]["tile_map"]))
    assert picture.ndim == 3 and max(picture.shape) == 1024
    page = (tmp_path / "why" / "explanations.html").read_text(encoding="utf-8")
    assert "Tiles with the largest weights" in page and "can no longer be read" not in page


def test_reports_show_the_surest_slides_with_their_tiles(run, tmp_path):
    report = (Path(run) / "report.html").read_text(encoding="utf-8")
    assert "Deciding tiles" in report and "where the method looked" in report
    assert " slide.h5" in report and "image.png" not in report, "what the run predicts"
    assert "test slides" in report and "test images" not in report
    vladapt.evaluate(run, out=tmp_path / "scored", device="cpu")
    assert "Deciding tiles" in (tmp_path / "scored" / "report.html").read_text(encoding="utf-8")
