"""A reference laid over a map: a sample of places whose true class a label layer says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ....core.errors import DataError, shortened
from ..gdal import reprojected
from ..layers import ClassRaster, Shapes, read_layer
from ..rasters import Header, header_of
from ..scene_sets import bare_name, spoken_name
from .accuracy import MapAccuracy, map_accuracy
from .rasters import NOTHING, Tally, strip_place, strip_rows, strips_of

PER_CLASS = 1000
"""Pixels that are drawn from each class of the map, where the reference covers areas."""
ELSEWHERE = "lies elsewhere on earth than"


class ElsewhereError(DataError):
    """A reference that lies elsewhere on earth than a raster."""


@dataclass(frozen=True)
class Reference:
    """A label layer over a raster.

    Args:
        layer: shapes or a raster.
        header: of the raster that is mapped.
        raster: its file.
        classes: of each class of the layer its number on the map, from 0.
        points: (N, 2) column and row of the layer's points on the raster, and their classes (N,); none where it has
            areas alone.
        shapes: of a layer of areas, in the raster's coordinates, with their classes.
    """

    layer: Shapes | ClassRaster
    header: Header
    raster: Path
    classes: np.ndarray
    points: tuple[np.ndarray, np.ndarray]
    shapes: tuple[np.ndarray, np.ndarray]

    @classmethod
    def open(
        cls,
        path: Path,
        header: Header,
        raster: Path,
        class_names: Sequence[str],
        column: str | None = None,
        names: Sequence[str] | None = None,
    ) -> Reference:
        """Read a layer and lay it over a raster.

        Args:
            class_names: of the map, in any spelling.
            column: the attribute that names the class; None for the usual names.
            names: of the values of a raster of classes, in order, as the run's reader was told them.

        Raises:
            ElsewhereError: it lies elsewhere on earth. DataError: it cannot be read, or names a class that the map does
                not have.
        """
        layer = read_layer(path, column, None)
        if isinstance(layer, ClassRaster):
            layer = _named(layer, class_names, names)
            _check_overlap(layer, header, raster)
        number = {bare_name(name): index for index, name in enumerate(class_names)}
        spelled = [bare_name(spoken_name(name)) for name in layer.names]
        if unknown := [name for name, key in zip(layer.names, spelled) if key not in number]:
            listed = shortened(", ".join(class_names))
            raise DataError(f"{path}: class '{shortened(unknown[0])}' is not one of the map's ({listed}); rename it")
        classes = np.array([number[key] for key in spelled], np.int64)
        nowhere = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
        if isinstance(layer, ClassRaster):
            return cls(layer, header, raster, classes, nowhere, (np.zeros(0, object), np.zeros(0, np.int64)))
        return cls._of_shapes(layer, header, raster, classes)

    @classmethod
    def _of_shapes(cls, layer: Shapes, header: Header, raster: Path, classes: np.ndarray) -> Reference:
        import shapely

        shapes, numbers = layer.on(header, raster), classes[layer.classes]
        outline = shapely.Polygon(header.corners)
        inside = shapely.intersects(shapes, outline)
        if not inside.any():
            raise ElsewhereError(f"{layer.path}: {ELSEWHERE} {raster.name}; give a reference of that place")
        shapes, numbers = shapes[inside], numbers[inside]
        points = shapely.get_dimensions(shapes) == 0
        xy = shapely.get_coordinates(shapely.centroid(shapes[points]))
        a, b, c, d, e, f = header.transform
        at = np.floor(np.linalg.solve([[a, b], [d, e]], (xy - (c, f)).T).T).astype(np.int64)  # (N, 2)
        there = ((at >= 0) & (at < (header.width, header.height))).all(axis=1)
        areas = (shapes[~points], numbers[~points])
        return cls(layer, header, raster, classes, (at[there], numbers[points][there]), areas)

    def strips(self) -> Iterator[np.ndarray]:
        """(rows, width) int64 true class of each pixel, from 0, -1 where nothing says, in strips as of `strips_of`."""
        height = strip_rows(self.header.width)
        tops = range(0, self.header.height, height)
        if isinstance(self.layer, ClassRaster):
            yield from self._of_raster(tops, height)
            return
        import shapely
        from rasterio.features import rasterize

        shapes, numbers = self.shapes
        tree = shapely.STRtree(shapes)
        for top in tops:
            rows = min(height, self.header.height - top)
            here, outline = strip_place(self.header.transform, top, (rows, self.header.width))
            near = np.sort(tree.query(outline))
            truth = np.zeros((rows, self.header.width), np.int32)
            if len(near):
                pairs = zip(shapes[near], numbers[near] + 1)
                truth = rasterize(pairs, out_shape=truth.shape, transform=here, dtype="int32")
            yield truth.astype(np.int64) - 1

    def _of_raster(self, tops: range, height: int) -> Iterator[np.ndarray]:
        with self.layer.over(self.header) as layer:
            for top in tops:
                rows = min(height, self.header.height - top)
                places = self.layer.places(layer, (0, top, self.header.width, rows))
                yield np.where(places >= 0, self.classes[places], -1)


@dataclass
class _Sample:
    """Units of a sample: what the map and what the reference says of each."""

    of_map: np.ndarray
    of_reference: np.ndarray
    notes: list[str] = field(default_factory=list)

    def matrix(self, classes: int) -> np.ndarray:
        """(C, C) error matrix: rows are the map's classes, columns the reference's."""
        cells = self.of_map * classes + self.of_reference
        return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def assess(
    reference: Reference, classes_file: Path, class_names: Sequence[str], tally: Tally, seed: int
) -> tuple[MapAccuracy | None, list[str]]:
    """Accuracy and areas of a map by a reference, and sentences on how the sample was drawn.

    Points of the reference are the sample, where it has some. Of areas, `PER_CLASS` pixels of each class of the map
    are drawn at random among those that the reference covers.

    Args:
        seed: of the draw.

    Returns:
        None where the reference says nothing of any pixel that has a class.
    """
    sample = _at_points(reference, classes_file) if len(reference.points[1]) else _drawn(reference, classes_file, seed)
    if not len(sample.of_map):
        return None, [f"{reference.layer.path.name} has no class where {reference.raster.name} has a value"]
    made = map_accuracy(class_names, sample.matrix(len(class_names)), tally.areas)
    if made.unsampled:
        named = ", ".join(made.unsampled)
        sample.notes.append(f"the reference has no class where the map has {named}: that part is left out")
    return made, sample.notes


def _at_points(reference: Reference, classes_file: Path) -> _Sample:
    at, truth = reference.points
    mapped = np.zeros(len(truth), np.int64)
    for top, (of_class,) in strips_of([classes_file]):
        here = (at[:, 1] >= top) & (at[:, 1] < top + len(of_class))
        mapped[here] = of_class[at[here, 1] - top, at[here, 0]]
    known = mapped != NOTHING
    note = f"accuracy is measured at {known.sum():,} points of {reference.layer.path.name}"
    note += "" if known.all() else f"; {(~known).sum():,} more lie where the raster has no value"
    areas = len(reference.shapes[1])
    note += f"; its {areas:,} areas are not used" if areas else ""
    note += "; intervals hold if points were drawn at random within each class of the map"
    return _Sample(mapped[known] - 1, truth[known], [note])


def _drawn(reference: Reference, classes_file: Path, seed: int) -> _Sample:
    """The pixels with the smallest of random numbers, of each class of the map, so that one pass draws them."""
    rng = np.random.default_rng(seed)
    drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # class of the map -> random numbers, true classes
    covered = 0
    for (_, (of_class,)), truth in zip(strips_of([classes_file]), reference.strips(), strict=True):
        known = (truth >= 0) & (of_class != NOTHING)
        covered += int(known.sum())
        mapped, right = of_class[known], truth[known]
        draws = rng.random(len(mapped), np.float32)
        for each in np.unique(mapped):
            before, classes = drawn.get(int(each), (np.zeros(0, np.float32), np.zeros(0, np.int64)))
            limit = before[-1] if len(before) == PER_CLASS else np.inf
            new = (mapped == each) & (draws < limit)
            draw, true = np.concatenate([before, draws[new]]), np.concatenate([classes, right[new]])
            first = np.argsort(draw, kind="stable")[:PER_CLASS]
            drawn[int(each)] = draw[first], true[first]
    mapped = np.concatenate([np.full(len(true), each - 1) for each, (_, true) in drawn.items()] or [np.zeros(0, int)])
    true = np.concatenate([true for _, true in drawn.values()] or [np.zeros(0, int)])
    note = (
        f"accuracy is measured at {len(true):,} pixels, drawn at random from each class of the map among the "
        f"{covered:,} that {reference.layer.path.name} covers; intervals hold if it covers all, or parts that were "
        "drawn at random"
    )
    return _Sample(mapped, true, [note])


def _named(layer: ClassRaster, class_names: Sequence[str], names: Sequence[str] | None) -> ClassRaster:
    """A raster of classes whose values are called as at the fit; else they are the map's numbers, from 1, and 0 is
    nothing."""
    known = {bare_name(name) for name in class_names}
    if names and len(names) == len(layer.values):
        return replace(layer, names=tuple(names))
    if all(bare_name(name) in known for name in layer.names):
        return layer
    values = tuple(value for value in layer.values if value != NOTHING)
    if beyond := [value for value in values if not 1 <= value <= len(class_names)]:
        raise DataError(
            f"{layer.path}: has the value {beyond[0]}; a reference raster has the map's numbers, 1 to "
            f"{len(class_names)} ({shortened(', '.join(class_names))}), and 0 or nodata elsewhere"
        )
    return replace(layer, values=values, names=tuple(class_names[value - 1] for value in values))


def _check_overlap(layer: ClassRaster, header: Header, raster: Path) -> None:
    own = header_of([layer.path])
    placed = own.crs and header.crs and own.transform and header.transform
    if not placed:
        if own.grid != header.grid:
            raise DataError(f"{layer.path}: differs in size from {raster.name}, and one of them has no CRS; add it")
        return
    xy = own.corners
    try:
        xy = np.column_stack(reprojected(xy[:, 0], xy[:, 1], own.crs, header.crs, layer.path))
    except DataError:
        xy = np.full((4, 2), np.inf)
    there = header.corners
    if (xy.min(axis=0) >= there.max(axis=0)).any() or (xy.max(axis=0) <= there.min(axis=0)).any():
        raise ElsewhereError(f"{layer.path}: {ELSEWHERE} {raster.name}; give a reference of that place")
