"""What the numbers or colours in masks mean: tables that lie beside them, and those of well-known sets.

Read are classes.json ([names], {"3": name}, {name: 3}, {name: [r, g, b]}, or [{"id": 3, "name": ...}] and the same with
"color"), classes.txt (one name a line, or "3: name"), class_dict.csv (name,r,g,b) and labelmap.txt (name:r,g,b::).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....core.errors import DataError, shortened
from ....core.runtime import read_json, read_text

STEMS = ("classes", "class_names", "semantic_classes", "label_names", "labels", "categories", "class_dict", "labelmap")
NOT_CLASSES = frozenset({"unlabeled", "unlabelled", "unlabled", "ignore", "ignored", "void", "__ignore__", "_ignore_"})
"""Names that say that nothing is said of a pixel: ignored."""

VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CITYSCAPES_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""What *_labelIds.png stores for each of the names; *_labelTrainIds.png stores their positions."""

MOST_STORED = 1 << 24
"""Of the numbers in a mask."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskTable:
    """Class names, and which stored numbers or colours stand for them.

    Args:
        names: in order.
        values: stored number -> position in `names`.
        colours: colour -> position in `names`.
    """

    names: tuple[str, ...]
    values: dict[int, int] = field(default_factory=dict)
    colours: dict[Colour, int] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Iterable[tuple[int | Colour, str]]) -> MaskTable:
        """From (number or colour, name), in the order classes shall have; one name may have several."""
        names: dict[str, int] = {}
        values: dict[int, int] = {}
        colours: dict[Colour, int] = {}
        for key, name in pairs:
            if name.strip().casefold() in NOT_CLASSES:
                continue
            position = names.setdefault(name.strip(), len(names))
            if isinstance(key, tuple):
                colours[key] = position
            else:
                values[key] = position
        return cls(tuple(names), values, colours)

    def without_zero(self) -> MaskTable:
        """The table without what 0 stands for, which is no class."""
        gone = self.values.get(0)
        if gone is None:
            return self
        pairs = [(value, self.names[position]) for value, position in sorted(self.values.items()) if value != 0]
        return MaskTable.of(pairs)


def table_beside(folders: Sequence[Path]) -> tuple[MaskTable, Path] | None:
    """The first table in the folders, with its file.

    Raises:
        DataError: it cannot be read or has another shape.
    """
    for folder in folders:
        for stem in STEMS:
            for suffix, read in READERS.items():
                file = folder / f"{stem}{suffix}"
                if file.is_file() and (table := read(file)) is not None:
                    return table, file
    return None


def voc_table() -> MaskTable:
    """Pascal VOC's 21 classes, by number and by the colours that its palette gives them."""
    values = {position: position for position in range(len(VOC_NAMES))}
    return MaskTable(VOC_NAMES, values, {voc_colour(position): position for position in values})


def voc_colour(number: int) -> Colour:
    """The colour of a class number: its bits, three by three, from the highest of each channel down."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    red, green, blue = channels
    return red, green, blue


def cityscapes_table(train_ids: bool) -> MaskTable:
    """The 19 classes that Cityscapes counts."""
    stored = range(len(CITYSCAPES_NAMES)) if train_ids else CITYSCAPES_IDS
    return MaskTable.of(zip(stored, CITYSCAPES_NAMES, strict=True))


def ade_table(folder: Path) -> MaskTable:
    """The 150 classes of ADE20K's scene parsing, stored as 1 to 150; 0 is all else.

    Names are those of objectInfo150.txt where it is there, else mmseg's.
    """
    listing = folder / "objectInfo150.txt"
    if listing.is_file():
        rows = [line.split("\t") for line in read_text(listing, lenient=True).splitlines()[1:]]
        names = [row[-1].split(",")[0].strip() for row in rows if len(row) > 1]
    else:
        from mmseg.datasets.ade import ADE20KDataset

        names = list(ADE20KDataset.METAINFO["classes"])
    return MaskTable.of(enumerate(names, start=1))


def _read_json(file: Path) -> MaskTable | None:
    content = read_json(file)
    if isinstance(content, dict):
        content = next((content[key] for key in ("classes", "categories", "labels") if key in content), content)
    try:
        pairs = _pairs(content)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{file}: its classes have an unknown shape ({shortened(repr(error))}); "
            "write a list of names, or {name: number}"
        ) from error
    return _checked(file, pairs)


def _pairs(content: Any) -> list[tuple[int | Colour, str]]:
    if isinstance(content, list):
        if all(isinstance(entry, str) for entry in content):
            return list(enumerate(content))
        pairs = [_entry(entry) for entry in content]
        return sorted(pairs, key=lambda pair: pair[0]) if all(isinstance(key, int) for key, _ in pairs) else pairs
    if all(str(key).lstrip("-").isdigit() for key in content):
        return sorted((int(key), str(name)) for key, name in content.items())
    pairs = [(_number_or_colour(value), str(name)) for name, value in content.items()]
    return sorted(pairs) if all(isinstance(key, int) for key, _ in pairs) else pairs


def _entry(entry: dict[str, Any]) -> tuple[int | Colour, str]:
    key = next((entry[name] for name in ("id", "value", "index") if name in entry), None)
    if key is None:
        key = entry["color"] if "color" in entry else entry["colour"]
    return _number_or_colour(key), str(entry["name"])


def _number_or_colour(value: Any) -> int | Colour:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) >= 3:
        red, green, blue = map(int, value[:3])
        return red, green, blue
    return int(value)


def _read_lines(file: Path) -> MaskTable | None:
    lines = [line.strip() for line in read_text(file).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    coloured = [re.fullmatch(r"([^:]+):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(:.*)?", line) for line in lines]
    if lines and all(coloured):
        return _checked(file, [(tuple(int(match[n]) for n in (2, 3, 4)), match[1]) for match in coloured])
    numbered = [re.fullmatch(r"(\d+)\s*[:,\t ]\s*(.+)", line) for line in lines]
    if lines and all(numbered):
        return _checked(file, [(int(match[1]), match[2]) for match in numbered])
    return _checked(file, list(enumerate(lines)))


def _read_csv(file: Path) -> MaskTable | None:
    rows = [row for row in csv.reader(read_text(file).splitlines()) if row]
    pairs: list[tuple[int | Colour, str]] = []
    for row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) >= 4 and all(cell.isdigit() for cell in cells[1:4]):
            red, green, blue = map(int, cells[1:4])
            pairs.append(((red, green, blue), cells[0]))
        elif len(cells) == 2 and any(cell.isdigit() for cell in cells):
            pairs.append((int(cells[0]), cells[1]) if cells[0].isdigit() else (int(cells[1]), cells[0]))
    return _checked(file, pairs) if pairs else None  # a table of something else


def check_keys(pairs: Iterable[tuple[int | Colour, str]]) -> None:
    """Raises ValueError for a number or a colour that no mask can store."""
    for key, name in pairs:
        if not (all(0 <= channel <= 255 for channel in key) if isinstance(key, tuple) else 0 <= key < MOST_STORED):
            raise ValueError(f"class '{shortened(name)}' has the number {shortened(key)}")


def _checked(file: Path, pairs: list[tuple[int | Colour, str]]) -> MaskTable:
    pairs = [(key, name) for key, name in pairs if isinstance(key, tuple) or key >= 0]  # of Cityscapes, one is -1
    try:
        check_keys(pairs)
    except ValueError as error:
        raise DataError(f"{file}: {error}, which no mask stores; correct it") from error
    table = MaskTable.of(pairs)
    if not table.names:
        raise DataError(f"{file}: names no class; write one per line, or {{name: number}}")
    if table.values and table.colours:
        raise DataError(f"{file}: gives numbers for some classes and colours for others; write one kind")
    return table


READERS = {".json": _read_json, ".txt": _read_lines, ".csv": _read_csv}
