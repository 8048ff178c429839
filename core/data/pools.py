"""Pools: the images of a folder, or of whatever a domain reads, of which some are to be labelled."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.items import DomainData, Item, Label
from ..contracts.recipe import SAMPLE
from ..errors import ConfigError, DataError, printable
from ..runtime.reading import read_text
from .group_columns import AUTO, OPTION, group_by_tables_beside
from .unlabelled import images_of

EXAMPLE = 'for instance --classes "cat, dog", or a text file with one name per line'


def named_classes(given: Any) -> tuple[str, ...]:
    """Class names that a user gives: comma-separated, a text file with one per line, or a list.

    Raises:
        ConfigError: none, only one, or a name twice.
    """
    if given is None:
        raise ConfigError(f"--classes: name the classes, {EXAMPLE}")
    names = listed_names(given)
    if len(set(names)) < 2:
        raise ConfigError(f"--classes: {len(set(names))} class; give at least two, {EXAMPLE}")
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ConfigError(f"--classes: '{twice}' is given twice; omit one")
    return tuple(names)


def listed_names(given: Any) -> list[str]:
    """As the user lists them: comma-separated, one per line of a text file, or a list."""
    if isinstance(given, str):
        given = read_text(Path(given)).splitlines() if Path(given).is_file() else given.split(",")
    return [str(name).strip() for name in given if str(name).strip()]


def read_pool(domain: Domain, task: str, path: str, reading: Mapping[str, Any]) -> DomainData:
    """Every image that a domain finds at a path, without label or split; ids are relative to the path. A table in the
    folder may say which of them belong together (`group_columns.py`).

    Args:
        path: a folder or a file, or "sample" for the domain's own images, whose labels are forgotten.
        reading: options of the domain's reader.

    Raises:
        DataError: no such path, or no image there. UnknownNameError: no table there has the column of groups.
    """
    if path == SAMPLE:
        data = domain.sample_as(task, reading)
    elif os.path.exists(path):
        data = images_of(domain, [path], {name: value for name, value in reading.items() if name != "root"})
    else:
        raise DataError(f"--data {path}: no such file or folder; give the folder of the images")
    above = printable(Path(path).as_posix()).rstrip("/") + "/"
    items = [item.with_(id=item.id.removeprefix(above), target=None, split="") for item in data.items]
    data = data.with_items(items)
    if not Path(path).is_dir():
        return data
    return group_by_tables_beside(data, Path(path), reading.get(OPTION) or AUTO)


def pool_of_classes(data: DomainData, class_names: Sequence[str], by_folders: bool = True) -> DomainData:
    """The pool of images that show some classes.

    Args:
        class_names: all classes.
        by_folders: images in a folder that is called as a class have that label, whatever its spelling ("Great_Dane"
            for "great dane"); other folders say nothing.
    """
    index = {_plain(name): place for place, name in enumerate(class_names)}

    def labelled(item: Item) -> Item:
        folders = reversed(item.id.split("/")[:-1])
        place = next((index[plain] for name in folders if (plain := _plain(name)) in index), None)
        return item if place is None else item.with_(target=Label(place))

    pool = data.with_items([labelled(item) for item in data.items] if by_folders else data.items)
    pool.class_names = tuple(class_names)
    return pool


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())
