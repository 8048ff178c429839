"""Windows of rasters with boxes or masks, from a label layer or a set of annotated pictures.

A box of which less than the least share lies in a window is neither an example there nor a mistake to find. A raster of
classes, and areas, become masks; what the layer does not cover is the background where that is a class, else ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Boxes, DomainData, InputChannels, Item, Mask
from ...core.errors import DataError
from .bands import COLOURS, band_pictures
from .layers import ClassRaster, Shapes
from .localization.pictures import picture_size
from .pictures import is_raster, valid_pixels
from .places import files_of_item
from .rasters import Header, header_of
from .windows import GRID, Box, Cutting, grids_of, rasters_of, window_boxes, window_in, window_item

DETECTION, SEGMENTATION = "detection", "segmentation"


def read_objects(path: Path, layer: Shapes | ClassRaster, reading: Any, cutting: Cutting, task: str) -> DomainData:
    """Windows of a raster, or of all rasters of a folder, with the objects that a layer has in them, as boxes with
    outlines.

    Args:
        path: a raster, or a folder of rasters.
        layer: areas; for masks also a raster of classes.
        reading: options of the reader: formats, the class column and names.
        cutting: how rasters are cut.
        task: "detection" or "segmentation".

    Raises:
        DataError: a file cannot be read, the layer lies elsewhere, has points or, for boxes, is a raster.
    """
    if task == DETECTION and isinstance(layer, ClassRaster):
        raise DataError(f"{layer.path}: a raster of classes has no boxes; give areas, or --task segmentation")
    collector = rasters_of(path, layer.path, reading)
    headers = [header_of(files_of_item(item), item.decode.get("sensor")) for item in collector.items]
    grids, words = grids_of(path, headers, cutting)
    items: list[Item] = []
    left_out = 0
    for item, header, (boxes, blocks) in zip(collector.items, headers, grids):
        objects = _of_raster if isinstance(layer, ClassRaster) else _of_areas
        for box, block, target in zip(boxes, blocks, objects(layer, item, header, boxes, cutting, task)):
            left_out += target is None
            if target is not None:
                window = window_in(item, box, block if words else None, reading.draw_windows != GRID)
                items.append(window.with_(target=target))
    if not any(item.target.boxes for item in items):
        raise DataError(f"{layer.path}: covers no window of {path.name}; check that it lies in the same place")
    notes = list(layer.notes)
    if words:
        notes.append(f"Splits are by place: {words}, each on one side (--block-size).")
    if left_out:
        notes.append(f"Windows that the label layer does not reach, left out: {left_out}.")
    what = {"kind": "boxes", "name": path.resolve().stem, "notes": notes, "blocks": words}
    return collector.data_set(path, reading.formats, layer.names, items=items, **what)


def objects_in(
    layer: Shapes | ClassRaster, item: Item, header: Header, box: Box, cutting: Cutting, task: str
) -> Boxes | None:
    """What a layer has in one window, as of `read_objects`; None where it says nothing.

    Args:
        layer: its shapes are those that touch the window, in the coordinates of the raster.
        header: of the raster.
    """
    if isinstance(layer, Shapes):
        of_areas = _of_areas(layer, item, header, [box], cutting, task)
        return next(of_areas) if len(layer.geometries) else Boxes(size=(box[2], box[3]))
    return next(_of_raster(layer, item, header, [box], cutting, task))


def cut_objects(data: DomainData, cutting: Cutting) -> DomainData:
    """A set of boxes, or of masks drawn from outlines, whose pictures that are larger than a window are cut into
    windows. Masks in files stay as they are."""
    items: list[Item] = []
    cut = 0
    for item in data.items:
        drawn = item.target.outlines if isinstance(item.target, Mask) else item.target
        if drawn is None or drawn.size is None or max(drawn.size) <= cutting.size:
            items.append(item)
            continue
        cut += 1
        width, height = drawn.size
        items += [
            _part(item, box).with_(target=_cut(item.target, box, cutting))
            for box in window_boxes(height, width, cutting)
        ]
    note = f"Pictures larger than {cutting.size} pixels, cut into windows (--window-size): {cut}."
    return replace(data, items=items, notes=[*data.notes, note]) if cut else data


def with_bands(data: DomainData, channels: InputChannels) -> DomainData:
    """A set without pictures that lack one of the bands of a model; these are listed in `skipped`."""
    faults = {id(item): _lacking(item, channels) for item in data.items}
    lacking = [(item.id, faults[id(item)]) for item in data.items if faults[id(item)]]
    items = [item for item in data.items if not faults[id(item)]]
    return replace(data, items=items, skipped=[*data.skipped, *lacking])


def _lacking(item: Item, channels: InputChannels) -> str:
    """Which band a picture lacks, in one line; "" for none."""
    cure = f"give a raster with the bands {', '.join(channels.names)}"
    if not is_raster(item.source):
        return f"{item.source}: an image, which has no band {channels.names[COLOURS]}; {cure}"
    try:
        header = header_of(files_of_item(item), item.decode.get("sensor"))
        band_pictures(item.decode.get("bands"), header.names, str(item.source), header.alpha)
    except DataError as error:
        return f"{str(error).partition(';')[0]}; {cure}"
    return ""


def with_values(data: DomainData) -> DomainData:
    """A set without windows in which their raster has no value, but for one of each; boxes without any are ignored.
    Only rasters whose headers say that pixels may have none are read for it."""
    items: list[Item] = []
    left_out, sources = 0, set()
    for item in data.items:
        valid = _valid(item)
        if valid is not None and isinstance(item.target, Boxes):
            item = item.with_(target=ignored_without_values(item.target, valid))
        if valid is None or valid.any() or "window" not in item.decode:
            items.append(item)
            sources.add(item.source)
        else:
            left_out += 1
    items += [item for item in {i.source: i for i in data.items}.values() if item.source not in sources]
    note = f"Windows in which the raster has no value, left out: {left_out}."
    return replace(data, items=items, notes=[*data.notes, note]) if left_out else data.with_items(items)


def _valid(item: Item) -> np.ndarray | None:
    """Where a window has values; what cannot be read is told where it is decoded."""
    try:
        return valid_pixels(item.source, item.decode) if is_raster(item.source) else None
    except DataError:
        return None


def ignored_without_values(target: Boxes, valid: np.ndarray) -> Boxes:
    """Boxes that lie wholly where there are no values are ignored."""
    corners = np.array(target.boxes, np.float64).reshape(-1, 4)
    low, high = np.floor(corners[:, :2]).astype(int).clip(0), np.ceil(corners[:, 2:]).astype(int)
    empty = [not valid[y0:y1, x0:x1].any() for (x0, y0), (x1, y1) in zip(low, high)]
    if not any(empty):
        return target
    ignored = target.ignored or (False,) * len(empty)
    return replace(target, ignored=tuple(bool(was or now) for was, now in zip(ignored, empty)))


def _cut(target: Boxes | Mask, box: Box, cutting: Cutting) -> Boxes | Mask:
    """Part of a mask is no less what it is, however small; a box of which little is seen is ignored."""
    if isinstance(target, Boxes):
        return in_window(target, box, cutting.share)
    outlines = in_window(target.outlines, box, 0.0)
    rest = {label for label, shown in enumerate(target.labels or ()) if shown and label not in target.outlines.labels}
    shown = rest | set(outlines.labels)
    labels = None if target.labels is None else tuple(float(k in shown) for k in range(len(target.labels)))
    return replace(target, outlines=outlines, labels=labels, size=outlines.size)


def cut_new(items: Sequence[Item], cutting: Cutting) -> list[Item]:
    """New pictures that are larger than a window, as windows on one grid over each that say how large the whole is."""
    cut: list[Item] = []
    for item in items:
        try:
            height, width = picture_size(item)
        except DataError:
            height = width = 0  # what cannot be read is told where it is decoded
        if max(height, width) <= cutting.size:
            cut.append(item)
            continue
        whole = item.with_(decode={**item.decode, Item.WHOLE: [height, width]})
        cut += [_part(whole, box) for box in window_boxes(height, width, cutting)]
    return cut


def _part(item: Item, box: Box) -> Item:
    if is_raster(item.source):
        return window_item(item, box).with_(group=item.group or item.id)
    left, top, width, height = box
    decode = {**item.decode, "box": [left, top, left + width, top + height]}
    return item.with_(id=f"{item.id}#{top}_{left}", decode=decode, group=item.group or item.id, apart=True)


def in_window(target: Boxes, box: Box, share: float) -> Boxes:
    """What of the objects lies in a window, in its pixels."""
    left, top, width, height = box
    corners = np.array(target.boxes, np.float64).reshape(-1, 4) - (left, top, left, top)
    inside = corners.clip(0, (width, height, width, height))
    whole = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    seen = np.prod(inside[:, 2:] - inside[:, :2], axis=1)
    rows = np.flatnonzero(seen > 0)
    left_out = np.array(target.ignored or [False] * len(seen)) | (seen < share * whole)
    ignored = [bool(left_out[k]) for k in rows]
    segments = [_moved(target.segments[k] if target.segments else None, box) for k in rows]
    return Boxes(
        boxes=tuple(tuple(map(float, inside[k])) for k in rows),
        labels=tuple(target.labels[k] for k in rows),
        segments=tuple(segments) if any(segments) else None,
        ignored=tuple(ignored) if any(ignored) else None,
        size=(width, height),
        facts=target.facts,
    )


def _moved(segment: Any, box: Box) -> Any:
    """Polygons in the pixels of a window, cut at its edge; an encoding is drawn and cut."""
    if not segment:
        return None
    left, top, width, height = box
    if isinstance(segment, dict):
        from pycocotools import mask

        encoding = (
            segment if isinstance(segment["counts"], (str, bytes)) else mask.frPyObjects(segment, *segment["size"])
        )
        return encoded_mask(mask.decode(encoding)[top : top + height, left : left + width])
    import shapely

    areas = [shapely.make_valid(shapely.Polygon(np.reshape(each, (-1, 2)) - (left, top))) for each in segment]
    return _polygons(shapely.intersection(shapely.union_all(areas), shapely.box(0, 0, width, height)))


def _of_areas(
    layer: Shapes, item: Item, header: Header, boxes: Sequence[Box], cutting: Cutting, task: str
) -> Iterator[Boxes | None]:
    """The areas in each window; None of one outside all that the layer covers."""
    import shapely

    shapes = layer.on(header, item.source)
    if (shapely.get_dimensions(shapes) < 2).any():
        raise DataError(f"{layer.path}: has points or lines, which have no extent; give areas")
    a, b, c, d, e, f = header.transform
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    shapes = shapely.transform(shapes, lambda xy: (xy - (c, f)) @ inverse.T)  # in pixels of the raster
    reach = shapely.box(*shapely.total_bounds(shapes))
    tree, areas = shapely.STRtree(shapes), shapely.area(shapes)
    for left, top, width, height in boxes:
        window = shapely.box(left, top, left + width, top + height)
        if not shapely.intersects(window, reach):
            yield None
            continue
        near = np.sort(tree.query(window, predicate="intersects"))
        parts = shapely.intersection(shapes[near], window)
        seen = shapely.area(parts)
        near, parts, seen = near[seen > 0], parts[seen > 0], seen[seen > 0]
        labels = layer.classes[near]
        if task == SEGMENTATION:
            yield _encoded_areas(parts, areas[near], labels, (left, top, width, height))
            continue
        ignored = seen < cutting.share * areas[near]
        parts = shapely.transform(parts, lambda xy, corner=(left, top): xy - corner)
        yield Boxes(
            boxes=tuple(tuple(map(float, bounds)) for bounds in shapely.bounds(parts)),
            labels=tuple(map(int, labels)),
            segments=tuple(_polygons(part) for part in parts) if len(parts) else None,
            ignored=tuple(map(bool, ignored)) if ignored.any() else None,
            size=(width, height),
        )


def _encoded_areas(parts: np.ndarray, areas: np.ndarray, labels: np.ndarray, box: Box) -> Boxes:
    """Areas drawn, the largest first; holes stay open."""
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    left, top, width, height = box
    order = np.argsort(-areas, kind="stable")
    pairs = [(parts[k], int(labels[k]) + 1) for k in order]
    empty = np.zeros((height, width), np.int32)
    shift = Affine.translation(left, top)
    drawn = rasterize(pairs, out_shape=empty.shape, transform=shift, dtype="int32") if pairs else empty
    return _of_classes(drawn - 1)


def _of_raster(
    layer: ClassRaster, item: Item, header: Header, boxes: Sequence[Box], cutting: Cutting, task: str
) -> Iterator[Boxes | None]:
    """The classes in each window; None of one where the layer says nothing."""
    layer.check_place(header, item.source)
    with layer.over(header) as raster:
        for box in boxes:
            classes = layer.places(raster, box)
            yield _of_classes(classes) if (classes >= 0).any() else None


def _of_classes(classes: np.ndarray) -> Boxes:
    """A map (H, W) of classes, -1 for none, as one encoded outline per class."""
    height, width = classes.shape
    labels = [int(label) for label in np.unique(classes) if label >= 0]
    masks = [classes == label for label in labels]
    return Boxes(
        boxes=tuple(_bounds(mask) for mask in masks),
        labels=tuple(labels),
        segments=tuple(encoded_mask(mask) for mask in masks) if masks else None,
        size=(width, height),
    )


def _bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def decoded_mask(outline: Mapping[str, Any]) -> np.ndarray:
    """(H, W) bool of a compressed COCO encoding."""
    from pycocotools import mask as codec

    return codec.decode(outline).astype(bool)


def encoded_mask(mask: np.ndarray) -> dict[str, Any] | None:
    """The COCO encoding of an (H, W) mask; None of an empty one."""
    from pycocotools import mask as codec

    if not mask.any():
        return None
    made = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(made["size"]), "counts": made["counts"].decode("ascii")}


def _polygons(shape: Any) -> list[list[float]] | None:
    """The outer rings of an area, as COCO lists them."""
    import shapely

    parts = [part for part in shapely.get_parts(shape) if shapely.get_dimensions(part) == 2]
    rings = [shapely.get_coordinates(shapely.get_exterior_ring(part))[:-1] for part in parts]
    return [[float(value) for value in ring.ravel()] for ring in rings] or None
