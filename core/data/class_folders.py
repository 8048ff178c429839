"""Class folders: `root/<class>/*.jpg`, with or without train, val and test above them.

Also one level further down, as archives unpack (`root/images/<class>/`). Names of classes are those of the folders.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..contracts.items import DomainData, Label, check_items
from ..errors import DataError, NoClassesError, printable
from ..runtime.process import collecting_seldom
from .files import (
    Format,
    ItemCollector,
    folders,
    is_folder,
    leads_up,
    shown,
    visible,
    walk,
)
from .group_columns import AUTO, group_by_tables_beside
from .images import IMAGE
from .links import CURE, stays_inside


@collecting_seldom()
def read_class_folders(path: str | Path, formats: Sequence[Format] = (IMAGE,), group_column: str = AUTO) -> DomainData:
    """A labelled set from folders named as the classes.

    Hidden files and files of no known format are ignored; empty files and links that leave the folder are skipped and
    listed. A table in the folder that lists the images may say which of them belong together (`group_columns.py`).

    Args:
        path: the folder.
        formats: what counts as an image.
        group_column: the column of that table; "auto" to find it by the usual names, "none" for no groups.

    Raises:
        NoClassesError: images, and no class folders, or one alone.
        DataError: no such folder, no image in it, fewer than two classes with images, or no such column.
    """
    root = Path(path)
    layout = Layout.of(root, formats)
    if layout is None:
        kind = NoClassesError if _holds(root, formats) else DataError
        raise kind(f"{root}: {_what_lacks(root, formats)}; put the images of each class into a folder of its name")
    collector = ItemCollector()
    label_of = {name: i for i, name in enumerate(layout.class_names)}
    collector.skipped += [(shown(folder, root), why) for folder, why in layout.unlisted]
    for split, folder in layout.parts:
        for class_folder in _class_folders(folder, formats):
            if not stays_inside(class_folder, root):
                collector.skip(shown(class_folder, root), f"a linked folder outside the data folder; {CURE}")
                continue
            for file in walk(class_folder, root, collector):
                if Format.of(file, formats) is not None:
                    label = Label(label_of[printable(class_folder.name)])
                    collector.add_file(file, shown(file, root), formats, target=label, split=split)
    data = collector.data_set(root, formats, layout.class_names, notes=list(layout.notes))
    return group_by_tables_beside(check_items(data, root), root, group_column)


@dataclass(frozen=True)
class Layout:
    """Where the class folders lie: (split or "", folder that holds class folders), and what was left aside: sentences,
    and folders that cannot be listed, with the reason.

    Class attributes:
        SPLITS: usual name of a split's folder -> the split.
        CONTAINERS: usual names of a folder that holds all images.
        NOT_CLASSES: names of folders that are no class by themselves.
    """

    SPLITS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("train", "training"), "train"),
        **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
        **dict.fromkeys(("test", "testing"), "test"),
    }
    CONTAINERS: ClassVar[frozenset[str]] = frozenset(
        {"images", "image", "imgs", "img", "data", "dataset", "jpegimages"}
    )
    NOT_CLASSES: ClassVar[frozenset[str]] = CONTAINERS | {"masks", "mask", "annotations", "labels"}

    parts: tuple[tuple[str, Path], ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unlisted: tuple[tuple[Path, str], ...] = ()

    @classmethod
    def of(cls, root: Path, formats: Sequence[Format]) -> Layout | None:
        """How `root` is laid out, or None if it holds no class folders."""
        if not root.is_dir():
            return None
        # Folders that may stand between the root and its class folders: one called "images", or the only one there is.
        inner = folders(root)
        named = [folder for folder in inner if folder.name.lower() in Layout.CONTAINERS]
        holding = [folder for folder in inner if _holds(folder, formats)]
        for folder in (root, *(named or (holding if len(holding) == 1 else []))):
            layout = _split_layout(folder, formats) or _plain_layout(folder, formats, _holds_directly)
            if layout is not None:
                return layout
        return _plain_layout(root, formats, _holds)


def _what_lacks(root: Path, formats: Sequence[Format]) -> str:
    if not root.is_dir():
        return "no such folder"
    if not _holds(root, formats):
        return f"no image in it (known: {' '.join(suffix for fmt in formats for suffix in fmt.suffixes)})"
    classes = _class_folders(root, formats)
    alone = len(classes) == 1 and classes[0].name.lower() not in Layout.NOT_CLASSES
    return f"only one class, '{classes[0].name}', has images" if alone else "no class folders with images in it"


def _split_layout(folder: Path, formats: Sequence[Format]) -> Layout | None:
    parts, notes = [], []
    for inner in folders(folder):
        split = Layout.SPLITS.get(inner.name.lower())
        if split is None:
            continue
        if _class_folders(inner, formats):
            parts.append((split, inner))
        elif _holds(inner, formats):
            notes.append(f"Folder '{inner.name}' holds images but no class folders: left out.")
    names = {printable(class_folder.name) for _, inner in parts for class_folder in _class_folders(inner, formats)}
    unlisted = [pair for place in (folder, *(inner for _, inner in parts)) for pair in _unlisted(place)]
    return Layout(tuple(parts), tuple(sorted(names)), tuple(notes), tuple(unlisted)) if parts else None


def _plain_layout(folder: Path, formats: Sequence[Format], holds) -> Layout | None:
    """Two folders at least that hold images, as `holds` tells, and are not images beside their masks."""
    counted = [inner for inner in folders(folder) if holds(inner, formats)]
    if len(counted) < 2 or all(inner.name.lower() in Layout.NOT_CLASSES for inner in counted):
        return None
    classes = _class_folders(folder, formats)
    unlisted = _unlisted(folder)
    closed = {inner for inner, _ in unlisted}
    empty = [printable(inner.name) for inner in folders(folder) if inner not in classes and inner not in closed]
    loose = sum(_is_image(Path(entry.path), formats) for entry in visible(folder))
    notes = []
    if empty:
        notes.append(f"Folders without images left out: {', '.join(empty)}.")
    if loose:
        notes.append(f"Images next to the class folders, left out because they have no class: {loose}.")
    names = tuple(dict.fromkeys(printable(inner.name) for inner in classes))
    return Layout((("", folder),), names, tuple(notes), tuple(unlisted))


def _class_folders(folder: Path, formats: Sequence[Format]) -> list[Path]:
    return [inner for inner in folders(folder) if _holds(inner, formats)]


def _holds_directly(folder: Path, formats: Sequence[Format]) -> bool:
    return any(_is_image(Path(entry.path), formats) for entry in _listed(folder))


def _holds(folder: Path, formats: Sequence[Format]) -> bool:
    """Whether an image lies in the folder, at any depth."""
    waiting = [folder]
    while waiting:
        entries = _listed(waiting.pop())
        if any(_is_image(Path(entry.path), formats) for entry in entries):
            return True
        waiting += [Path(entry.path) for entry in entries if not entry.is_symlink() and is_folder(entry)]
    return False


def _listed(folder: Path) -> list[os.DirEntry]:
    """What is in a folder; nothing where it cannot be listed."""
    try:
        return visible(folder)
    except DataError:
        return []


def _unlisted(folder: Path) -> list[tuple[Path, str]]:
    """The folders in a folder that cannot be listed, or that it lies in itself, with the reason."""
    links = (Path(entry.path) for entry in visible(folder) if entry.is_symlink())
    closed = [(path, "a link to a folder above it, not followed") for path in links if leads_up(path)]
    for inner in folders(folder):
        try:
            visible(inner)
        except DataError as error:
            closed.append((inner, str(error)))
    return closed


def _is_image(path: Path, formats: Sequence[Format]) -> bool:
    return path.is_file() and Format.of(path, formats) is not None
