"""CoOp's `split_zhou_*.json`: {"train": [[image, label, class name], ...], "val": [...], "test": [...]}.

Learning to Prompt for Vision-Language Models, 2021, arXiv 2109.01134.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..contracts.items import DomainData, Item, Label, check_items
from ..errors import DataError
from ..runtime.reading import read_json
from .files import Format, ItemCollector, folders, locate
from .images import IMAGE

PROBED = 20  # images looked for when the image folder is sought


def read_zhou_split(
    path: str | Path, root: str | Path | None = None, formats: Sequence[Format] = (IMAGE,)
) -> DomainData:
    """A labelled set with the splits of the file.

    Args:
        path: the JSON file.
        root: folder the image paths are relative to; by default the file's own or one in it, whichever has the images.
        formats: what counts as an image.

    Raises:
        DataError: the file is missing or malformed, a label has two names, a path leaves the folder, or no image is
            found.
    """
    path = Path(path)
    entries = list(_entries(path))
    folder = Path(root) if root is not None else _image_folder(path, [entry[1] for entry in entries])
    names = _class_names(path, entries)
    index = {label: position for position, label in enumerate(sorted(names))}
    collector = ItemCollector()
    for split, name, label, _ in entries:
        file = locate(name, (folder,), str(path))
        if file is None:
            collector.skip(name, f"no such file below {folder}")
        else:
            collector.add_file(file, name, formats, target=Label(index[label]), split=split)
    if not collector.items:
        raise DataError(f"{path}: none of its {len(entries)} images lies below {folder}; put them next to the file")
    class_names = [names[label] for label in sorted(names)]
    data = collector.data_set(path, formats, class_names, name=path.stem.removeprefix("split_zhou_"))
    return check_items(data, path)


def is_zhou_split(content: Any) -> bool:
    """Whether parsed JSON has the shape of such a file."""
    named = isinstance(content, dict) and {"train", "test"} <= set(content) <= set(Item.SPLITS)
    return named and all(isinstance(entries, list) for entries in content.values())


def _entries(path: Path) -> Iterator[tuple[str, str, int, str]]:
    """(split, image, label, class name), each image once: where val repeats test (ImageNet), test keeps it."""
    content = read_json(path)
    if not is_zhou_split(content):
        raise DataError(f"{path}: has no 'train' and 'test' lists; give a split file as CoOp writes it")
    seen: set[str] = set()
    for split in ("test", "val", "train"):
        for number, entry in enumerate(content.get(split, []), start=1):
            valid = isinstance(entry, list) and [type(value) for value in entry] == [str, int, str]
            if not valid:
                raise DataError(f"{path}: {split} entry {number} is not [image, label, class name]; correct it")
            if entry[0] not in seen:
                seen.add(entry[0])
                yield (split, *entry)


def _class_names(path: Path, entries: Sequence[tuple[str, str, int, str]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for _, _, label, name in entries:
        if names.setdefault(label, name) != name:
            raise DataError(f"{path}: label {label} is called '{names[label]}' and '{name}'; give it one name")
    return names


def _image_folder(path: Path, names: Sequence[str]) -> Path:
    """The file's folder or the folder in it that has most of the first images."""
    candidates = [path.parent, *folders(path.parent)]
    probes = names[:PROBED]
    return max(candidates, key=lambda folder: sum((folder / name).is_file() for name in probes))
