"""What was found in rasters, as files in their coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt import load_domain
from vladapt.core.contracts.items import DomainData, Item
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.objects import encoded_mask

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
pytest.importorskip("pycocotools")


@pytest.fixture
def data(write_raster, tmp_path):
    """Two windows of a raster of 20 x 30 pixels of 10 m, and a picture that lies nowhere."""
    file = write_raster(tmp_path / "field.tif", np.full((3, 20, 30), 9, np.uint8))
    windows = [
        Item(f"field.tif#0_{left}", file, {"window": [left, 0, 20, 20], Item.WHOLE: [20, 30]}, apart=True)
        for left in (0, 10)
    ]
    return DomainData([*windows, Item("a.png", tmp_path / "a.png")], (), load=lambda item: None)


def test_boxes_are_a_geopackage_in_the_raster_s_coordinates(data, tmp_path):
    rows = [
        {"id": "field.tif", "boxes": [[1, 2, 4, 8], [10, 0, 30, 20]], "labels": ["roof", "pond"], "scores": [0.9, 0.2]},
        {"id": "a.png", "boxes": [[0, 0, 1, 1]], "labels": ["roof"], "scores": [0.5]},
    ]
    (file,) = RemoteSensing().further_files(rows, data, ("pond", "roof"), tmp_path)
    with rasterio.open(data.items[0].source) as raster:
        wanted = [raster.transform * corner for corner in ((1, 2), (4, 8))]
        crs = raster.crs
    meta, _, geometry, values = pyogrio.raw.read(file)
    assert rasterio.crs.CRS.from_user_input(meta["crs"]) == crs
    low, high = np.reshape(shapely.bounds(shapely.from_wkb(geometry))[0], (2, 2))
    assert np.allclose(low, np.min(wanted, axis=0)) and np.allclose(high, np.max(wanted, axis=0))
    columns = dict(zip(meta["fields"], values))
    assert columns["label"].tolist() == ["roof", "pond"] and columns["score"].tolist() == [0.9, 0.2]
    assert RemoteSensing().further_files(rows, data, ("pond", "roof"), tmp_path) == [file]  # written anew


def test_masks_are_a_geotiff_of_classes_over_the_whole_raster(data, tmp_path):
    left, right = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    left[:, :10], right[5:, 12:] = True, True
    rows = [{"id": "field.tif", "size": [20, 30], "masks": {"pond": encoded_mask(left), "roof": encoded_mask(right)}}]
    (file,) = RemoteSensing().further_files(rows, data, ("background", "pond", "roof"), tmp_path)
    with rasterio.open(file) as made, rasterio.open(data.items[0].source) as raster:
        assert (made.crs, made.transform, made.shape) == (raster.crs, raster.transform, raster.shape)
        assert made.tags()["class_2"] == "roof" and made.nodata == 255
        assert (made.read(1) == np.select([left, right], [1, 2], 255)).all()


def test_a_domain_without_forms_of_its_own_writes_nothing(data, tmp_path):
    assert load_domain("natural").further_files([{"id": "a.png"}], data, (), tmp_path) == []
