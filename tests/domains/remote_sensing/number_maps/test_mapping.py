"""Maps of numbers: in the coordinates of their image, whatever the windows; finished after a stop; and refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from vladapt.core.contracts import Item
from vladapt.core.errors import ConfigError, DataError

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

import rasterio

from vladapt.domains.remote_sensing.maps import strips
from vladapt.domains.remote_sensing.number_maps import map_rasters, mapping


def quiet(done, total):
    pass


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(1, 255, (3, height, width)).astype(np.uint8)


def item(file):
    return Item(file.name, file)


@pytest.fixture
def image(write_raster):
    values = pixels(37, 50)
    values[:, :9, :7] = 0
    return write_raster("scene.tif", values, nodata=0)


def read(file):
    with rasterio.open(file) as made:
        names = ("crs", "transform", "shape", "descriptions", "units", "nodata", "profile", "dtypes", "count")
        return made.read(masked=True), SimpleNamespace(**{name: getattr(made, name) for name in names})


def test_a_map_lies_where_its_image_does(image, reddest, tmp_path):
    rows, files, skipped = map_rasters(reddest(16), [item(image)], "run", tmp_path / "out", quiet)
    values, made = read(files[0])
    with rasterio.open(image) as source:
        assert (made.crs, made.transform, made.shape) == (source.crs, source.transform, source.shape)
        red = source.read(1)
    assert made.descriptions == ("canopy height",) and made.units == ("m",) and np.isnan(made.nodata) and not skipped
    assert made.profile["tiled"] and made.profile["compress"] == "deflate" and made.dtypes == ("float32",)
    assert np.allclose(values[0].filled(0), np.where(red > 0, red / 2.55, 0), atol=1e-3)  # of a model of single pixels
    assert values.mask[0, :9, :7].all() and values.mask.sum() == 63
    (row,) = rows
    assert row["pixels"] == 37 * 50 - 63 and row["mean"] == pytest.approx(float(values.mean()), rel=1e-4)
    assert row["lowest"] == pytest.approx(float(values.min())) and "m" in row["summary"]
    assert files[1].name == "scene.png" and files[1].stat().st_size > 1000


def test_intervals_are_further_bands(image, reddest, tmp_path):
    _, files, _ = map_rasters(reddest(16, reach=2.0), [item(image)], "run", tmp_path / "out", quiet)
    values, made = read(files[0])
    with rasterio.open(image) as source:
        half = source.read(2) / 25.5 * 2
    assert made.count == 3 and "lower end of 90%" in made.descriptions[1]
    assert np.allclose(values[2] - values[0], half, atol=1e-3) and np.allclose(values[0] - values[1], half, atol=1e-3)


def test_a_map_goes_on_where_it_was_stopped(image, reddest, tmp_path, monkeypatch):
    whole = reddest(16)
    map_rasters(whole, [item(image)], "run", tmp_path / "whole", quiet)
    stopped, write, written = reddest(16), strips.write_whole, []

    def stops(file, content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file)
        write(file, content)

    monkeypatch.setattr(strips, "write_whole", stops)
    with pytest.raises(KeyboardInterrupt):
        map_rasters(stopped, [item(image)], "run", tmp_path / "out", quiet)
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob("*.tif")) and all(file.is_file() for file in written)
    again = reddest(16)
    map_rasters(again, [item(image)], "run", tmp_path / "out", quiet)
    assert 0 < again.model.asked < whole.model.asked
    one, other = (read(tmp_path / name / "scene.tif")[0] for name in ("whole", "out"))
    assert np.array_equal(one.filled(-1), other.filled(-1)) and np.array_equal(one.mask, other.mask)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["scene.png", "scene.tif"]


def test_maps_that_a_killed_process_was_moving_are_made_again(
    image, write_raster, reddest, tmp_path, killed_while_moving
):
    images, folder = [item(image), item(write_raster("other.tif", pixels(20, 30)))], tmp_path / "out"
    map_rasters(reddest(16), images, "run", tmp_path / "whole", quiet)
    (moved,) = killed_while_moving(lambda: map_rasters(reddest(16), images, "run", folder, quiet), folder)
    assert moved.exists() and not (folder / "other.tif").exists()
    with pytest.raises(ConfigError):
        map_rasters(reddest(16), images, "another run", folder, quiet)
    again = reddest(16)
    _, files, _ = map_rasters(again, images, "run", folder, quiet)
    assert again.model.asked == 0 and sorted(files) == sorted(folder.iterdir())
    for file in files:
        assert file.read_bytes() == (tmp_path / "whole" / file.name).read_bytes()
    with pytest.raises(ConfigError):
        map_rasters(reddest(16), images, "run", folder, quiet)


def test_a_file_in_the_place_of_one_that_was_moved_is_not_replaced(image, reddest, tmp_path, killed_while_moving):
    folder = tmp_path / "out"
    (moved,) = killed_while_moving(lambda: map_rasters(reddest(16), [item(image)], "run", folder, quiet), folder)
    moved.write_bytes(b"mine")
    with pytest.raises(ConfigError):
        map_rasters(reddest(16), [item(image)], "run", folder, quiet)
    assert moved.read_bytes() == b"mine"


def test_a_raster_that_comes_twice_has_two_maps(image, reddest, tmp_path):
    _, files, _ = map_rasters(reddest(16), [item(image)] * 2, "run", tmp_path / "out", quiet)
    assert [file.name for file in files] == ["scene.tif", "scene.png", "scene_2.tif", "scene_2.png"]


def test_a_damaged_strip_is_made_again(image, reddest, tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "_written", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        map_rasters(reddest(16), [item(image)], "run", tmp_path / "out", quiet)
    monkeypatch.undo()
    strips = sorted(tmp_path.rglob("windows-*"))
    strips[1].write_bytes(strips[1].read_bytes()[:20])
    again = reddest(16)
    map_rasters(again, [item(image)], "run", tmp_path / "out", quiet)
    assert again.model.asked > 0 and (tmp_path / "out" / "scene.tif").is_file()


def test_an_image_smaller_than_a_window_and_a_plain_picture_are_mapped(write_raster, reddest, tmp_path):
    from PIL import Image

    small, picture = write_raster("small.tif", pixels(9, 12)), tmp_path / "plain.png"
    Image.fromarray(pixels(20, 24).transpose(1, 2, 0).copy()).save(picture)
    rows, files, _ = map_rasters(reddest(16), [item(small), item(picture)], "run", tmp_path / "out", quiet)
    assert [row["pixels"] for row in rows] == [9 * 12, 20 * 24] and read(files[2])[1].crs is None


def test_a_plain_picture_is_decoded_once(reddest, tmp_path, monkeypatch):
    from PIL import Image

    picture, decoded, decode = tmp_path / "plain.png", [], mapping.masked_pixels
    Image.fromarray(pixels(40, 24).transpose(1, 2, 0).copy()).save(picture)
    monkeypatch.setattr(mapping, "masked_pixels", lambda *of: decoded.append(of) or decode(*of))
    map_rasters(reddest(16), [item(picture)], "run", None, quiet)
    assert len(decoded) == 1


def test_what_cannot_be_mapped_is_said(write_raster, reddest, image, tmp_path):
    empty = write_raster("empty.tif", np.zeros((3, 20, 20), np.uint8), nodata=0)
    rows, _, skipped = map_rasters(reddest(16), [item(image), item(empty)], "run", tmp_path / "out", quiet)
    assert len(rows) == 1 and skipped[0][0] == "empty.tif" and "no pixel of it has a value" in skipped[0][1]
    with pytest.raises(DataError, match="no pixel of it has a value"):
        map_rasters(reddest(16), [item(empty)], "run", tmp_path / "more", quiet)
    with pytest.raises(ConfigError, match=r"scene.tif: already exists"):
        map_rasters(reddest(16), [item(image)], "run", tmp_path / "out", quiet)
    with pytest.raises(DataError, match=r"scene.tif: has 3 channels, but the model learned 4"):
        map_rasters(reddest(16, channels=4), [item(image)], "run", tmp_path / "four", quiet)
