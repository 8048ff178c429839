"""Small valid rasters, label layers and captions, made in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from valid_sets import four_images, put_image, put_json, put_text

VRT = """<VRTDataset rasterXSize="20" rasterYSize="16"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="20" ySize="16"/><DstRect xOff="0" yOff="0" xSize="20" ySize="16"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def rasters(folder: Path) -> list[Path]:
    """Two classes of GeoTIFFs of several kinds and compressions, bands of one place in files of their own, a VRT."""
    files = []
    for n, (kind, how) in enumerate(
        [
            ("uint8", {"compress": "deflate"}),
            ("uint16", {"compress": "lzw", "tiled": True, "blockxsize": 16, "blockysize": 16}),
            ("float32", {"nodata": -1.0}),
            ("complex64", {}),
        ]
    ):
        count = 1 if kind == "complex64" else 4
        files.append(_raster(folder / "data" / "ab"[n % 2] / f"{n}.tif", n, count, kind, **how))
    files += [_raster(folder / "data" / "a" / f"p_B0{band}.tif", band, 1, "uint16") for band in (2, 3, 4)]
    files.append(put_text(folder / "data" / "b" / "v.vrt", VRT.format(name="w.tif")))
    _raster(folder / "data" / "b" / "w.tif", 9, 1, "uint16")
    return files


def layers(folder: Path) -> list[Path]:
    """A raster, and label layers of every kind that lie over it."""
    import pyogrio
    import shapely

    _raster(folder / "field.tif", 1, 3, "uint8", side=96)
    halves = [shapely.box(500_000, 4_999_040, 500_480, 5_000_000), shapely.box(500_480, 4_999_040, 500_960, 5_000_000)]
    files = []
    for name in ("l.gpkg", "l.geojson", "l.shp"):
        pyogrio.raw.write(
            folder / name,
            shapely.to_wkb(np.array(halves)),
            field_data=[np.array(["wheat", "maize"], dtype=object)],
            fields=["label"],
            geometry_type="Polygon",
            crs="EPSG:32633",
        )
        files.append(folder / name)
    classes = np.repeat(np.array([[1, 2]], np.uint8), 48, axis=1)[None].repeat(96, axis=1)
    return [*files, _raster(folder / "classes.tif", 0, 1, "uint8", values=classes)]


def captions(folder: Path) -> list[Path]:
    names = four_images(folder)
    lines = [f"{name},many green trees {n}" for n, name in enumerate(names)]
    return [put_text(folder / "a.csv", "filename,title", *lines)]


def split_lists(folder: Path) -> list[Path]:
    """Class folders with a published split beside them."""
    for n in range(8):
        put_image(folder / "data" / "ab"[n % 2] / f"{n}.png", n)
    train = put_text(folder / "data" / "x-train.txt", *(f"{n}.png" for n in range(4)))
    test = put_text(folder / "data" / "x-test.txt", *(f"{'ab'[n % 2]}/{n}.png" for n in range(4, 8)))
    return [train, test]


def _raster(path: Path, seed: int, count: int, kind: str, side: int = 0, values=None, **how) -> Path:
    import rasterio
    from rasterio.transform import from_origin

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side, side) if side else (16, 20)
    if values is None:
        values = np.random.default_rng(seed).integers(1, 200, (count, height, width)).astype(kind)
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10)}
    shape = dict(zip(("count", "height", "width"), values.shape))
    with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype, **shape, **place, **how) as raster:
        raster.write(values)
    return path


def dota(folder: Path) -> list[Path]:
    """Oriented boxes; what is mutated are the labels."""
    files = []
    for n in range(2):
        put_image(folder / "data" / "images" / f"P{n}.png", n)
        lines = ("imagesource:GoogleEarth", "gsd:0.1", "2 2 9 3 8 9 1 8 small-vehicle 0", "3 3 7 3 7 7 3 7 ship 1")
        files.append(put_text(folder / "data" / "labelTxt" / f"P{n}.txt", *lines))
    return files


def regions(folder: Path) -> list[Path]:
    """anno.json of semantic localisation."""
    points = [[[1, 1], [9, 1], [9, 9]], [[4.5, 4], [12, 4], [12, 12], [4, 12]]]
    entries = [{"jpg_name": f"{n}.jpg", "caption": "a harbour", "points": points[: n + 1]} for n in range(2)]
    return [put_json(folder / "anno.json", entries)]
