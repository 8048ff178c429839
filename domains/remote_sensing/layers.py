"""Label layers: what is where, as polygons, boxes and points (GeoPackage, GeoJSON, Shapefile), or a raster of classes.

Coordinates are brought to those of the raster that is labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...core.data import Table, stays_inside
from ...core.errors import CapabilityError, DataError, did_you_mean, shortened
from ...core.runtime import check_regular, read_start
from .gdal import DRIVERS, INSTALL, NO_NETWORK, reprojected
from .rasters import Header, OpenRaster, header_of, open_raster
from .scene_sets import bare_name

STARTS = {
    ".gpkg": (b"SQLite format 3\0",),
    ".shp": (b"\0\0'\n",),
    ".geojson": (b"{",),
    ".json": (b"{",),
}
"""Kind of file -> how it begins: GDAL decides by content, and other content could name files and addresses."""
CLASS_COLUMNS = (*Table.LABEL, "type", "crop", "landuse", "landcover", "code", "value")
MOST_SHAPES = 5_000_000
MOST_CLASSES = 1000
PIXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Shapes:
    """A layer of shapes.

    Args:
        geometries: N shapely geometries, in `crs`.
        classes: of each, an index into `names`.
        names: of the classes.
        crs: as text, "" for none.
        notes: sentences for the user.
    """

    path: Path
    geometries: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]
    crs: str
    notes: list[str] = field(default_factory=list)

    def on(self, header: Header, raster: Path) -> np.ndarray:
        """The geometries in the coordinates of a raster.

        Raises:
            DataError: one of both has no CRS, or the layer lies elsewhere on earth.
        """
        import shapely

        if bool(self.crs) != bool(header.crs):
            which = self.path if not self.crs else raster
            raise DataError(f"{which}: has no CRS, but what it is laid over has one; add its CRS")
        if header.transform is None:
            raise DataError(f"{raster}: has no transform, which a label layer needs; add one")
        geometries = self.geometries
        if self.crs and self.crs != header.crs:
            geometries = shapely.transform(geometries, lambda xy: _moved(xy, self.crs, header.crs, self.path))
        return geometries


@dataclass(frozen=True)
class ClassRaster:
    """A raster whose pixels are classes.

    Args:
        values: the stored values that are classes, in order.
        names: of the classes.
    """

    path: Path
    values: tuple[int, ...]
    names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    def counts(self, raster: Path, files: Sequence[Path], boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
        """(N, C) shares of each window of a raster that each class covers; the layer is read window by window.

        Args:
            raster: what it is called in messages.
            files: of it.
            boxes: N times (left, top, width, height) in its pixels.

        Raises:
            DataError: it lies elsewhere on earth, or has no CRS and another size.
        """
        target = header_of(files)
        self.check_place(target, raster)
        covered = np.zeros((len(boxes), len(self.names)))
        values = np.array(self.values)
        with self.over(target) as layer:
            for number, box in enumerate(boxes):
                stored, there = layer.read([0], box)
                places = np.searchsorted(values, stored[0][there].astype(np.int64))
                covered[number] = np.bincount(places, minlength=len(values) + 1)[: len(values)] / there.size
        if not covered.any():
            raise DataError(
                f"{self.path}: lies elsewhere on earth than {raster.name}, or has no value there; give the "
                "layer of that place"
            )
        return covered

    def check_place(self, header: Header, raster: Path) -> None:
        """Raise the DataError of a layer of which nothing says how it lies over a raster."""
        own = header_of([self.path])
        if bool(own.crs) != bool(header.crs) or (not own.crs and own.grid != header.grid):
            raise DataError(f"{self.path}: differs in size from {raster.name}, and no CRS says where it lies; add one")

    def over(self, header: Header) -> AbstractContextManager[OpenRaster]:
        """The layer, opened in the pixels of a raster."""
        grid = None if header_of([self.path]).grid == header.grid else header
        return open_raster([self.path], grid=grid, classes=True)

    def places(self, layer: OpenRaster, box: tuple[int, int, int, int]) -> np.ndarray:
        """(H, W) which of the values a window has, -1 where it has none of them.

        Args:
            layer: as `over` opens it.
            box: (left, top, width, height).
        """
        values = np.array(self.values)
        stored, there = layer.read([0], box)
        places = np.searchsorted(values, stored[0].astype(np.int64)).clip(max=len(values) - 1)
        return np.where(there & (values[places] == stored[0]), places, -1)


def read_layer(
    path: Path, column: str | None, class_names: Sequence[str] | None, one_class: bool = False
) -> Shapes | ClassRaster:
    """A label layer of whatever kind.

    Args:
        path: .gpkg, .geojson, .json or .shp; or a raster of classes.
        column: the attribute that names the class; by default one of the usual names.
        class_names: of shapes, the classes in order; of a raster, names of its values in order.
        one_class: all shapes are of one class, which no attribute need name.

    Raises:
        DataError: it cannot be read, has no such column, or names no class. CapabilityError: a package is missing.
    """
    if path.suffix.lower() in DRIVERS:
        return _class_raster(path, class_names)
    if path.suffix.lower() not in STARTS:
        kinds = " ".join([*STARTS, *DRIVERS])
        raise DataError(f"{path}: not a label layer of a known kind; known: {kinds}")
    return _shapes(path, column, class_names, one_class)


def _class_raster(path: Path, class_names: Sequence[str] | None) -> ClassRaster:
    with open_raster([path], classes=True) as raster:
        if np.dtype(raster.header.kinds[0]).kind not in "iu" or len(raster.header.kinds) != 1:
            raise DataError(f"{path}: a raster of classes must have one band of whole numbers; convert it")
        values = _values_of(raster)
    if not 1 <= len(values) <= MOST_CLASSES:
        raise DataError(f"{path}: has {len(values)} different values; give a raster of 1 to {MOST_CLASSES} classes")
    names = tuple(class_names or (f"class {value}" for value in values))
    if len(names) != len(values):
        listed = shortened(", ".join(map(str, values)))
        raise DataError(
            f"{path}: has the values {listed}, but class_names names {len(names)}; name each value in order"
        )
    return ClassRaster(path, tuple(values.tolist()), names)


def _values_of(raster: OpenRaster) -> np.ndarray:
    """All values of the first band, read some rows at a time."""
    header, values = raster.header, np.zeros(0, np.int64)
    rows = max(1, PIXELS_AT_ONCE // header.width)
    for top in range(0, header.height, rows):
        stored, there = raster.read([0], (0, top, header.width, min(rows, header.height - top)))
        values = np.union1d(values, stored[0][there].astype(np.int64))
        if len(values) > MOST_CLASSES:
            break
    return values


def _shapes(path: Path, column: str | None, class_names: Sequence[str] | None, one_class: bool) -> Shapes:
    shapely, meta, wkb, columns = _read(path)
    geometries = shapely.from_wkb(wkb, on_invalid="ignore")
    usable = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    if not usable.any():
        raise DataError(f"{path}: holds no shapes; give a layer of points, polygons or boxes")
    if one_class:
        shapes = shapely.make_valid(geometries[usable])
        return Shapes(path, shapes, np.zeros(len(shapes), np.int64), (path.stem,), meta["crs"] or "")
    named = _class_column(path, columns, column)
    texts = np.array([_text(value) for value in columns[named]], dtype=object)
    usable &= texts != ""
    names = tuple(class_names or sorted(set(texts[usable])))
    index = {name: i for i, name in enumerate(names)}
    if unknown := sorted(set(texts[usable]) - set(names)):
        raise DataError(f"{path}: class '{shortened(unknown[0])}' is not in the class list; correct class_names")
    classes = np.array([index[text] for text in texts[usable]], dtype=np.int64)
    notes = [f"Classes are column '{named}' of the label layer."]
    if left := int((~usable).sum()):
        notes.append(f"Shapes without a geometry or a class, left out: {left}.")
    shapes = geometries[usable]
    broken = ~shapely.is_valid(shapes)
    shapes = np.where(broken, shapely.make_valid(shapes), shapes) if broken.any() else shapes
    return Shapes(path, shapes, classes, names, meta["crs"] or "", notes)


def _read(path: Path) -> tuple[Any, dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise CapabilityError(INSTALL.replace("rasters need rasterio", "label layers need pyogrio")) from error
    check_regular(path)
    kind = path.suffix.lower()
    if not read_start(path, 64).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(STARTS[kind]):
        raise DataError(f"{path}: its content is not what its name says; give a GeoPackage, GeoJSON or Shapefile")
    siblings = [path.with_suffix(suffix) for suffix in (".dbf", ".shx", ".prj", ".cpg")] if kind == ".shp" else []
    if any(file.exists() and not stays_inside(file, path.parent) for file in siblings):
        raise DataError(f"{path}: a part of it is a link out of its folder; copy the file there")
    # a Shapefile is several files, which must be seen; those of the others are not needed
    options = {name: value for name, value in NO_NETWORK.items() if name != "GDAL_DISABLE_READDIR_ON_OPEN"}
    try:
        pyogrio.set_gdal_config_options(options)
        layers = pyogrio.list_layers(path)
        if len(layers) == 0:
            raise DataError(f"{path}: holds no layer; give a layer of points, polygons or boxes")
        meta, _, geometry, values = pyogrio.raw.read(path, layer=layers[0][0], max_features=MOST_SHAPES)
    except DataError:
        raise
    except Exception as error:  # pyogrio's errors have no common base
        raise DataError(
            f"{path}: damaged label layer ({shortened(' '.join(str(error).split()), 160)}); make or copy it again"
        ) from None
    if geometry is None:
        raise DataError(f"{path}: holds a table without shapes; give a layer of points, polygons or boxes")
    return shapely, meta, geometry, dict(zip(map(str, meta["fields"]), values))


def _class_column(path: Path, columns: dict[str, np.ndarray], asked: str | None) -> str:
    if asked is not None:
        if asked not in columns:
            raise DataError(f"{path}: has no column '{shortened(asked)}'; {did_you_mean(asked, columns)}")
        return asked
    by_name = {bare_name(name): name for name in columns}
    usual = [by_name[bare_name(name)] for name in CLASS_COLUMNS if bare_name(name) in by_name]
    texts = [name for name, values in columns.items() if values.dtype == object]
    if usual or len(texts) == 1:
        return (usual or texts)[0]
    listed = ", ".join(columns) or "none"
    raise DataError(f"{path}: it is not clear which column names the class; give --label-column (columns: {listed})")


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN differs from itself
        return ""
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value)) if whole else str(value).strip()


def _moved(xy: np.ndarray, source: str, target: str, path: Path) -> np.ndarray:
    return np.column_stack(reprojected(xy[:, 0], xy[:, 1], source, target, path))
