"""Pascal VOC XML: `Annotations/*.xml` with boxes (The Pascal Visual Object Classes Challenge, 2010).

Who looked at an image stands in VOC's own `source/annotation`, "model" or "person"; each object has the elements
`source` and, of a model, `score`, which other readers pass over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from ....core.data import ListedImage
from ....core.errors import ConfigError
from ....core.runtime import write_whole
from ..labels.label_set import IMAGES, LabelSet
from ._labels import LabelOutput, of_split, refuse_blank, replaced_folder, split_names

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Voc(LabelOutput):
    """A data set of labels as Pascal VOC XML, which `fit --data` reads: boxes alone."""

    outlines: ClassVar = False

    def check_names(self, class_names: Sequence[str]) -> None:
        for name in class_names:
            if not name.isprintable():
                raise ConfigError(f"VOC labels: XML cannot hold the name {name!r}; rename the class")
        refuse_blank("VOC", class_names)

    def write_labels(self, labels: LabelSet, folder: Path) -> list[Path]:
        files = [folder / "Annotations" / f"{Path(image.name).stem}.xml" for image in labels.images]
        with replaced_folder(folder / "Annotations") as partial:
            for image, file in zip(labels.images, files):
                tree = _annotation(image)
                ElementTree.indent(tree)
                (partial / file.name).write_bytes(ElementTree.tostring(tree, encoding="utf-8"))
        for split in split_names(labels):
            if split:
                listing = folder / "ImageSets" / "Main" / f"{split}.txt"
                listing.parent.mkdir(parents=True, exist_ok=True)
                write_whole(listing, "".join(f"{Path(image.name).stem}\n" for image in of_split(labels, split)))
                files.append(listing)
        return files


def _annotation(image: ListedImage) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, folder=IMAGES, filename=image.name)
    _add(ElementTree.SubElement(root, "source"), annotation=image.made_by)
    width, height = image.size
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for box in image.boxes:
        entry = ElementTree.SubElement(root, "object")
        _add(entry, name=box.name, pose="Unspecified", truncated=0, difficult=int(box.ignored))
        _add(ElementTree.SubElement(entry, "bndbox"), **dict(zip(CORNERS, box.corners)))
        _add(entry, source=box.made_by, **({} if box.score is None else {"score": box.score}))
    return root


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)
