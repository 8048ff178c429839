"""Karpathy's JSON: `dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`, and their like in other
fields (`dataset_rsicd.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...contracts.errors import DataError
from .listed_images import ListedImages
from .pair_set import PairSet
from .record_fields import split_named

IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset")


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
