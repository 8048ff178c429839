"""An archive of images without labels, from which those that show a concept are fetched by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ......core.contracts import Backbone, Decoded, Item
from ......core.data import IMAGE, read_unlabelled
from ......core.errors import CapabilityError, DataError
from ......core.features import FeatureStore, load_image_features
from ......core.retrieval import RetrievalIndex

SUFFIXES = (".safetensors", ".npz")
IMAGES = "images"


class Archive:
    """Images, and which of them are nearest to a text embedding.

    Args:
        nearest: (D,) unit query and k -> k items, the nearest first.
        load: decodes an item.
    """

    def __init__(self, nearest: Callable[[Tensor, int], list[Item]], load: Callable[[Item], Decoded]):
        self._nearest, self._load = nearest, load

    @classmethod
    def of(cls, path: str | Path, backbone: Backbone) -> Archive:
        """What a path holds: a folder of images, whose features are stored for the next time; an index that
        `vladapt index` wrote; or a file of features that `vladapt embed --images` wrote.

        Args:
            backbone: whose features the query is compared with.

        Raises:
            DataError: nothing usable there. CapabilityError: made with another backbone.
        """
        path = Path(path)
        if RetrievalIndex.is_in(path):
            return _from_index(path, backbone)
        if path.suffix.lower() in SUFFIXES:
            return _from_features(path, backbone)
        data = read_unlabelled([path])
        extraction = FeatureStore().get_or_compute(data, data.items, backbone, backbone.preprocess())
        if not extraction.items:
            raise DataError(f"{path}: none of its images can be read; give a folder of images")
        return Archive(_by_rows(extraction.features.unit, extraction.items), data.load)

    def images(self, query: Tensor, count: int) -> list[Decoded]:
        """The nearest images, fewer where there are no more.

        Raises:
            DataError: one of them cannot be decoded any more.
        """
        return [self._load(item) for item in self._nearest(query, count)]


def _from_features(path: Path, backbone: Backbone) -> Archive:
    rows, ids, fingerprint = load_image_features(path)
    if (fingerprint and fingerprint != backbone.fingerprint) or rows.shape[1] != backbone.embed_dim:
        raise CapabilityError(
            f"{path}: its features were not made by the backbone '{backbone.spec}'; name theirs by "
            "retrieval_backbone=SPEC, or embed the images again"
        )
    # An image as it is named, or from the folder of the file.
    items = [Item(id=name, source=Path(name) if Path(name).is_file() else path.parent / name) for name in ids]
    return Archive(_by_rows(rows, items), lambda item: IMAGE.load(item.source, item.decode))


def _from_index(path: Path, backbone: Backbone) -> Archive:
    index = RetrievalIndex.open(path)
    index.check_backbone(backbone)
    if index.info.holds != IMAGES:
        raise DataError(f"{path}: an index of texts; give one of images")
    reader = index.reader()

    def nearest(query: Tensor, count: int) -> list[Item]:
        return [hit.entry.item() for hit in index.search(query, count)]

    def load(item: Item) -> Decoded:
        return reader.loader([str(item.source)], index.info.made_of)(item)

    return Archive(nearest, load)


def _by_rows(rows: Tensor, items: Sequence[Item]) -> Callable[[Tensor, int], list[Item]]:
    def nearest(query: Tensor, count: int) -> list[Item]:
        order = torch.argsort(rows @ query.to(rows), descending=True, stable=True)
        return [items[i] for i in order[:count].tolist()]

    return nearest


def as_square(image: Decoded, size: int) -> Tensor:
    """(H, W, 3) uint8 or 0..1 -> (3, size, size) in 0..1: the short side to `size`, then the middle."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
    pixels = pixels / 255 if image.dtype.kind == "u" else pixels
    height, width = pixels.shape[-2:]
    scale = size / min(height, width)
    wanted = (max(size, round(height * scale)), max(size, round(width * scale)))
    pixels = F.interpolate(pixels[None], size=wanted, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = (wanted[0] - size) // 2, (wanted[1] - size) // 2
    return pixels[:, top : top + size, left : left + size].clamp(0, 1)
