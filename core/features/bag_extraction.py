"""Bags of tiles: those that are stored, and those that are encoded from slides some tiles at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.bags import Bag, Bags, HeldBag, Tiles, mean_of_rows
from ..contracts.features import PROJECTED, FeatureSet
from ..contracts.items import DomainData, Item
from ..data.verify import content_key
from ..errors import CacheError, CapabilityError, DataError, SourceError, one_line
from ..runtime.distributed import all_gather_json, rank, run_on_all, world_size
from ..runtime.process import keeps
from ..runtime.shards import ShardWriter
from .bag_files import SUFFIXES, open_bag, write_bag
from .extract import cores, encoder
from .store import Extraction, FeatureStore, labels_of_items
from .table import folder_name, image_key, space_of, transform_spec

TILES_AT_ONCE, TILES_ON_CPU = 64, 8
"""Tiles that are decoded, and encoded, together; a processor gains nothing by more, whose maps fill its memory."""
TILES_PER_OPENING = 8
"""Tiles that a thread decodes at least: to open a slide takes as long as to read one."""
MEANS = "means of tiles"
"""The tap of what is stored of a bag besides its tiles."""

Progress = Callable[[int, int], None]
Skipped: TypeAlias = list[tuple[str, str]]
"""(Item id, reason in one line)."""


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
        batch_size: tiles at once; None for `TILES_AT_ONCE`, or `TILES_ON_CPU`.
        progress: called as progress(tiles done, tiles in all), where slides are encoded.
        tap, views, workers, amp: as of `FeatureStore.get_or_compute`; tiles have no other tap, and no views.

    Raises:
        CapabilityError: augmented views, or another tap. DataError: the store cannot be written.
    """
    if views or tap != PROJECTED:
        raise CapabilityError("tiles of slides have neither augmented views nor another tap; choose another method")
    skipped: Skipped = []
    bags: dict[str, Bag] = {}
    encoded, made_by, dtype = 0, "null", "float32"
    if data.bags is not None:
        bags = {item.id: data.bags.of(item) for item in items}
    else:
        at_once = batch_size or (TILES_ON_CPU if backbone.device.type == "cpu" else TILES_AT_ONCE)
        encode = _TileEncoder(data, backbone, transform, store, at_once, workers or cores(), amp)
        bags, encoded, skipped = encode.bags(items, progress)
        made_by, dtype = transform_spec(transform), amp or dtype
    space = space_of(backbone, MEANS, dtype)
    means = _means(bags, [item for item in items if item.id in bags], space, made_by, store, skipped)
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
    bags: dict[str, Bag], items: Sequence[Item], space: str, made_by: str, store: FeatureStore, skipped: Skipped
) -> dict[str, Tensor]:
    """Item id -> (D,); the bags that are read for it are held one at a time, and what is wrong with one is added to
    `skipped`.

    Args:
        made_by: spec of the transform of the tiles; "null" where they are stored features.
    """
    folder = store.folder_of(space)
    keys = {item.id: image_key(space, content_key(item, store.hashes), made_by) for item in items}
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


class _TileEncoder:
    """Encodes the tiles of slides, of which no more than twice `batch` are decoded at a time.

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
        self.divided = store.keep and store.alone is None and world_size() > 1

    def bags(self, items: Sequence[Item], progress: Progress | None) -> tuple[dict[str, Bag], int, Skipped]:
        """Item id -> its bag, how many were encoded now, and (id, reason) of those that cannot be.

        The ranks of torchrun divide the slides among them. A rank that does not see what others wrote encodes it, too.
        """
        if not self.divided:
            return self._of_some(items, progress)
        of_rank = run_on_all(lambda: self._of_some(items[rank() :: world_size()], progress)[1:])
        of_ranks = all_gather_json(of_rank)
        reasons = {name: reason for _, skipped in of_ranks for name, reason in skipped}
        bags, _, further = self._of_some([item for item in items if item.id not in reasons], progress)
        reasons |= dict(further)
        skipped = [(item.id, reasons[item.id]) for item in items if item.id in reasons]
        return bags, sum(encoded for encoded, _ in of_ranks), skipped

    def _of_some(self, items: Sequence[Item], progress: Progress | None) -> tuple[dict[str, Bag], int, Skipped]:
        bags: dict[str, Bag | None] = {item.id: self._stored(item) for item in items}
        skipped: Skipped = []
        tiles = {}
        for item in items:
            if bags[item.id] is None:
                with _skipping(item, skipped):
                    tiles[item.id] = self.tiles(item)
        total, done, encoded = sum(len(each.coords) for each in tiles.values()), 0, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for item in items:
            if item.id in tiles:
                with _skipping(item, skipped):
                    bags[item.id] = self._encoded(item, tiles[item.id], advance)
                    encoded += 1
        return {name: bag for name, bag in bags.items() if bag is not None}, encoded, skipped

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
        if not len(tiles.coords):
            raise DataError(f"{item.source}: has no tile with tissue; lower --tissue, or leave the slide out")
        rows, attributes = self._rows(item, tiles, advance), dict(tiles.attributes)
        if self.folder is None:
            return HeldBag(torch.cat(list(rows)), torch.from_numpy(np.asarray(tiles.coords)), attributes)
        path = self._path(item)
        write_bag(path, rows, tiles.coords, attributes, self.backbone.fingerprint, self.backbone.spec)
        keeps("encoded slides", self.folder.parent.parent)
        return open_bag(path)

    def _rows(self, item: Item, tiles: Tiles, advance: Callable[[int], None]) -> Iterator[Tensor]:
        """(B, D) on the CPU, of some tiles after the others; the next ones are decoded while these are encoded."""
        each = max(TILES_PER_OPENING, -(-self.batch // self.workers))  # that one thread decodes

        def pixels(rows: range) -> Tensor:
            return torch.stack([self.transform(tile) for tile in tiles.read(rows)])  # (k, 3, S, S)

        def submitted(some: range) -> list[Future]:
            return [threads.submit(pixels, some[start : start + each]) for start in range(0, len(some), each)]

        every = range(len(tiles.coords))
        batches = [every[start : start + self.batch] for start in every[:: self.batch]]
        with ThreadPoolExecutor(self.workers) as threads:
            waiting = submitted(batches[0])
            for some, further in zip(batches, [*batches[1:], range(0)]):
                decoded = torch.cat([future.result() for future in waiting])  # (B, 3, S, S)
                waiting = submitted(further)
                yield _finite(self.encode(decoded).cpu(), item)
                advance(len(some))


@contextmanager
def _skipping(item: Item, skipped: Skipped) -> Iterator[None]:
    """A block that adds its item to `skipped` where it cannot be read. That the cache or the source of all fails is no
    fault of the item, and passes."""
    try:
        yield
    except (CacheError, SourceError):
        raise
    except DataError as error:
        skipped.append((item.id, one_line(error).removeprefix(f"{item.source}: ")))
