"""Folders as the eleven sets of few-shot research are published or laid out by CoOp; ImageNet's are in `imagenet.py`.

Where a `split_zhou_*.json` lies beside the images it decides (`core/data/zhou_split.py`); these layouts are for folders
without one, as torchvision unpacks them, and for FGVC-Aircraft, which CoOp reads without one. Names of classes are
CoOp's. Only Pets, Flowers, Food, Cars, SUN, DTD, Aircraft and UCF say which images are for testing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.contracts import DomainData, Label, check_items
from ...core.data import IMAGE, Format, ItemCollector, folders, locate, read_matlab, shown, walk
from ...core.errors import DataError, shortened
from ...core.runtime import read_json, text_lines
from .known_sets import plain_name, recognised

CALTECH_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
CALTECH_LEFT_OUT = ("BACKGROUND_Google", "Faces_easy")
EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


@dataclass(frozen=True)
class ListEntry:
    """One image of a list.

    Args:
        image: its path below the folder of images.
        name: of its class.
        split: "train", "val", "test", or "" where nothing says.
        order: what classes are sorted by, as the base and the new ones of an evaluation are told by their order; None
            for the name.
        group: what must stay together (the video of a frame), or None.
    """

    image: str
    name: str
    split: str = ""
    order: str | int | None = None
    group: str | None = None


@dataclass(frozen=True)
class SetLayout:
    """How a set is laid out.

    Args:
        set: its name in known_sets.json.
        sign: globs of paths that all lie in such a folder.
        entries: folder -> its images, in order.
        inside: folders that may stand between the given one and that with the sign.
        named: what the folder must be called besides, in any spelling; "" for any name.
        notes: folder -> sentences for the user.
    """

    set: str
    sign: tuple[str, ...]
    entries: Callable[[Path], Iterator[ListEntry]]
    inside: tuple[str, ...] = ()
    named: str = ""
    notes: Callable[[Path], list[str]] = lambda folder: []


def set_layout(path: Path, layouts: Sequence[SetLayout]) -> tuple[SetLayout, Path] | None:
    """The layout of a folder and where its sign lies, or None."""
    if not path.is_dir():
        return None
    name = plain_name(path.resolve().name)
    for layout in (each for each in layouts if not each.named or plain_name(each.named) == name):
        for folder in (path, *(path / inner for inner in layout.inside)):
            if all(next(folder.glob(sign), None) is not None for sign in layout.sign):
                return layout, folder
    return None


def read_set_layout(layout: SetLayout, folder: Path, formats: Sequence[Format] = (IMAGE,)) -> DomainData:
    """A labelled set from such a folder.

    Images that a list names and that are not there are skipped and listed.

    Raises:
        DataError: a list is missing or malformed, a path leaves the folder, or no image is there.
    """
    collector, entries = ItemCollector(), list(layout.entries(folder))
    classes = sorted({_class_of(entry) for entry in entries})  # ImageNet has two missiles and two pairs of sunglasses
    labels = {each: index for index, each in enumerate(classes)}
    for entry in entries:
        if (file := locate(entry.image, (folder,), f"{folder}: its lists")) is None:
            collector.skip(entry.image, f"no such file below {folder}")
            continue
        fields = {} if entry.group is None else {"group": entry.group}
        collector.add_file(
            file, entry.image, formats, target=Label(labels[_class_of(entry)]), split=entry.split, **fields
        )
    class_names = [name for _, name in classes]
    name = layout.set if recognised([layout.set], len(classes)) else folder.resolve().name
    data = collector.data_set(folder, formats, class_names, name=name, notes=layout.notes(folder))
    return check_items(data, folder)


def _class_of(entry: ListEntry) -> tuple[str | int, str]:
    """What tells classes apart, and sorts them."""
    return (entry.name if entry.order is None else entry.order), entry.name


# one function per set, public lists first -----------------------------------------------------------------------------


def _aircraft(folder: Path) -> Iterator[ListEntry]:
    for split in ("train", "val", "test"):
        for line in text_lines(folder / f"images_variant_{split}.txt"):
            image, _, name = line.strip().partition(" ")
            if image:
                yield ListEntry(f"images/{image}.jpg", name, split)


def _pets(folder: Path) -> Iterator[ListEntry]:
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        for line in text_lines(folder / "annotations" / file):
            if line.strip() and not line.startswith("#"):
                image = line.split()[0]
                name = image.rpartition("_")[0].replace("_", " ").lower()
                yield ListEntry(f"images/{image}.jpg", name, split)


def _food(folder: Path) -> Iterator[ListEntry]:
    for split in ("train", "test"):
        for line in text_lines(folder / "meta" / f"{split}.txt"):
            if image := line.strip():
                yield ListEntry(f"images/{image}.jpg", image.partition("/")[0].replace("_", " "), split)


def _textures(folder: Path) -> Iterator[ListEntry]:
    for split in ("train", "val", "test"):
        for line in text_lines(folder / "labels" / f"{split}1.txt"):
            if image := line.strip():
                yield ListEntry(f"images/{image}", image.partition("/")[0], split)


def _sun(folder: Path) -> Iterator[ListEntry]:
    above = "SUN397/" if (folder / "SUN397").is_dir() else ""
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        for line in text_lines(folder / file):
            if image := line.strip().lstrip("/"):
                places = image.split("/")[1:-1]  # without the first letter
                name = " ".join(places[::-1]).replace("_", " ")
                yield ListEntry(above + image, name, split, order=image.rpartition("/")[0])


def _ucf(folder: Path) -> Iterator[ListEntry]:
    for split, file in (("train", "trainlist01.txt"), ("test", "testlist01.txt")):
        for line in text_lines(folder / "ucfTrainTestlist" / file):
            if not line.strip():
                continue
            action, _, video = line.split()[0].partition("/")
            words = "_".join(re.findall("[A-Z][^A-Z]*", action))
            filmed = re.search(r"_(g\d+)_", video)
            group = f"{action} {filmed.group(1)}" if filmed else None
            image = f"UCF-101-midframes/{words}/{video.removesuffix('.avi')}.jpg"
            yield ListEntry(image, words.replace("_", " "), split, action, group)


def _flowers(folder: Path) -> Iterator[ListEntry]:
    labels, names = _whole_numbers(folder / "imagelabels.mat", "labels")["labels"], _flower_names(folder)
    parts = _whole_numbers(folder / "setid.mat", "trnid", "valid", "tstid")
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        for number in parts[key]:
            if not 1 <= number <= len(labels) or labels[number - 1] not in names:
                raise DataError(f"{folder / 'setid.mat'}: image {number} has no class; get the file again")
            label = labels[number - 1]
            yield ListEntry(f"jpg/image_{number:05d}.jpg", names[label], split, label)


def _flower_names(folder: Path) -> dict[int, str]:
    """From CoOp's cat_to_name.json where it lies there, else torchvision's."""
    if (file := folder / "cat_to_name.json").is_file():
        content = read_json(file)
        named = isinstance(content, dict) and all(k.isdigit() and isinstance(v, str) for k, v in content.items())
        if not named:
            raise DataError(f"{file}: not a JSON object of numbers and names; get the file again")
        return {int(number): name for number, name in content.items()}
    from torchvision.datasets import Flowers102

    return dict(enumerate(Flowers102.classes, start=1))


def _cars(folder: Path) -> Iterator[ListEntry]:
    names = [str(name) for name in read_matlab(folder / "devkit" / "cars_meta.mat", "class_names")["class_names"]]
    lists = (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat"))
    for split, file in lists:
        for row in read_matlab(folder / file, "annotations")["annotations"]:
            number, image = _field(row, "class", folder / file), _field(row, "fname", folder / file)
            if not number.isdecimal() or not 1 <= int(number) <= len(names):
                raise DataError(f"{folder / file}: class {shortened(number)} of {len(names)}; get the file again")
            *words, year = names[int(number) - 1].split(" ")
            yield ListEntry(f"cars_{split}/{image}", " ".join([year, *words]), split, int(number))


def _caltech(folder: Path) -> Iterator[ListEntry]:
    for inner in folders(folder / "101_ObjectCategories"):
        if inner.name not in CALTECH_LEFT_OUT:
            name = CALTECH_NAMES.get(inner.name, inner.name.replace("_", " "))
            yield from folder_entries(inner, folder, name, order=inner.name)


def _eurosat(folder: Path) -> Iterator[ListEntry]:
    for inner in folders(folder / "2750"):
        yield from folder_entries(inner, folder, EUROSAT_NAMES.get(inner.name, inner.name), order=inner.name)


# steps ----------------------------------------------------------------------------------------------------------------


def folder_entries(folder: Path, root: Path, name: str, split: str = "", *, order: str) -> Iterator[ListEntry]:
    for file in walk(folder, root, ItemCollector()):
        if IMAGE.matches(file):
            yield ListEntry(shown(file, root), name, split, order)


def _whole_numbers(file: Path, *keys: str) -> dict[str, list[int]]:
    content = read_matlab(file, *keys)
    for key, values in content.items():
        if not all(isinstance(value, (int, float)) and value == value and abs(value) < 1e9 for value in values):
            raise DataError(f"{file}: '{key}' are not whole numbers; get it again")
    return {key: [int(value) for value in values] for key, values in content.items()}


def _field(row: Any, name: str, file: Path) -> str:
    """A cell of a structure as text."""
    if not isinstance(row, dict) or row.get(name) in (None, []):
        raise DataError(f"{file}: its annotations have no '{name}'; get it again")
    return str(row[name])


LAYOUTS = (
    SetLayout("fgvc_aircraft", ("images", "images_variant_train.txt"), _aircraft, ("data", "fgvc-aircraft-2013b/data")),
    SetLayout("oxford_pets", ("images", "annotations/trainval.txt"), _pets, ("oxford-iiit-pet",)),
    SetLayout("food101", ("images", "meta/train.txt"), _food, ("food-101",)),
    SetLayout("dtd", ("images", "labels/train1.txt"), _textures, ("dtd", "dtd/dtd")),
    SetLayout("sun397", ("Training_01.txt", "Testing_01.txt"), _sun, ("SUN397",)),
    SetLayout("ucf101", ("UCF-101-midframes", "ucfTrainTestlist/trainlist01.txt"), _ucf),
    SetLayout("oxford_flowers", ("jpg", "imagelabels.mat", "setid.mat"), _flowers, ("flowers-102",)),
    SetLayout("stanford_cars", ("devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"), _cars, ("stanford_cars",)),
    SetLayout("caltech101", ("101_ObjectCategories",), _caltech, ("caltech101", "caltech-101")),
    SetLayout("eurosat", ("2750/AnnualCrop", "2750/SeaLake"), _eurosat, ("eurosat",)),
)
