"""How the domain reads: its options, and what one kind of set is to the readers that are asked in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ...core.contracts import DomainData, Item, option, settle
from ...core.data import IMAGE, Format, ItemCollector, folders, locate, shown
from ...core.errors import ConfigError, DataError, printable
from .pedestrian import IDENTITIES, Pedestrian

ALWAYS_TAKEN = ("max_pixels", "detections")
"""Options that every kind of set takes."""


@dataclass(frozen=True, kw_only=True)
class PersonReading:
    """Options of `Person.read`, given as `data.NAME` in a recipe."""

    root: str | None = option(
        None, "tables and JSON: folder that paths of images are relative to; by default their own", metavar="DIR"
    )
    detections: str | None = option(
        None, "a detector's COCO JSON, by which people are cut out of photographs", metavar="FILE"
    )
    detected: bool = option(False, "CUHK03: the boxes of a detector in place of those drawn by hand")
    class_names: tuple[str, ...] | None = option(None, "attributes: which of them, in order; by default all")
    absent: str = option(
        "0", "attributes: what a cell of the table holds for a person without the attribute", metavar="VALUE"
    )
    unknown: str = option("-1", "attributes: the value in tables and .mat files for unknown", metavar="VALUE")
    max_pixels: int = Item.max_pixels_option()

    def __post_init__(self):
        settle(self)

    @property
    def formats(self) -> tuple[Format, ...]:
        """Image files, of as many pixels as these options say."""
        return (replace(IMAGE, max_pixels=self.max_pixels),)


@dataclass(frozen=True)
class SetFormat:
    """One kind of set of pictures of people. A further kind is a file in `readers/` and an entry in `FORMATS`.

    Args:
        name: for messages ("Market-1501's folders").
        tasks: names of the tasks that it can be read for.
        find: path -> what of it is read, or None where it is of another kind; only names, and the start of one file,
            are looked at.
        read: (what `find` gave, options, task) -> the set.
        takes: names of the options of `PersonReading` that it takes, besides `ALWAYS_TAKEN`.
    """

    name: str
    tasks: tuple[str, ...]
    find: Callable[[Path], Path | None]
    read: Callable[[Path, PersonReading, str], DomainData]
    takes: tuple[str, ...] = ()


def folder_with(path: Path, is_one: Callable[[Path], bool]) -> Path | None:
    """The folder of a set: `path`, or one folder in it."""
    return next((each for each in (path, *folders(path)) if is_one(each)), None) if path.is_dir() else None


def read_set(path: Path, task: str, reading: PersonReading, formats: Sequence[SetFormat]) -> DomainData:
    """The set at `path`, by the first format that knows it.

    Raises:
        DataError: no such path, or nothing there that the task can be read from.
        ConfigError: an option that does not apply to what is found.
    """
    kinds = ", ".join(fmt.name for fmt in formats if task in fmt.tasks)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give {kinds}")
    others = []
    for fmt in formats:
        if (source := fmt.find(path)) is None:
            continue
        if task not in fmt.tasks:
            others.append(fmt)
            continue
        for name in [each.name for each in fields(reading) if getattr(reading, each.name) != each.default]:
            if name not in (*fmt.takes, *ALWAYS_TAKEN):
                raise ConfigError(f"--set data.{name}: does not apply to {fmt.name} ({source}); omit it")
        return fmt.read(source, reading, task)
    if others:
        tasks = " or ".join(f"--task {name}" for name in others[0].tasks)
        raise DataError(f"{path}: {others[0].name}, which {task} cannot use; give {tasks}, or {kinds}")
    raise DataError(f"{path}: nothing that {task} can use; give {kinds}")


@dataclass
class PeopleCollector(ItemCollector):
    """The pictures that a reader has made so far; one person's never stand in two splits.

    Args:
        source: file or folder that is read, for messages.
        split_of: identity -> the split it was first met in.
        junk: pictures left out because the data mark them as of no use.
    """

    source: Path = field(default_factory=Path)
    split_of: dict[str, tuple[str, str]] = field(default_factory=dict)
    junk: int = 0

    def add_person(self, path: Path, name: str, formats: Sequence[Format], target: Pedestrian, **fields) -> None:
        """One picture, as `add_file` takes it; its group is its identity.

        Raises:
            DataError: the identity was met in another split.
        """
        split, identity = fields.get("split", ""), target.identity
        if identity is not None:
            first, where = self.split_of.setdefault(identity, (split, name))
            if first != split:
                here, there = split or "no split", first or "no split"
                raise DataError(
                    f"{self.source}: identity {printable(identity)} is in {there} ({printable(where)}) and in {here} "
                    f"({printable(name)}); all pictures of a person belong to one split"
                )
        self.add_file(path, name, formats, target=target, group=identity, **fields)

    def add_listed(
        self, name: str, roots: Sequence[Path], listed_in: str, root: Path, formats, target: Pedestrian, split: str
    ) -> None:
        """A picture that a list names, below the first of `roots` that has it; messages name it as below `root`.

        Raises:
            DataError: as `add_person`, or the path leaves the folders.
        """
        file = locate(name, roots, listed_in, formats)
        if file is None:
            self.skip(name, f"no such file below {roots[0]}")
        else:
            self.add_person(file, shown(file, root), formats, target, split=split)

    def data(self, name: str, kind: str, formats: Sequence[Format], notes: Sequence[str] = ()) -> DomainData:
        """The set.

        Raises:
            DataError: no picture can be used.
        """
        if not self.items:
            first = f" ({self.skipped[0][0]}: {self.skipped[0][1]})" if self.skipped else ""
            raise DataError(f"{self.source}: no picture of a person can be read{first}; check the folder of the images")
        said = list(notes)
        if self.junk:
            said.append(f"Junk pictures (identity -1), left out: {self.junk}.")
        if kind == IDENTITIES and (nobody := sum(item.target.identity is None for item in self.items)):
            said.append(f"Distractors, which are in the gallery as nobody's pictures: {nobody}.")
        return self.data_set(self.source, formats, kind=kind, name=name, notes=said)
