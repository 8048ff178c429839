"""Pascal VOC XML, read whole: boxes, and which objects are marked difficult (Everingham et al., IJCV 2010)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ....core.contracts.errors import DataError
from ....core.data.crops import image_folders
from ....core.data.formats import Format
from ....core.data.images import IMAGE
from ....core.data.voc import CORNERS, find_voc_files, parse_voc, voc_image_name, voc_splits
from .boxes import Box, BoxSet, ListedImage


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
        boxes=tuple(_box(file, entry) for entry in tree.iter("object")),
        split=split,
        size=_listed_size(tree),
    )


def _box(file: Path, entry: ElementTree.Element) -> Box:
    name, corners = (entry.findtext("name") or "").strip(), entry.find("bndbox")
    if not name:
        raise DataError(f"{file}: an object has no name; correct the file")
    try:
        box = tuple(float(corners.findtext(corner)) for corner in CORNERS)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{file}: object '{name}' has no usable bndbox; correct the file") from error
    return Box(name, box, ignored=(entry.findtext("difficult") or "").strip() == "1")


def _listed_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = int(tree.findtext("size/width")), int(tree.findtext("size/height"))
    except (TypeError, ValueError):
        return None
    return (width, height) if min(width, height) > 0 else None  # some tools write 0
