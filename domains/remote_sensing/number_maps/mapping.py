"""Maps of numbers of whole images: predicted in overlapping windows, blended, written as GeoTIFF; a process that is
killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ....core.contracts import Item
from ....core.errors import DataError
from ....core.runtime import Reporter, file_stem
from ..gdal import writing
from ..maps.blending import RowBlender, window_grid, window_weights
from ..maps.rasters import cloud_optimised, created
from ..maps.strips import Strips, first_reaching
from ..maps.work import check_free, key_of, put_in_place, work_folders
from ..pictures import in_unit, is_raster, masked_pixels
from ..places import files_of_item
from ..rasters import Header, header_of
from ..windows import batched
from .pictures import map_picture
from .regressor import AT_ONCE, Regressor

OVERLAP = 0.5
"""Share of a window that the next one covers too."""
NODATA = float("nan")
MOST_SIDE = 1200
"""Pixels of the longer side of a picture."""
SUFFIXES = (".tif", ".png")
"""Of a map and its picture."""
PREDICTED, LOW, HIGH = range(3)


@dataclass(frozen=True)
class MappedImage:
    """An image that is mapped.

    Args:
        grid: of it, and so of its map.
        whole: (H, W, C) of an image that is no raster, which is decoded once; None of a raster.
    """

    item: Item
    grid: Header
    whole: np.ndarray | None = None

    @classmethod
    def of(cls, item: Item) -> MappedImage:
        if is_raster(item.source):
            return cls(item, header_of(files_of_item(item), item.decode.get("sensor")))
        whole, _ = masked_pixels(item.source, item.decode)
        return cls(item, Header.unplaced(*whole.shape[:2]), whole)

    def windows(self, boxes: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], np.ndarray, np.ndarray]]:
        """Each window (left, top, width, height) that has a value: pixels (h, w, C), and (h, w) bool, where."""
        for box in boxes:
            left, top, width, height = box
            if self.whole is not None:
                pixels = self.whole[top : top + height, left : left + width]
                yield box, in_unit(pixels), np.ones((height, width), bool)
                continue
            pixels, valid = masked_pixels(self.item.source, {**self.item.decode, "window": list(box)})
            if valid.any():
                yield box, in_unit(pixels), valid


def map_rasters(
    regressor: Regressor,
    items: Sequence[Item],
    fingerprint: str,
    folder: Path | None,
    progress: Callable[[int, int], None],
) -> tuple[list[dict[str, Any]], list[Path], list[tuple[str, str]]]:
    """The numbers of whole images.

    Args:
        fingerprint: text that changes with whatever the numbers depend on, besides the images.
        folder: where NAME.tif and NAME.png are written; None writes none.
        progress: called as progress(done, total) rows of windows of an image.

    Returns:
        A row per image, the files, and (id, reason) of images that have no map.

    Raises:
        ConfigError: a file is there already. DataError: nothing can be written, or the only image has no map.
    """
    names = _names(items)
    rows, moves, skipped = [], {}, []
    with TemporaryDirectory(prefix="vladapt-") as beside:
        place = Path(beside) if folder is None else folder
        # the name makes keys differ where a raster comes twice
        keys = [key_of(item, f"{fingerprint} {name}", regressor.window) for item, name in zip(items, names)]
        if folder is not None:
            check_free((folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES), [folder], keys)
        with work_folders([place] * len(keys), keys, Reporter()) as works:
            for item, name, work in zip(items, names, works):
                try:
                    source = MappedImage.of(item)
                    row = _mapped(source, regressor, work, progress)
                    if folder is not None:
                        _draw(source, regressor, work)
                        files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
                        moves |= {file: work / f"map{file.suffix}" for file in files}
                        row["map"] = str(files[0])
                    rows.append(row)
                except DataError as error:
                    if len(items) == 1:
                        raise
                    skipped.append((item.id, str(error)))
            if moves:
                put_in_place(moves, works[0])
    return rows, list(moves), skipped


def _mapped(
    source: MappedImage, regressor: Regressor, work: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Predict what was not before, write the map into the work folder, and say what it shows."""
    height, width = source.grid.height, source.grid.width
    stride = max(1, round(regressor.window * (1 - OVERLAP)))
    tops, lefts, size = window_grid(height, width, regressor.window, stride)
    strips = Strips(work, tops, height, width, 1 if regressor.intervals is None else 3, np.float32)
    first = strips.lacking()
    start = first_reaching(tops, first, size[0])
    weights, blender = window_weights(size, stride), RowBlender(2, width)
    blender.top = tops[start] if start < len(tops) else height
    for row in range(start, len(tops)):
        boxes = [(left, tops[row], size[1], size[0]) for left in lefts]
        for box, numbers, scales, valid in _predicted(source, regressor, boxes):
            blender.add(box[1], box[0], np.stack([numbers, scales]), weights * valid)
        means, seen = blender.take(strips.end(row))
        if row >= first:
            strips.write(row, _bands(means, seen, regressor))
        progress(row + 1, len(tops))
    return _written(source, regressor, strips, work / "map.tif")


def _predicted(source: MappedImage, regressor: Regressor, boxes: Sequence[Sequence[int]]) -> Iterator[tuple[Any, ...]]:
    """Each window that has a value, with its numbers, scales and where it has values."""
    for some in batched(source.windows(boxes), AT_ONCE):
        try:
            answers = regressor.numbers([pixels for _, pixels, _ in some])
        except DataError as error:
            raise DataError(f"{source.item.source}: {error}") from None
        for (box, _, valid), (numbers, scales) in zip(some, answers):
            yield box, numbers, scales, valid


def _bands(means: np.ndarray, seen: np.ndarray, regressor: Regressor) -> np.ndarray:
    """(1 or 3, rows, width) float32: predicted, and both ends of its interval; NaN where the image has nothing."""
    numbers, half = means[0], regressor.half_width(means[1])
    bands = [numbers] if half is None else [numbers, numbers - half, numbers + half]
    return np.where(seen, np.stack(bands), np.float32(NODATA)).astype(np.float32)


def _written(source: MappedImage, regressor: Regressor, strips: Strips, file: Path) -> dict[str, Any]:
    """Write the map of finished rows as a cloud-optimised GeoTIFF; the row of its image."""
    count, total, low, high = 0, 0.0, np.inf, -np.inf
    plain = file.with_name("plain.tif")
    with writing(file.parent):
        with created(plain, source.grid, NODATA, "float32", strips.bands) as made:
            for place, name in enumerate(_band_names(regressor)[: made.count], start=1):
                made.set_band_description(place, name)
                if regressor.unit:
                    made.set_band_unit(place, regressor.unit)
            made.update_tags(SOFTWARE="vladapt", **({"COVERAGE": f"{regressor.coverage:g}"} if made.count > 1 else {}))
            for top, values in strips:
                made.write(values, window=((top, top + values.shape[1]), (0, strips.width)))
                numbers = values[PREDICTED][np.isfinite(values[PREDICTED])]
                if len(numbers):
                    count, total = count + len(numbers), total + float(numbers.sum(dtype=np.float64))
                    low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        cloud_optimised(plain, file, "AVERAGE", PREDICTOR="YES")
        plain.unlink()
    if not count:
        raise DataError(f"{source.item.source}: nothing to map, no pixel of it has a value")
    facts = {"mean": total / count, "lowest": low, "highest": high}
    unit = f" {regressor.unit}" if regressor.unit else ""
    summary = f"mean {facts['mean']:.4g}{unit}, {low:.4g} to {high:.4g}"
    return {"id": source.item.id, "summary": summary, **facts, "unit": regressor.unit, "pixels": count}


def _band_names(regressor: Regressor) -> tuple[str, str, str]:
    name = regressor.name or "predicted"
    return name, f"{name}, lower end of {regressor.coverage:.0%}", f"{name}, upper end of {regressor.coverage:.0%}"


def _draw(source: MappedImage, regressor: Regressor, work: Path) -> None:
    """Draw the picture beside a map, smaller where it is large."""
    import rasterio
    from PIL import Image

    height, width = source.grid.height, source.grid.width
    shrink = max(1.0, max(height, width) / MOST_SIDE)
    size = max(1, round(height / shrink)), max(1, round(width / shrink))
    with writing(work), rasterio.open(work / "map.tif", driver="GTiff") as made:
        values = made.read(1, out_shape=size, masked=True).filled(np.nan)
    try:
        Image.fromarray(map_picture(values, regressor.name or "predicted", regressor.unit)).save(work / "map.png")
    except OSError as error:
        raise DataError.unwritable(work, error, "give another folder") from error


def _names(items: Sequence[Item]) -> list[str]:
    """A name of each image that a file can have, with a number where one comes twice."""
    names: list[str] = []
    for item in items:
        stem, number = file_stem(item.source.stem), 2
        name = stem
        while name in names:
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
    return names
