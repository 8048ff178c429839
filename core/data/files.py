"""Files of a data set: found without leaving its folder, told by their format, and expanded into items."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..contracts.items import Decoded, DomainData, Item
from ..errors import DataError, printable, shortened
from ..runtime.reading import read_start, why_not_regular
from .links import CURE, cure_of, lies_in, stays_inside

LICENCE_LINE = re.compile(r"^\W*licen[cs]e\W*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)


@dataclass
class ItemCollector:
    """The items that a reader has made so far, and (file, reason) of what it left out."""

    items: list[Item] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add_file(self, path: Path, name: str, formats: Sequence[Format], **fields: Any) -> None:
        """The samples of one file, by its format; a file that cannot hold any is skipped.

        Args:
            path: the file.
            name: what its items' ids begin with; several samples of a file are told apart by "#1", "#2".
            formats: the first that matches expands the file and says its group, unless `fields` has one.
            fields: of each `Item` (target, split, ...); `decode` is merged into the format's.
        """
        fmt = Format.of(path, formats)
        if fmt is None:
            known = " ".join(suffix for f in formats for suffix in f.suffixes)
            return self.skip(name, f"no reader for this kind of file; known: {known}")
        decode = fields.pop("decode", {})
        try:
            status = path.stat()
            if (reason := why_not_regular(status)) is not None:
                return self.skip(name, reason)
            if not os.access(path, os.R_OK):
                return self.skip(name, "cannot be read (Permission denied)")
            if status.st_size == 0:
                return self.skip(name, "empty file (0 bytes)")
            samples = fmt.expand(path)
            group = fields.pop("group", None) or fmt.group(path, name)
        except OSError as error:
            return self.skip(name, f"cannot be read ({error.strerror})")
        except DataError as error:
            return self.skip(name, str(error))
        for number, part in enumerate(samples, start=1):
            id_ = name if len(samples) == 1 else f"{name}#{number}"
            self.items.append(Item(id=id_, source=path, decode={**part, **decode}, group=group, **fields))
        return None

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append((printable(name), reason))

    def data_set(
        self, place: Path, formats: Sequence[Format], class_names: Iterable[str] = (), **fields: Any
    ) -> DomainData:
        """The set of these items.

        Args:
            place: the folder, or the file that lists its images: the set is called so, and beside it a licence is
                sought.
            formats: what its files are read by.
            fields: of `DomainData`, in place of the usual ones.
        """
        usual = {
            "items": self.items,
            "load": loader(formats),
            "name": place.resolve().name,
            "skipped": self.skipped,
            "licence": licence_of(place if place.is_dir() else place.parent),
        }
        return DomainData(class_names=tuple(class_names), **{**usual, **fields})


def walk(folder: Path, root: Path, collector: ItemCollector) -> Iterator[Path]:
    """Visible files below `folder`, sorted by name.

    Skipped and listed are links that leave `root` or lead nowhere, linked folders, folders that cannot be listed, and
    what is no file.

    Raises:
        DataError: the folder itself cannot be listed.
    """
    waiting = _entries(folder)[::-1]
    while waiting:
        entry = waiting.pop()
        path = Path(entry.path)
        if (reason := why_passed_over(entry, path, root)) is not None:
            collector.skip(shown(path, root), reason)
        elif not is_folder(entry):
            yield path
        else:
            try:
                waiting += _entries(path)[::-1]
            except DataError as error:
                collector.skip(shown(path, root), str(error))


def _entries(folder: Path) -> list[os.DirEntry]:
    return sorted(visible(folder), key=lambda entry: entry.name)


def why_passed_over(entry: os.DirEntry, path: Path, root: Path) -> str | None:
    try:
        if entry.is_symlink():
            path.stat()
            if not stays_inside(path, root):
                return f"a link that leaves the data folder; {CURE}"
            if path.is_dir():
                return "a linked folder, not followed"
        if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):  # known without asking again
            return None
        return why_not_regular(path.stat())
    except (OSError, RuntimeError, ValueError) as error:  # a link in a circle, a name too long, gone meanwhile
        return f"cannot be read ({getattr(error, 'strerror', None) or 'a link that leads nowhere'})"


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def visible(folder: Path) -> list[os.DirEntry]:
    """Entries of a folder but the hidden ones.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check the path and its permissions") from error


def folders(folder: Path) -> list[Path]:
    """Visible folders in a folder, sorted by name; links to it, or to a folder above it, are none."""
    inner = [Path(entry.path) for entry in visible(folder) if is_folder(entry)]
    return sorted(path for path in inner if not leads_up(path))


def leads_up(path: Path) -> bool:
    """Whether a path is a link to a folder that it lies in itself."""
    return path.is_symlink() and lies_in(path.parent, path)


def locate(name: str, roots: Sequence[Path], listed_in: str, formats: Sequence[Format] = ()) -> Path | None:
    """The file that a list names, below the first of `roots` that has it, or None.

    Args:
        name: relative path, or an absolute one inside a root.
        roots: folders to look in.
        listed_in: "labels.csv line 3", for the message.
        formats: a folder that is one sample of one of them, or a file that is part of one, is named by the file that
            stands for it.

    Raises:
        DataError: the path leaves the folders.
    """
    spellings = [name] if "\\" not in name else [name, name.replace("\\", "/")]  # lists made on Windows
    candidates = [(root, root / spelling) for spelling in spellings for root in roots]
    try:
        for root, path in candidates:
            if stays_inside(path, root) and path.is_file():
                return next((file for fmt in formats if (file := fmt.whole_of(path)) is not None), path)
            if stays_inside(path, root) and path.is_dir():
                standing = (file for fmt in formats if (file := fmt.of_folder(path)) is not None)
                if (file := next(standing, None)) is not None:
                    return file
        for root, fmt in product(roots, formats):
            if (file := fmt.named(root, name)) is not None and stays_inside(file, root):
                return file
        leaves = [cure_of(path, at) for at, path in candidates if not any(stays_inside(path, root) for root in roots)]
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{listed_in}: '{shortened(name)}' is not a usable path; correct it") from error
    if leaves:
        raise DataError(f"{listed_in}: '{shortened(name)}' leaves the folder {roots[0]}; {leaves[0]}")
    return None


def shown(path: Path, root: Path) -> str:
    """How a file is named in ids and lists: relative to the set's folder, "/" between parts, printable whatever its
    bytes are."""
    name, start = str(path), f"{root}{os.sep}"
    below = name.startswith(start) and os.pardir not in name
    return printable((name[len(start) :] if below else os.path.relpath(path, root)).replace(os.sep, "/"))


def licence_of(folder: Path) -> str:
    """What README or LICENSE in a data folder says, in one line, or "unknown"."""
    for name in ("README.md", "README.txt", "README"):
        if match := LICENCE_LINE.search(_head(folder / name)):
            return match.group(1).strip()
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        if lines := _head(folder / name).split("\n", 1)[0].strip("# \r"):
            return lines
    return "unknown"


def _head(path: Path) -> str:
    try:
        return read_start(path, 4000).decode("utf-8", "replace").strip()
    except DataError:
        return ""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        name: for messages ("image", "DICOM", "NIfTI").
        suffixes: lower-case endings ("." included; several dots allowed, ".nii.gz").
        load: (file, decode) -> (H, W, 3); raises DataError with the reason where the file cannot be read.
        expand: file -> one JSON-able `decode` dict per sample (frames of a file, slices of a volume).
        group: (file, its name within the set) -> what must not straddle splits (a hashed patient id, a volume), or
            None. What stands above the set's folder must not count: the same set elsewhere is split the same.
        recognise: tells a file without a known suffix by its first bytes.
        of_folder: folder -> the file that stands for it where the whole folder is one sample (bands of one place), or
            None.
        whole: where a sample may be several files (slices of a series): file -> the one that stands for its sample,
            None where it is part of none. Only files that stand for a sample are of the format.
        max_pixels: what `load` finds as "max_pixels" in `decode`, where it is not the usual `Item.MAX_PIXELS`.
        size: (file, decode) -> (width, height) of what `load` gives, by its header; None where only `load` tells.
        columns: names of the column of a table that names such files, besides the usual ones.
        named: (root, name) -> the file below a root that a table names without its ending, or None.
        refused: whether none of its files is a sample here, and `expand` says how they are read.
    """

    name: str
    suffixes: tuple[str, ...]
    load: Callable[[Path, dict[str, Any]], Decoded]
    expand: Callable[[Path], list[dict[str, Any]]] = lambda path: [{}]
    group: Callable[[Path, str], str | None] = lambda path, name: None
    recognise: Callable[[Path], bool] = lambda path: False
    of_folder: Callable[[Path], Path | None] = lambda folder: None
    whole: Callable[[Path], Path | None] | None = None
    max_pixels: int = Item.MAX_PIXELS
    size: Callable[[Path, dict[str, Any]], tuple[int, int]] | None = None
    columns: tuple[str, ...] = ()
    named: Callable[[Path, str], Path | None] = lambda root, name: None
    refused: bool = False

    @staticmethod
    def of(path: Path, formats: Sequence[Format]) -> Format | None:
        """The first format that takes the file, or None."""
        return next((each for each in formats if each.matches(path)), None)

    def matches(self, path: Path) -> bool:
        return self._is_named(path) and (self.whole is None or self.whole(path) == path)

    def whole_of(self, path: Path) -> Path | None:
        """The file that stands for the sample that a file is part of; None where it is no part of one."""
        return None if self.whole is None or not self._is_named(path) else self.whole(path)

    def _is_named(self, path: Path) -> bool:
        if path.name.lower().endswith(self.suffixes):
            return True
        # names that are dotted numbers (DICOM UIDs, "1.2.840.5") have no suffix but a last part
        return (not path.suffix or path.suffix[1:].isdigit()) and self.recognise(path)

    def limited(self, decode: Mapping[str, Any]) -> dict[str, Any]:
        """`decode` with how many pixels are decoded at most, where that is not the usual number."""
        return {**({} if self.max_pixels == Item.MAX_PIXELS else {"max_pixels": self.max_pixels}), **decode}

    def size_of(self, path: Path, decode: Mapping[str, Any]) -> tuple[int, int]:
        """(width, height) of what `load` gives.

        Raises:
            DataError: the file cannot be read.
        """
        if self.size is not None:
            return self.size(path, self.limited(decode))
        height, width = self.load(path, self.limited(decode)).shape[-3:-1]
        return width, height


def loader(formats: Sequence[Format]) -> Callable[[Any], Decoded]:
    """The `DomainData.load` of a set whose files are of these formats."""

    def load(item) -> Decoded:
        fmt = Format.of(Path(item.source), formats)
        if fmt is None:
            known = " ".join(s for f in formats for s in f.suffixes)
            raise DataError(f"{item.source}: no reader for this kind of file; known: {known}")
        return fmt.load(Path(item.source), fmt.limited(item.decode))

    return load


def with_max_pixels(formats: Sequence[Format], max_pixels: int) -> tuple[Format, ...]:
    """The formats with another limit."""
    return tuple(replace(fmt, max_pixels=max_pixels) for fmt in formats)
