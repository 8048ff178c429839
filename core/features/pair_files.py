"""Files of stored image-text pairs (`--task retrieval --features FILE`): features of both sides, as any encoder made
them, and which text belongs to which image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.items import Captions, DomainData, Item
from ..contracts.recipe import SAMPLE
from ..contracts.shown import in_short
from ..errors import shortened
from . import packaged
from .files import FileArrays, read_arrays

SAME_TEXT = 1e-2
"""How far apart, at most, unit features of one text may be."""
DIGITS = 16
SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True)
class StoredPairs:
    """What a file of pairs holds.

    Args:
        images: (N, D) float32 unit rows.
        texts: (M, D) float32 unit rows.
        image_of_text: (M,) int64, the image that each text is of.
        captions: M texts; of a file without words "text 0", "text 1", ...
        ids: N.
        split: N of "train", "val", "test" or "", or None.
        groups: N keys of what belongs together (a patient, a place), or None.
        logit_scale: of the encoder.
        fingerprint: of the encoder where the file names it (`backbone`), else of the file's own numbers.
        name, licence, notes: of the set.
    """

    __repr__ = in_short

    images: Tensor
    texts: Tensor
    image_of_text: Tensor
    captions: tuple[str, ...]
    ids: tuple[str, ...]
    split: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    logit_scale: float
    fingerprint: str
    name: str
    licence: str = "unknown"
    notes: tuple[str, ...] = ()

    def captions_of(self) -> list[tuple[str, ...]]:
        """The texts of each of the N images."""
        of_images: list[list[str]] = [[] for _ in self.ids]
        for text, image in zip(self.captions, self.image_of_text.tolist()):
            of_images[image].append(text)
        return [tuple(texts) for texts in of_images]

    def data(self, source: Path) -> DomainData:
        """The pairs as captioned samples, each decoded to its row (1, D).

        Args:
            source: what they are said to come from.
        """
        rows, groups, split = self.images.numpy(), self.groups or repeat(None), self.split or repeat("")
        items = [
            Item(name, source, {"digest": row_digest(row)}, Captions(texts), group, part)
            for name, row, texts, group, part in zip(self.ids, rows, self.captions_of(), groups, split)
        ]
        row_of = {name: rows[place : place + 1] for place, name in enumerate(self.ids)}
        return DomainData(items, (), lambda item: row_of[item.id], kind="captions", name=self.name, has_images=False)


def holds_pairs(path: str | Path) -> bool:
    """Whether a path is that of a features file, or "sample", and not a folder of shards."""
    return str(path) == SAMPLE or Path(path).suffix.lower() in SUFFIXES


def load_pairs(path: str | Path) -> StoredPairs:
    """Read a `.safetensors` or `.npz` file of stored pairs, or "sample".

    Arrays: `image_features` (N, D), `text_features` (M, D); `image_of_text` (M,), for each text the row of its image,
    which may be omitted where text i is of image i; optional: `captions` (M,), the words; `ids` (N,), `split` (N,),
    `groups` (N,) or another usual name (patient, subject, ...), `logit_scale` (100), `backbone`, the encoder's name.
    Rows are brought to unit length. Pickled arrays are refused, never run.

    Raises:
        DataError: no such file, not readable, an array missing, of a wrong shape or with unusable values; an image
            without a text; one text with two different features.
    """
    place = packaged.located_pairs(path)
    arrays = FileArrays(place, read_arrays(place), needed=("image_features", "text_features"))
    images = F.normalize(arrays.rows("image_features"), dim=-1)
    texts = F.normalize(arrays.rows("text_features"), dim=-1)
    if images.shape[1] != texts.shape[1]:
        raise arrays.error(
            f"image_features are {images.shape[1]} wide, text_features {texts.shape[1]}; both come from one encoder"
        )
    count, image_of_text = len(images), _image_of_text(arrays, len(images), len(texts))
    captions = arrays.words("captions", len(texts), "text") or tuple(f"text {row}" for row in range(len(texts)))
    _check_texts(arrays, captions, texts)
    of_sample = {
        "name": packaged.NAME_OF_PAIRS,
        "licence": packaged.LICENCE_OF_PAIRS,
        "notes": (packaged.NOTE_ON_PAIRS,),
    }
    return StoredPairs(
        images=images,
        texts=texts,
        image_of_text=image_of_text,
        captions=captions,
        ids=arrays.ids(count) or tuple(f"image {row}" for row in range(count)),
        split=arrays.split(count),
        groups=arrays.groups(count),
        logit_scale=arrays.logit_scale(),
        fingerprint=arrays.text("backbone") or _digest(images, texts, captions),
        **(of_sample if str(path) == SAMPLE else {"name": place.stem}),
    )


def _image_of_text(arrays: FileArrays, images: int, texts: int) -> Tensor:
    """(M,) int64."""
    rows = arrays.whole_numbers("image_of_text")
    if rows is None:
        if images != texts:
            raise arrays.error(
                f"has {texts} text features for {images} images and no image_of_text; add it, for each text the row of "
                "its image"
            )
        return torch.arange(texts)
    if tuple(rows.shape) != (texts,):
        raise arrays.error(f"image_of_text has shape {tuple(rows.shape)} for {texts} text features; give one per text")
    wrong = ((rows < 0) | (rows >= images)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise arrays.error(f"image_of_text[{row}] is {int(rows[row])}; the file has images 0 to {images - 1}")
    silent = (rows.bincount(minlength=images) == 0).nonzero().flatten()
    if len(silent):
        raise arrays.error(f"image {int(silent[0])} has no text in image_of_text; remove the image, or give it a text")
    return rows


def _check_texts(arrays: FileArrays, captions: tuple[str, ...], texts: Tensor) -> None:
    """Equal words have equal features, by which they are looked up."""
    first: dict[str, int] = {}
    for row, text in enumerate(captions):
        before = first.setdefault(text, row)
        if before != row and float((texts[before] - texts[row]).norm()) > SAME_TEXT:
            raise arrays.error(
                f"captions {before} and {row} are both '{shortened(text)}' and have different features; encode again"
            )


def _digest(images: Tensor, texts: Tensor, captions: tuple[str, ...]) -> str:
    made = hashlib.sha256("\n".join(captions).encode(errors="surrogatepass"))
    for rows in (images, texts):
        made.update(rows.contiguous().numpy().tobytes())
    return made.hexdigest()[:DIGITS]


def row_digest(row: Any) -> str:
    """Hex sha256 of one stored row: equal rows are one image."""
    return hashlib.sha256(row.tobytes()).hexdigest()
