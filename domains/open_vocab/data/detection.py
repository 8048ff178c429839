"""A detection set of whatever kind lies at a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import IMAGE, Format, VocSet, visible
from ....core.errors import DataError
from .boxes import BoxSet, data_of_boxes
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
        data = data_of_boxes(_found(path, class_names, formats), formats)
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
    if VocSet.files(path):
        voc = VocSet.read(path, formats)
        return BoxSet(voc.images, voc.class_names, voc.folder)
    if is_yolo(path):
        return read_yolo(path, class_names, formats)
    raise DataError(f"{path}: holds no boxes; give {WHAT_IS_READ}")
