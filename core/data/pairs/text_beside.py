"""A folder of images, each with a text file of the same name beside it."""

from __future__ import annotations

from pathlib import Path

from ..class_folders import Layout
from ..files import ItemCollector, licence_of, shown, walk
from ..images import IMAGE
from .builder import PairBuilder
from .pair_set import PairSet
from .record_fields import cleaned

LONGEST_TEXT = 1 << 20


def holds_texts_beside(folder: Path) -> bool:
    """Whether an image in the folder, or below it, has its text beside it."""
    return any(
        file.suffix.lower() in IMAGE.suffixes and file.with_suffix(".txt").is_file()
        for file in walk(folder, folder, ItemCollector())
    )


def read_texts_beside(folder: Path) -> PairSet:
    """Images below the folder with the captions of `NAME.txt`, one per line. A folder train, val or test at the top is
    a split.

    Raises:
        DataError: no image has a text.
    """
    collector = ItemCollector()
    builder = PairBuilder(folder, folder)
    for place, file in enumerate(walk(folder, folder, collector), start=1):
        if file.suffix.lower() not in IMAGE.suffixes:
            continue
        name = shown(file, folder)
        captions, reason = captions_beside(file.with_suffix(".txt"))
        if not reason and file.stat().st_size == 0:
            reason = "empty file (0 bytes)"
        if reason:
            builder.skip(name, reason)
            continue
        top = name.split("/")[0].lower() if "/" in name else ""
        builder.add(file.relative_to(folder).as_posix(), captions, split=Layout.SPLITS.get(top, ""), place=place)
    builder.skipped.extend(collector.skipped)
    return builder.build(name=folder.name, licence=licence_of(folder))


def captions_beside(file: Path) -> tuple[list[str], str]:
    """(captions, "") of a text file, or ([], why there are none)."""
    if not file.is_file():
        return [], f"no {file.name} next to it"
    if file.stat().st_size > LONGEST_TEXT:
        return [], f"{file.name} has more than {LONGEST_TEXT} bytes"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return [], f"{file.name} is not UTF-8 text"
    except OSError as error:
        return [], f"{file.name} cannot be read ({error.strerror})"
    captions = [caption for line in text.splitlines() if (caption := cleaned(line))]
    return captions, "" if captions else f"{file.name} is empty"
