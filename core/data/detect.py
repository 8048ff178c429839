"""Which reader fits, told by looking at the path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..contracts.domain import Reading
from ..contracts.items import DomainData
from ..contracts.options import options_from
from ..errors import ConfigError, DataError
from ..runtime.reading import read_json
from .class_folders import Layout, read_class_folders
from .coco import CocoFile, read_coco_crops
from .files import Format, visible, with_max_pixels
from .images import IMAGE
from .manifests import has_label_columns, read_manifest
from .tables import Table
from .voc import VocSet, read_voc_crops
from .zhou_split import is_zhou_split, read_zhou_split

MANIFEST_STEMS = ("manifest", "metadata", "labels")
FEATURE_SUFFIXES = (".npz", ".safetensors")
WHAT_IS_READ = (
    "a folder of class folders (also below train, val, test), a manifest (csv, tsv, jsonl), a split_zhou_*.json, "
    "COCO instances*.json, or VOC Annotations/"
)

READERS: dict[str, tuple[Callable[..., DomainData], tuple[str, ...]]] = {
    "a split_zhou file": (read_zhou_split, ("root",)),
    "a manifest": (read_manifest, ("class_names", "root", "label_column", "group_column")),
    "COCO boxes": (read_coco_crops, ("min_side",)),
    "VOC boxes": (read_voc_crops, ("min_side",)),
    "class folders": (read_class_folders, ("group_column",)),
}


def read_any(path: str | Path, formats: Sequence[Format] = (IMAGE,), **options: Any) -> DomainData:
    """A labelled set of whatever kind lies at `path`.

    A file is judged by suffix and content. In a folder the first of these counts: `split_zhou_*.json`, a table called
    manifest, metadata or labels, COCO's `instances*.json`, VOC's `Annotations/`, class folders, else the only table.
    A table of no labels beside class folders may say which images belong together.

    Args:
        path: file or folder.
        formats: what counts as an image.
        options: fields of `Reading`. None counts as not given.

    Raises:
        DataError: nothing there that can be read; the message says what would be.
        UnknownNameError: no such option.
        ConfigError: a value that is not usable, or an option that does not apply to the kind of set found.
    """
    reading, path = options_from(Reading, options, "the reader of labelled images"), Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give {WHAT_IS_READ}")
    if path.is_dir():
        kind, source = _kind_of_folder(path, formats, labels_named=reading.label_column is not None)
    else:
        kind, source = _kind_of_file(path), path
    reader, known = READERS[kind]
    formats, default = with_max_pixels(formats, reading.max_pixels), Reading()
    given = {name: value for name, value in vars(reading).items() if value != getattr(default, name)}
    asked = {name: value for name, value in given.items() if name != "max_pixels"}
    for name in asked:
        if name not in known:
            takes = f"; they take {', '.join(known)}" if known else ""
            raise ConfigError(f"option '{name}' does not apply to {kind} ({source}){takes}; omit it")
    return reader(source, formats=formats, **asked)


def _kind_of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = read_json(path)
        if is_zhou_split(content):
            return "a split_zhou file"
        return "COCO boxes" if CocoFile.is_shape_of(content) else "a manifest"
    if suffix in FEATURE_SUFFIXES:
        raise DataError(f"{path}: may hold stored features, but no images; give features by --features {path}")
    if suffix not in Table.SUFFIXES:
        raise DataError(f"{path}: not a known kind of data set; give {WHAT_IS_READ}")
    return "a manifest"


def _kind_of_folder(path: Path, formats: Sequence[Format], labels_named: bool) -> tuple[str, Path]:
    names = sorted(entry.name for entry in visible(path))
    if not names:
        raise DataError(f"{path}: empty folder; give {WHAT_IS_READ}")
    zhou = [name for name in names if name.startswith("split_zhou_") and name.endswith(".json")]
    tables = [name for name in names if Path(name).suffix.lower() in (".csv", ".tsv", ".jsonl")]
    manifests = [name for name in tables if Path(name).stem.lower() in MANIFEST_STEMS]
    for kind, files in (("a split_zhou file", zhou), ("a manifest", manifests)):
        if len(files) > 1:
            raise DataError(f"{path}: holds {', '.join(files)}; give one of them")
        if files and (kind != "a manifest" or labels_named or _has_the_labels(path / files[0], path, formats)):
            return kind, path / files[0]
    if CocoFile.found_in(path):
        return "COCO boxes", path
    if VocSet.files(path):
        return "VOC boxes", path
    if (labels_named or Layout.of(path, formats) is None) and len(tables) == 1:
        return "a manifest", path / tables[0]
    return "class folders", path


def _has_the_labels(table: Path, folder: Path, formats: Sequence[Format]) -> bool:
    """Whether the labels stand in a table, and not in the names of folders beside it."""
    return Layout.of(folder, formats) is None or has_label_columns(table)
