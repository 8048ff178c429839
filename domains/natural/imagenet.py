"""ImageNet and its variants for testing (V2, Sketch, A, R), as CoOp, torchvision and their archives lay them out.

Their folders are called by WordNet ids. Names of classes are those of CoOp's `classnames.txt` where it lies there, else
CLIP's, which open_clip brings. ImageNet has no validation images that are not its test images: CoOp tests on the 50,000
of "val", and so does this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from ...core.contracts import DomainData
from ...core.data import folders, read_matlab
from ...core.errors import CapabilityError, DataError, shortened
from ...core.runtime import text_lines
from .layouts import ListEntry, SetLayout, folder_entries

WORDNET_ID = re.compile(r"^n\d{8}$")
ID_FOLDER, NUMBER_FOLDER = "n" + "[0-9]" * 8, "[0-9]*"
"""Globs of a folder of one class."""
LIST = "classnames.txt"
DEVKITS = ("ILSVRC2012_devkit_t12/data", "devkit/data", "ILSVRC2012_devkit_t12", "devkit", "data", ".")
"""Where the labels of a flat folder of validation images may lie."""
FLAT = "ILSVRC2012_val_"
TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
NAMED = "Class names are CLIP's names of the WordNet ids of ImageNet, from open_clip"
INSTALL = "pip install 'vladapt[open-clip]'"


@lru_cache(maxsize=1)
def library_names() -> dict[str, str]:
    """The 1,000 WordNet ids, sorted -> CLIP's name of each, as installed packages have them.

    Raises:
        CapabilityError: open_clip is not installed.
    """
    try:
        from open_clip import IMAGENET_CLASSNAMES
        from timm.data import ImageNetInfo
    except ImportError:
        raise CapabilityError(
            f"folders named by WordNet ids (n01440764): the names of the classes come with open_clip: {INSTALL}, or "
            f"put CoOp's {LIST} beside the folders"
        ) from None
    return dict(zip(ImageNetInfo().label_names(), IMAGENET_CLASSNAMES, strict=True))


def with_spoken_names(data: DomainData) -> DomainData:
    """The set with CLIP's names of its classes, where all are called by ids of ImageNet's; else as it is."""
    if not data.class_names or not all(WORDNET_ID.match(name) for name in data.class_names):
        return data
    try:
        names = library_names()
    except CapabilityError as error:
        data.notes.append(str(error))
        return data
    if all(id_ in names for id_ in data.class_names):
        data.class_names = tuple(names[id_] for id_ in data.class_names)
        data.notes.append(NAMED)
    return data


def _names(folder: Path) -> dict[str, str]:
    """Id -> name, from lines like "n01440764 tench", or from the library."""
    if not (file := folder / LIST).is_file():
        return library_names()
    names = {}
    for line in text_lines(file):
        id_, _, name = line.strip().partition(" ")
        if name:
            names[id_] = name
    if not names:
        raise DataError(f"{file}: has no line 'n01440764 tench'; get CoOp's list of names")
    return names


def _notes(folder: Path, val: str | None = None) -> list[str]:
    """Where names are from, and what is left aside."""
    named = [] if (folder / LIST).is_file() else [NAMED]
    if val is None or _of_classes(folder / val) or _is_flat(folder / val):
        return named
    return [*named, f"Folder '{val}' holds no class folders: left out."]


def _of_classes(folder: Path) -> bool:
    return any(WORDNET_ID.match(inner.name) for inner in folders(folder))


def _is_flat(folder: Path) -> bool:
    return next(folder.glob(f"{FLAT}*"), None) is not None


def _of_splits(train: str, val: str) -> Callable[[Path], Iterator[ListEntry]]:
    """Of folders to learn from and to test on; images to test on may lie flat."""

    def entries(folder: Path) -> Iterator[ListEntry]:
        names = _names(folder)
        yield from _of_class_folders(folder / train, folder, names, "train")
        if _of_classes(folder / val):
            yield from _of_class_folders(folder / val, folder, names, "test")
        elif _is_flat(folder / val):
            yield from _of_flat_folder(val, folder, names)

    return entries


def _of_variant(images: str) -> Callable[[Path], Iterator[ListEntry]]:
    """Of folders to test on."""

    def entries(folder: Path) -> Iterator[ListEntry]:
        yield from _of_class_folders(folder / images, folder, _names(folder), "test")

    return entries


def _of_class_folders(images: Path, root: Path, names: dict[str, str], split: str) -> Iterator[ListEntry]:
    """Class folders called by WordNet ids, or, as those of ImageNetV2, by the place of one among the sorted ids."""
    ids = sorted(names)
    inside = [inner for inner in folders(images) if WORDNET_ID.match(inner.name) or inner.name.isdecimal()]
    for inner in sorted(inside, key=lambda each: (len(each.name), each.name)):
        id_ = inner.name
        if id_.isdecimal() and int(id_) < len(ids):
            id_ = ids[int(id_)]
        if id_ not in names:
            listed = (root / LIST).is_file()
            cure = (
                "add a line"
                if listed
                else "it is not one of ImageNet's 1,000 classes, so write a list of ids and names"
            )
            raise DataError(f"{root / LIST}: has no name for folder '{shortened(inner.name)}'; {cure}")
        yield from folder_entries(inner, root, names[id_], split, order=id_)


def _of_flat_folder(images: str, root: Path, names: dict[str, str]) -> Iterator[ListEntry]:
    """ILSVRC2012_val_00000001.JPEG and so on, labelled by the development kit."""
    places = [root / place for place in DEVKITS]
    kit = next((place for place in places if (place / TRUTH).is_file() and (place / SYNSETS).is_file()), None)
    if kit is None:
        raise DataError(
            f"{root / images}: holds no class folders; unpack ILSVRC2012_devkit_t12 beside it, which has {TRUTH} and "
            f"{SYNSETS}, or move the images into folders named by WordNet ids"
        )
    id_of = _ids_by_number(kit / SYNSETS)
    for place, line in enumerate(filter(None, map(str.strip, text_lines(kit / TRUTH))), start=1):
        id_ = id_of.get(line)
        if id_ is None or id_ not in names:
            raise DataError(f"{kit / TRUTH}: '{shortened(line)}' in line {place} is not a class; get it again")
        yield ListEntry(f"{images}/{FLAT}{place:08d}.JPEG", names[id_], "test", id_)


def _ids_by_number(file: Path) -> dict[str, str]:
    """ILSVRC2012_ID, as text -> WordNet id."""
    rows = read_matlab(file, "synsets")["synsets"]
    known = [row for row in rows if isinstance(row, dict) and WORDNET_ID.match(str(row.get("WNID")))]
    if not known:
        raise DataError(f"{file}: has no synsets with a WNID; get it again")
    return {str(row.get("ILSVRC2012_ID")).removesuffix(".0"): str(row["WNID"]) for row in known}


def _whole(train: str, val: str) -> SetLayout:
    return SetLayout("imagenet", (f"{train}/{ID_FOLDER}", val), _of_splits(train, val), notes=partial(_notes, val=val))


def _layout(set_: str, images: str, *sign: str, named: str = "") -> SetLayout:
    return SetLayout(set_, sign, _of_variant(images), notes=_notes, named=named)


IMAGENET_LAYOUTS = (
    _whole("images/train", "images/val"),
    _whole("train", "val"),
    *(
        layout
        for version in ("matched-frequency", "threshold0.7", "top-images")
        for name in [f"imagenetv2-{version}-format-val"]
        for layout in (
            _layout("imagenet_v2", name, f"{name}/{NUMBER_FOLDER}"),
            _layout("imagenet_v2", "", NUMBER_FOLDER, named=name),
        )
    ),
    *(
        layout
        for set_, name in (("imagenet_a", "imagenet-a"), ("imagenet_r", "imagenet-r"))
        for layout in (_layout(set_, name, f"{name}/{ID_FOLDER}"), _layout(set_, "", ID_FOLDER, named=name))
    ),
    _layout("imagenet_sketch", "images", LIST, "images/n01440764"),
    _layout("imagenet_sketch", "images", f"images/{ID_FOLDER}", named="imagenet-sketch"),
    _layout("imagenet_sketch", "sketch", f"sketch/{ID_FOLDER}"),
    _layout("imagenet_sketch", "", ID_FOLDER, named="imagenet-sketch"),
    _layout("imagenet_sketch", "", ID_FOLDER, named="sketch"),
)
