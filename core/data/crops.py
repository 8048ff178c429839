"""Boxes as a classification set: one item per box, cut from its image; all crops of an image stay in one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..contracts.items import DomainData, Label, check_items
from .files import Format, ItemCollector, locate, shown
from .group_columns import columns_beside

MIN_SIDE = 4.0
IMAGE_FOLDERS = ("", "JPEGImages", "images")

Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


@dataclass(frozen=True)
class Box:
    """One annotated object.

    Args:
        name: its class.
        corners: x0, y0, x1, y1 in pixels; None takes those of the outline.
        outline: polygons or an encoding, as written, or None.
        ignored: neither an example nor a mistake to find it.
        made_by: `MODEL` or `PERSON`; "" where the annotation does not say.
        score: of a model's.
    """

    MODEL: ClassVar[str] = "model"
    PERSON: ClassVar[str] = "person"

    name: str
    corners: Corners | None
    outline: Any = None
    ignored: bool = False
    made_by: str = ""
    score: float | None = None

    @property
    def size(self) -> tuple[float, float]:
        """(width, height) of the corners."""
        x0, y0, x1, y1 = self.corners
        return x1 - x0, y1 - y0


@dataclass(frozen=True)
class ListedImage:
    """An image as an annotation file lists it.

    Args:
        name: its path as listed.
        listed_in: the annotation file, for messages.
        roots: folders the path may be relative to.
        boxes: annotated objects.
        split: "train", "val", "test" or "".
        size: (width, height) as the annotation says, or None.
        absent: names of classes that were looked for and are not there; None where all classes were looked for.
        partial: names of classes of which not every box is drawn.
        relative: whether corners and outlines are shares of width and height.
        made_by: as of `Box`, of what is said of the image as a whole: that nothing else is there.
    """

    name: str
    listed_in: Path
    roots: tuple[Path, ...]
    boxes: tuple[Box, ...]
    split: str = ""
    size: tuple[int, int] | None = None
    absent: tuple[str, ...] | None = None
    partial: tuple[str, ...] = ()
    relative: bool = False
    made_by: str = ""

    @property
    def unreviewed(self) -> bool:
        """Whether a model made a box of it, or looked for boxes alone."""
        return Box.MODEL in (self.made_by, *(box.made_by for box in self.boxes))


def image_folders(folder: Path) -> tuple[Path, ...]:
    """Where the images of an annotation folder may lie."""
    return tuple(folder / name if name else folder for name in IMAGE_FOLDERS)


def crops_of(
    images: Iterable[ListedImage],
    class_names: Sequence[str],
    folder: Path,
    formats: Sequence[Format],
    min_side: float,
    notes: Sequence[str] = (),
) -> DomainData:
    """The classification set of all boxes; a table in the folder may have columns of the images.

    Args:
        images: with their boxes.
        class_names: in order; those without a usable box are left out and named in a note.
        folder: of the set, for ids and name.
        formats: what counts as an image.
        min_side: boxes with a shorter side, in pixels, are left out and counted in a note.
        notes: of the reader.

    Raises:
        DataError: a path leaves the folder, or fewer than two classes have boxes.
    """
    collector, small = ItemCollector(), 0
    used: Counter[str] = Counter()
    position = {name: index for index, name in enumerate(class_names)}
    for image in images:
        kept = [box for box in image.boxes if min(box.size) >= min_side]
        small += len(image.boxes) - len(kept)
        path = locate(image.name, image.roots, str(image.listed_in))
        if path is None:
            collector.skip(image.name, f"no such file; looked in {', '.join(map(str, image.roots))}")
            continue
        id_ = shown(path, folder)
        for number, box in enumerate(kept, start=1):
            used[box.name] += 1
            label, part = Label(position[box.name]), {"box": list(box.corners)}
            id_of_box = f"{id_}#box{number}"
            further = {"group": id_, "split": image.split, "decode": part, "unreviewed": box.made_by == Box.MODEL}
            collector.add_file(path, id_of_box, formats, target=label, **further)
    return check_items(_relabelled(collector, class_names, used, folder, formats, small, min_side, notes), folder)


def _relabelled(collector, class_names, used, folder, formats, small, min_side, notes) -> DomainData:
    """The set with only the classes that have a box."""
    present = [name for name in class_names if used[name]]
    new = {class_names.index(name): index for index, name in enumerate(present)}
    notes = [*notes, f"Each box is one sample: {len(collector.items)} crops."]
    if small:
        notes.append(f"Boxes with a side under {min_side:g} pixels, left out: {small}.")
    if len(present) < len(class_names):
        notes.append(f"Classes without a box, left out: {len(class_names) - len(present)}.")
    items = [item.restricted(new) for item in collector.items]
    images = list(dict.fromkeys(item.group or "" for item in items))
    data = collector.data_set(folder, formats, present, items=items, notes=notes)
    return replace(data, columns=lambda: columns_beside(folder, images))
