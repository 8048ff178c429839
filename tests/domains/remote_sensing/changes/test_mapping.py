"""Maps of change: windows slid over both dates, and files on the grid of the rasters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine import Config
from PIL import Image
from torch import nn

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.remote_sensing.changes.mapping import change_probabilities, map_changes
from vladapt.domains.remote_sensing.changes.reading import read_new
from vladapt.domains.remote_sensing.changes.saving import map_and_save, save_changes
from vladapt.domains.remote_sensing.reading import RemoteSensingReading

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")


class Difference(nn.Module):
    """A model whose probability of change is by how much the first channels differ."""

    def __init__(self, threshold=0.3, side=32, channels=3):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        kept = {"thresholds": {"model": {"value": threshold}}, "side": side, "channels": channels}
        self.cfg, self.shapes = Config({"vladapt": kept}), set()

    def probabilities(self, inputs):
        self.shapes.add(tuple(inputs.shape[-2:]))
        return (inputs[:, 1, 0] - inputs[:, 0, 0]).abs() * self.scale.detach()


@pytest.fixture
def land(write_raster):
    """Two dates of 70 x 100 pixels of 10 m, of which a rectangle of 20 x 30 differs and the first row has no value."""
    before = np.full((3, 70, 100), 50, np.uint8)
    after = before.copy()
    after[:, 20:40, 50:80] = 203
    before[:, 0] = 0
    return [write_raster(f"{name}.tif", array, nodata=0) for name, array in (("before", before), ("after", after))]


def test_blended_windows_have_the_scores_of_each_pixel(land):
    item, model = read_new(land, RemoteSensingReading()).items[0], Difference()
    rows = list(change_probabilities(model, item, 32))
    assert model.shapes == {(32, 32)} and [top for top, _ in rows] == sorted(top for top, _ in rows)
    percent = np.concatenate([part for _, part in rows])
    expected = np.zeros((70, 100), int)
    expected[20:40, 50:80] = 60
    expected[0] = 255
    assert np.array_equal(percent, expected)


@pytest.mark.parametrize("side", [16, 70, 200])
def test_windows_of_any_side_cover_all(land, side):
    percent = np.concatenate(
        [part for _, part in change_probabilities(Difference(), read_new(land, RemoteSensingReading()).items[0], side)]
    )
    assert percent.shape == (70, 100) and (percent == 60).sum() == 600 and (percent == 255).sum() == 100


def test_files_have_the_grid_of_the_dates_and_areas_are_told(land, tmp_path):
    data = read_new(land, RemoteSensingReading())
    (tmp_path / "work").mkdir()
    rows, maps = map_changes(Difference(), data, [tmp_path / "work"], lambda done, total: None)
    assert rows[0]["pixels"] == 600 and rows[0]["area_m2"] == pytest.approx(60_000)
    assert rows[0]["changed"] == pytest.approx(600 / 6900, abs=1e-6) and "m2" in rows[0]["summary"]
    files = save_changes(data.items, maps, {row["id"]: row["threshold"] for row in rows}, tmp_path)
    assert [file.name for file in files] == [
        "before_change.tif",
        "before_probability.tif",
        "before_change.gpkg",
        "before.png",
    ]
    with rasterio.open(files[0]) as mask, rasterio.open(files[1]) as chance, rasterio.open(land[0]) as source:
        assert mask.crs == chance.crs == source.crs and mask.transform == chance.transform == source.transform
        assert mask.nodata == chance.nodata == 255 and mask.is_tiled
        values = mask.read(1)
        assert (values == 1).sum() == 600 and values[20:40, 50:80].all() and (values[0] == 255).all()
        assert set(np.unique(chance.read(1))) == {0, 60, 255}
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    meta, _, shapes, (names, scores, areas) = pyogrio.raw.read(files[2])
    assert len(shapes) == 1 and list(names) == ["change"] and areas[0] == 60_000 and scores[0] == pytest.approx(0.6)
    assert "32633" in meta["crs"] and shapely.from_wkb(shapes[0]).bounds == (500_500, 4_999_600, 500_800, 4_999_800)
    assert np.asarray(Image.open(files[3])).shape[0] == 70 and not list(tmp_path.glob(".*"))


def test_images_that_lie_nowhere_have_masks_and_no_polygons(folders, square, tmp_path):
    data = read_new([folders([square()])], RemoteSensingReading())
    (tmp_path / "work").mkdir()
    rows, maps = map_changes(Difference(), data, [tmp_path / "work"], lambda done, total: None)
    files = save_changes(data.items, maps, {data.items[0].id: 0.3}, tmp_path / "work")
    assert "area_m2" not in rows[0] and [file.suffix for file in files] == [".tif", ".tif", ".png"]


def test_dates_of_other_channels_than_the_training_are_refused(land, tmp_path):
    with pytest.raises(DataError, match=r"before\.tif: has 3 channels, and the model was trained on 4"):
        map_changes(
            Difference(channels=4), read_new(land, RemoteSensingReading()), [tmp_path], lambda done, total: None
        )


def test_a_pixel_is_called_in_the_map_as_it_is_scored(write_raster):
    before = np.zeros((3, 32, 32), np.uint8)
    after = before + np.tile(np.arange(32, dtype=np.uint8), (32, 1)) + 90
    item = read_new(
        [write_raster(f"{n}.tif", each) for n, each in enumerate((before, after))], RemoteSensingReading()
    ).items[0]
    for threshold in (0.3635, 0.4235, 0.38, 0.0, 1.0):
        ((_, percent),) = change_probabilities(Difference(), item, 32, threshold)
        assert np.array_equal(percent >= 100 * threshold, (after[0] / np.float32(255)) >= threshold)
        assert np.abs(percent - after[0] / 2.55).max() <= 1


def test_a_map_that_was_stopped_goes_on_behind_its_finished_rows(land, tmp_path):
    class Stopped(Difference):
        left = 10**6

        def probabilities(self, inputs):
            self.left -= len(inputs)
            if self.left < 0:
                raise KeyboardInterrupt
            return super().probabilities(inputs)

    def written(folder):
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".tif", ".png")}

    def run(model, name, fingerprint="model"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows, files = map_and_save(
            model, read_new(land, RemoteSensingReading()), fingerprint, folder, lambda done, total: None
        )
        assert sorted(files) == sorted(file for file in folder.iterdir() if file.is_file())
        return rows, written(folder), 10**6 - model.left

    whole, model = run(Stopped(side=16), "whole"), Stopped(side=16)
    model.left = whole[2] // 2
    with pytest.raises(KeyboardInterrupt):
        run(model, "again")
    assert written(tmp_path / "again") == {}
    rows, files, asked = run(Stopped(side=16), "again")
    assert (rows, files) == whole[:2] and 0 < asked < whole[2]
    model = Stopped(side=16)
    model.left = whole[2] // 2
    with pytest.raises(KeyboardInterrupt):
        run(model, "other")
    assert run(Stopped(side=16), "other", "another model")[2] == whole[2]


def test_maps_that_a_killed_process_was_moving_are_made_again(land, tmp_path, killed_while_moving):
    def run(folder):
        return map_and_save(
            Difference(), read_new(land, RemoteSensingReading()), "model", folder, lambda done, total: None
        )

    whole, folder = run(tmp_path / "whole"), tmp_path / "out"
    (moved,) = killed_while_moving(lambda: run(folder), folder)
    assert moved.exists() and not (folder / "before.png").exists()
    rows, files = run(folder)
    assert rows == whole[0] and sorted(files) == sorted(folder.iterdir())
    with pytest.raises(ConfigError):
        run(folder)


def test_pairs_are_mapped_without_files_too(land):
    rows, files = map_and_save(Difference(), read_new(land, RemoteSensingReading()), "", None, lambda done, total: None)
    assert rows[0]["pixels"] == 600 and files == []
