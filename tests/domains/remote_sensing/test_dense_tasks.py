"""Segmentation by names on windows of a raster: fitted, asked of the whole raster, and joined in its coordinates."""

from __future__ import annotations

import json

import numpy as np
import pytest

import vladapt
from vladapt.core.recipes.resolve import resolve

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
pyogrio = pytest.importorskip("pyogrio")


def test_a_raster_is_segmented_by_names_and_the_map_lies_where_it_does(write_raster, small_clip_spec, tmp_path):
    values = np.full((4, 32, 64), 500, np.uint16)
    values[0, :, 20:44] = 4000
    raster = write_raster(tmp_path / "field.tif", values)
    layer, left, top = tmp_path / "areas.gpkg", 500_000, 5_000_000
    area = shapely.box(left + 200, top - 320, left + 440, top)
    names = {"field_data": [np.array(["water"], object)], "fields": ["label"]}
    pyogrio.raw.write(
        layer, geometry=shapely.to_wkb(np.array([area])), geometry_type="Polygon", crs="EPSG:32633", **names
    )
    flags = {
        "domain": "remote-sensing",
        "task": "segmentation",
        "data.path": str(raster),
        "data.labels": str(layer),
        "data.bands": "1,2,3",
        "data.window_size": 16,
        "data.block_size": 160,
        "backbone": small_clip_spec,
        "out": str(tmp_path / "runs"),
    }
    sets = ("plan.model.crop=16", "plan.model.short_side=16")
    result = vladapt.fit(resolve(recipe="open-vocab/sclip", sets=sets, flags=flags))
    recipe = json.loads((result.run / "run.json").read_text())["recipe"]
    assert recipe["data"]["stretch"] and recipe["data"]["window_size"] == 16
    predicted = vladapt.predict(result.run, [str(raster)], out=str(tmp_path / "found"))
    (row,) = predicted.rows()
    assert row["id"] == str(raster) and row["size"] == [32, 64] and abs(sum(row["shares"].values()) - 1) < 1e-3
    with rasterio.open(tmp_path / "found" / "maps" / "field.tif") as made, rasterio.open(raster) as source:
        assert (made.crs, made.transform, made.shape) == (source.crs, source.transform, source.shape)
        shares = {made.tags()[f"class_{k}"]: (made.read(1) == k).mean() for k in range(2)}
    assert {name: share for name, share in shares.items() if share} == pytest.approx(row["shares"], abs=1e-4)
