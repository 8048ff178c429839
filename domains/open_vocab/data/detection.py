"""A detection set of whatever kind lies at a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ....core.contracts import DomainData
from ....core.data import (
    IMAGE,
    Format,
    find_voc_files,
    image_folders,
    parse_voc,
    visible,
    voc_image_name,
    voc_objects,
    voc_splits,
)
from ....core.errors import DataError
from .boxes import Box, BoxSet, ListedImage, boxes_of
from .classes import choose_classes
from .coco_boxes import find_coco_annotations, read_coco_boxes
from .items_file import is_items_file, read_items
from .yolo import is_yolo, read_yolo

WHAT_IS_READ = "COCO or LVIS JSON (instances*.json), VOC Annotations/, or a YOLO folder (labels/ and data.yaml)"


def read_detection(
    path: str | Path, *, class_names: Sequence[str] | None = None, formats: Sequence[Format] = (IMAGE,)
) -> DomainData:
    """A set of boxes, of kind "boxes": one item per image, with a target of type `Boxes`.

    A JSON file is COCO or LVIS, a YAML file names a YOLO set. In a folder the first of these counts: COCO files, VOC's
    `Annotations/`, YOLO labels.

    Args:
        path: file or folder.
        class_names: which classes, in which order; all that the data have by default. Names by number where a YOLO set
            has none.
        formats: what counts as an image.

    Raises:
        DataError: nothing there that can be read, or nothing in it that can be used; the message says what would be.
        ConfigError: a class that the data do not have.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give {WHAT_IS_READ}")
    if path.suffix == ".json" and path.is_file() and is_items_file(path):
        data = read_items(path)
    else:
        data = boxes_of(_found(path, class_names, formats), formats)
    return data if class_names is None else choose_classes(data, class_names)


def _found(path: Path, class_names: Sequence[str] | None, formats: Sequence[Format]) -> BoxSet:
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".json":
            return read_coco_boxes(path)
        if suffix in (".yaml", ".yml"):
            return read_yolo(path, class_names, formats)
        raise DataError(f"{path}: not a known kind of detection set; give {WHAT_IS_READ}")
    if not visible(path):
        raise DataError(f"{path}: empty folder; give {WHAT_IS_READ}")
    if find_coco_annotations(path):
        return read_coco_boxes(path)
    if find_voc_files(path):
        return read_voc_boxes(path, formats)
    if is_yolo(path):
        return read_yolo(path, class_names, formats)
    raise DataError(f"{path}: holds no boxes; give {WHAT_IS_READ}")


def read_voc_boxes(path: Path, formats: Sequence[Format] = (IMAGE,)) -> BoxSet:
    """All images that have an annotation file; classes sorted by name.

    Raises:
        DataError: no annotations there, or one is malformed or declares a document type.
    """
    files = find_voc_files(path)
    if not files:
        raise DataError(f"{path}: no VOC annotations; put the XML files into Annotations/")
    folder = path.parent if path.name == "Annotations" else path
    splits, roots = voc_splits(folder), (*image_folders(folder), files[0].parent)
    images = [_image(file, roots, splits.get(file.stem, ""), formats) for file in files]
    return BoxSet(images, sorted({box.name for image in images for box in image.boxes}), folder)


def _image(file: Path, roots: tuple[Path, ...], split: str, formats: Sequence[Format]) -> ListedImage:
    tree = parse_voc(file)
    return ListedImage(
        name=voc_image_name(tree, file, roots, formats),
        listed_in=file,
        roots=roots,
        boxes=tuple(Box(name, box, ignored=difficult) for name, box, difficult in voc_objects(tree, file)),
        split=split,
        size=_listed_size(tree),
    )


def _listed_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = int(tree.findtext("size/width")), int(tree.findtext("size/height"))
    except (TypeError, ValueError):
        return None
    return (width, height) if min(width, height) > 0 else None  # some tools write 0
