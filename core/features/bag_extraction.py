"""Bags of tiles: those that are stored, and those that are encoded from slides some tiles at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.bags import Bag, Bags, HeldBag, Tiles, mean_of_rows
from ..contracts.features import PROJECTED, FeatureSet
from ..contracts.items import DomainData, Item
from ..data.verify import content_key
from ..errors import CapabilityError, DataError, one_line
from ..runtime.files import cached_folder
from ..runtime.shards import ShardWriter
from .bag_files import SUFFIXES, open_bag, write_bag
from .extract import cores, encoder
from .store import Extraction, FeatureStore, labels_of_items
from .table import folder_name, image_key, space_of, transform_spec

TILES_AT_ONCE = 64
"""Tiles that are decoded, and encoded, together."""
MEANS = "means of tiles"
"""The tap of what is stored of a bag besides its tiles."""

Progress = Callable[[int, int], None]


def bags_of_items(
    data: DomainData,
    items: Sequence[Item],
    backbone: Backbone,
    transform: Callable[..., Tensor],
    store: FeatureStore,
    *,
    tap: str = PROJECTED,
    views: int = 0,
    batch_size: int | None = None,
    workers: int | None = None,
    amp: str | None = None,
    progress: Progress | None = None,
    **unused: Any,
) -> Extraction:
    """Features of items whose tiles are never in memory together: `stored_bags`, and their means.

    Tiles of slides are encoded some at a time, and a file of each slide is kept in the store; a process that ends goes
    on at the next slide. A mean is read from the store where the same bag was read before.

    Args:
        data: with `bags`, or with `tiles`.
        transform: decoded tile -> pixels (3, S, S), with a JSON-able `spec`.
        batch_size: tiles at once; None for `TILES_AT_ONCE`.
        progress: called as progress(tiles done, tiles in all), where slides are encoded.
        tap, views, workers, amp: as of `FeatureStore.get_or_compute`; tiles have no other tap, and no views.

    Raises:
        CapabilityError: augmented views, or another tap. DataError: the store cannot be written.
    """
    if views or tap != PROJECTED:
        raise CapabilityError("tiles of slides have neither augmented views nor another tap; choose another method")
    skipped: list[tuple[str, str]] = []
    bags: dict[str, Bag] = {}
    encoded = 0
    if data.bags is not None:
        bags = {item.id: data.bags.of(item) for item in items}
    else:
        encode = TileEncoder(data, backbone, transform, store, batch_size or TILES_AT_ONCE, workers or cores(), amp)
        bags, encoded, skipped = encode.bags(items, progress)
    means = _means(bags, [item for item in items if item.id in bags], backbone, store, skipped)
    kept = [item for item in items if item.id in means]
    groups = tuple(item.group or item.id for item in kept)
    features = FeatureSet(
        features=torch.stack([means[item.id] for item in kept]) if kept else torch.zeros(0, backbone.embed_dim),
        labels=labels_of_items(kept),
        class_names=data.class_names,
        groups=groups if any(item.group for item in kept) else None,
        ids=tuple(item.id for item in kept),
        backbone=backbone.fingerprint,
        stored_bags=Bags([bags[item.id] for item in kept]),
    )
    return Extraction(features, kept, skipped, encoded, len(kept) - encoded)


def _means(
    bags: dict[str, Bag], items: Sequence[Item], backbone: Backbone, store: FeatureStore, skipped: list
) -> dict[str, Tensor]:
    """Item id -> (D,); the bags that are read for it are held one at a time, and what is wrong with one is added to
    `skipped`."""
    space, hashes = space_of(backbone, MEANS, "float32"), store.hashes
    folder = store.folder_of(space)
    keys = {item.id: image_key(space, content_key(item, hashes), "null") for item in items}
    known = {key: row for some, rows in folder.find(list(keys.values())) for key, row in zip(some, rows)}
    writer, means = ShardWriter(folder, 1024, 10.0), {}
    try:
        for item in items:
            if keys[item.id] in known:
                means[item.id] = torch.from_numpy(known[keys[item.id]].copy())
                continue
            try:
                means[item.id] = _finite(mean_of_rows(bags[item.id].read(0)), item)
            except DataError as error:
                skipped.append((item.id, str(error).removeprefix(f"{item.source}: ")))
                continue
            writer.add([keys[item.id]], means[item.id].numpy()[None])
    finally:
        writer.flush()
    if len(means) > len(known):
        folder.merge()
    return means


def _finite(mean: Tensor, item: Item) -> Tensor:
    if not bool(mean.isfinite().all()):
        raise DataError(f"{item.source}: features hold NaN or infinity; encode the slide again")
    return mean


class TileEncoder:
    """Encodes the tiles of slides, of which no more than `batch` are decoded at a time.

    Args:
        data: with `tiles`.
        transform: decoded tile -> pixels (3, S, S).
        store: in whose folder the bags are kept; where it keeps nothing, they are held.
        batch: tiles at once. workers: threads that decode. amp: as of `encoder`.
    """

    def __init__(
        self,
        data: DomainData,
        backbone: Backbone,
        transform: Callable[..., Tensor],
        store: FeatureStore,
        batch: int,
        workers: int,
        amp: str | None,
    ):
        assert data.tiles is not None
        self.tiles, self.backbone, self.transform = data.tiles, backbone, transform
        self.batch, self.workers, self.encode = batch, workers, encoder(backbone, PROJECTED, amp)
        self.space, self.hashes = space_of(backbone, "tiles", amp or "float32"), store.hashes
        self.folder = store.root.parent / "bags" / folder_name(self.space) if store.keep else None

    def bags(self, items: Sequence[Item], progress: Progress | None) -> tuple[dict[str, Bag], int, list]:
        """Item id -> its bag, how many were encoded now, and (id, reason) of those that cannot be."""
        bags, todo, skipped = {}, [], []
        for item in items:
            if (bag := self._stored(item)) is None:
                todo.append(item)
            else:
                bags[item.id] = bag
        tiles = {}
        for item in todo:
            try:
                tiles[item.id] = self.tiles(item)
            except DataError as error:
                skipped.append((item.id, one_line(error)))
        total, done = sum(len(each.coords) for each in tiles.values()), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for item in todo:
            if item.id not in tiles:
                continue
            try:
                bags[item.id] = self._encoded(item, tiles[item.id], advance)
            except DataError as error:
                skipped.append((item.id, one_line(error)))
        return {item.id: bags[item.id] for item in items if item.id in bags}, len(tiles) - len(skipped), skipped

    def _path(self, item: Item) -> Path:
        key = image_key(self.space, content_key(item, self.hashes), transform_spec(self.transform))
        assert self.folder is not None
        return self.folder / f"{key.hex()}{SUFFIXES[0]}"

    def _stored(self, item: Item) -> Bag | None:
        """What an earlier process encoded; a damaged file is as none."""
        if self.folder is None or not (path := self._path(item)).is_file():
            return None
        try:
            return open_bag(path)
        except DataError:
            return None

    def _encoded(self, item: Item, tiles: Tiles, advance: Callable[[int], None]) -> Bag:
        count = len(tiles.coords)
        if not count:
            raise DataError(f"{item.source}: has no tile with tissue; lower --tissue, or leave the slide out")
        rows = torch.empty(count, self.backbone.embed_dim)  # (T, D)
        with ThreadPoolExecutor(self.workers) as threads:
            for start in range(0, count, self.batch):
                some = range(start, min(start + self.batch, count))
                pixels = torch.stack(list(threads.map(self.transform, tiles.read(some))))  # (B, 3, S, S)
                rows[some.start : some.stop] = self.encode(pixels).cpu()
                advance(len(some))
        _finite(rows, item)
        attributes = dict(tiles.attributes)
        if self.folder is None:
            return HeldBag(rows, torch.from_numpy(np.asarray(tiles.coords)), attributes)
        path = self._path(item)
        cached_folder(path.parent)
        write_bag(path, rows, tiles.coords, attributes, self.backbone.fingerprint, self.backbone.spec)
        return open_bag(path)
