"""Pairs from annotation files that list images: COCO captions, Karpathy's splits, person search."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...runtime.reading import read_json
from ..coco import CocoFile, split_of
from ..files import licence_of
from .builder import PairBuilder
from .file_finder import FileFinder
from .pair_set import PairSet
from .record_fields import BrokenRow, split_named, texts_of

IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset")
USUAL_FOLDERS = ("", "images", "imgs", "Images", "JPEGImages")
FOLDERS_OF_LISTS = frozenset({"annotations", "annotation", "captions"})
IMAGE_KEYS = ("file_path", "img_path")


def is_coco_captions(content: Any) -> bool:
    """Whether parsed JSON has the shape of such a file."""
    return CocoFile.is_shape_of(content) and any(
        isinstance(annotation, dict) and "caption" in annotation for annotation in content["annotations"][:1]
    )


def read_coco_captions(paths: Sequence[Path], root: Path | None = None) -> PairSet:
    """The images of one or more files, each with its captions.

    Several files tell the splits by their names (`captions_train2017.json`); the name of a single one does not count,
    so that it can be divided.

    Args:
        paths: the files.
        root: folder of the images; by default that of the files, or the one above `annotations/`; in it also
            `images/`, `JPEGImages/`, and `train2017/` for `captions_train2017.json`.

    Raises:
        DataError: a file cannot be read or is not a COCO file, or no image can be used.
    """
    listed = ListedImages(paths[0], root, also=[path.stem.rsplit("_", 1)[-1] for path in paths])
    without = 0
    for path in paths:
        content = read_json(path)
        if not is_coco_captions(content):
            raise DataError(f"{path}: holds no COCO captions; give images, and annotations with image_id and caption")
        split = split_of(path, path.parent) if len(paths) > 1 else ""
        captions = _captions(path, content["annotations"])
        for number, image in enumerate(content["images"], start=1):
            if not isinstance(image, dict) or not isinstance(image.get("id"), (int, str)):
                raise DataError(f"{path}: image {number} has no usable id; correct the file")
            texts = captions.get(image["id"])
            if texts is None:
                without += 1
            else:
                listed.add(image.get("file_name"), texts, number, split=split)
    if without:
        listed.builder.notes.append(f"Images without a caption, left out: {without}.")
    return listed.build()


def _captions(path: Path, annotations: list[Any]) -> dict[Any, list[Any]]:
    captions = defaultdict(list)
    for number, annotation in enumerate(annotations, start=1):
        try:
            captions[annotation["image_id"]].append(annotation["caption"])
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: annotation {number} lacks its image_id or caption ({error}); correct the file"
            ) from error
    return captions


def is_karpathy(content: Any) -> bool:
    """Whether parsed JSON has the shape of such a file."""
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "sentences" in images[0]


def read_karpathy(path: Path, content: dict[str, Any], root: Path | None = None) -> PairSet:
    """The images of Karpathy's splits ("restval" counts as train; Deep Visual-Semantic Alignments, 2014, arXiv
    1412.2306), each with its sentences.

    Args:
        path: the file.
        content: what is in it.
        root: folder of the images; by default the file's own; in it also `images/` and the folders that Flickr8k and
            Flickr30k come with.

    Raises:
        DataError: an entry is malformed, a split is unknown, or no image can be used.
    """
    listed = ListedImages(path, root, also=IMAGE_FOLDERS)
    for number, image in enumerate(content["images"], start=1):
        if not isinstance(image, dict) or not isinstance(image.get("sentences"), list):
            raise DataError(f"{path}: image {number} has no list of sentences; correct the file")
        name, folder = str(image.get("filename") or ""), str(image.get("filepath") or "")
        split = split_named(str(image.get("split") or ""), f"{path} image {number}")
        sentences = [_text(sentence) for sentence in image["sentences"]]
        listed.add(f"{folder}/{name}" if folder and name else name, sentences, number, split=split)
    return listed.build()


def _text(sentence: Any) -> Any:
    if not isinstance(sentence, dict):
        return sentence
    return sentence.get("raw") or " ".join(map(str, sentence.get("tokens") or ()))


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


def is_person_search(content: Any) -> bool:
    """Whether parsed JSON has the shape of such a file."""
    return (
        isinstance(content, list)
        and bool(content)
        and isinstance(content[0], dict)
        and {"captions", "id"} <= content[0].keys()
        and any(key in content[0] for key in IMAGE_KEYS)
    )


def read_person_search(path: Path, content: list[Any], root: Path | None = None) -> PairSet:
    """Images with their captions; the class of an image is the person, `id`.

    Args:
        path: the file.
        content: what is in it: objects with `captions`, `file_path` (or `img_path`), `id`, and `split` if there are
            any.
        root: folder of the images; by default the file's own; in it also `imgs/` and `images/`.

    Raises:
        DataError: an entry is not an object, a split is unknown, or no image can be used.
    """
    listed = ListedImages(path, root)
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is not a JSON object; give one object per image")
        name = next((entry[key] for key in IMAGE_KEYS if entry.get(key)), None)
        split = split_named(str(entry.get("split") or ""), f"{path} entry {number}")
        person = entry.get("id")
        listed.add(name, entry.get("captions"), number, label="" if person is None else str(person), split=split)
    return listed.build()
