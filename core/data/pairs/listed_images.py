"""Pairs of an annotation file in JSON: its images sought where such files usually have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import licence_of
from .builder import PairBuilder
from .file_finder import FileFinder
from .pair_set import PairSet
from .record_fields import BrokenRow, texts_of

USUAL_FOLDERS = ("", "images", "imgs", "Images", "JPEGImages")
FOLDERS_OF_LISTS = frozenset({"annotations", "annotation", "captions"})


class ListedImages:
    """Takes the images of an annotation file one by one.

    Args:
        path: the file, or one of several that belong together.
        root: folder that images are relative to; by default the file's own, or the one above `annotations/`.
        also: names of folders in it where images may lie too.
    """

    def __init__(self, path: Path, root: Path | None, also: Sequence[str] = ()):
        self.path = path
        self.base = root or (path.parent.parent if path.parent.name.lower() in FOLDERS_OF_LISTS else path.parent)
        folders = [*USUAL_FOLDERS, *also, *(f"images/{name}" for name in also)]
        self._finder = FileFinder(self.base, [self.base / folder if folder else self.base for folder in folders])
        self.builder = PairBuilder(self.base, path, unit="image")

    def add(self, listed: object, captions: object, place: int, label: str = "", split: str = "") -> None:
        """An image and its captions; listed as skipped where it cannot be used.

        Args:
            listed: name of its file.
            captions: text or list of texts.
            place: its number in the file, from 1.
            label: name of its class, or "".
            split: "train", "val", "test" or "".
        """
        try:
            texts = texts_of(captions, "caption", lists=False)
            if not isinstance(listed, str) or not listed.strip():
                raise BrokenRow(f"image {place} names no file")
            if not texts:
                raise BrokenRow("no caption")
            name, reason = self._finder.find(listed.strip(), f"{self.path} image {place}")
            if reason:
                raise BrokenRow(reason)
        except BrokenRow as error:
            self.builder.skip(str(listed)[:200] if listed else f"{self.path.name} image {place}", str(error))
            return
        self.builder.add(name, texts, label=label, split=split, place=place)

    def build(self) -> PairSet:
        return self.builder.build(name=self.base.name, licence=licence_of(self.base))
