"""Patch tokens of images and of the parts of samples (frames, slices, windows): stored as features are, read back some
samples at a time, so that no more of them need be held than a step looks at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.features import PATCH_TOKENS
from ..contracts.items import DomainData, Item
from ..contracts.resources import PatchTokens
from ..errors import DataError
from ..runtime.progress import Reporter
from .store import Extraction, FeatureStore

AT_ONCE_BYTES = 128_000_000
"""Tokens that are held while they are encoded."""
HELD_BYTES = 1_000_000_000
"""A set of tokens up to this size is read once and held."""
NUMBER_BYTES = 4


@dataclass
class PatchTokenReader:
    """Patch tokens of a data set by one tower.

    Args:
        data: whose `load` decodes items.
        backbone: a tower with "image_tokens".
        transform: decoded image -> pixels (3, S, S), or (T, 3, S, S) of a sample of T parts.
        store: of features; one that keeps nothing encodes at each call.
        batch_size, workers, amp: as for `FeatureStore.get_or_compute`.
    """

    data: DomainData
    backbone: Backbone
    transform: Callable
    store: FeatureStore
    batch_size: int | None = None
    workers: int | None = None
    amp: str | None = None

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.store.patch_grid(self.backbone)

    def fill(self, items: Sequence[Item], reporter: Reporter) -> int:
        """Encode what is not stored, a portion at a time; a line says before how large it will be. Returns how many
        samples that were.

        Raises:
            CapabilityError: the tower gives no patch tokens. DataError: the disk has no room for them.
        """
        (height, width), dim = self.grid, self.backbone.embed_dim
        how = {"tap": PATCH_TOKENS, "workers": self.workers, "amp": self.amp}
        lacking = self.store.lacking(self.data, items, self.backbone, self.transform, **how)
        if not lacking:
            return 0
        pieces = sum(lacking.values())
        size = pieces * height * width * dim * NUMBER_BYTES
        check_space(size, self.store.root)
        reporter.info(
            f"Patch tokens of {pieces:,} images or parts, {height} x {width} patches of {dim} numbers each: "
            f"{bytes_in_words(size)} to store in {self.store.root}"
        )
        todo = [items[position] for position in lacking]
        at_once = max(1, AT_ONCE_BYTES * len(todo) // size)
        with reporter.task("Encoding patch tokens") as progress:
            for start in range(0, len(todo), at_once):
                self._extracted(todo[start : start + at_once])
                progress(min(start + at_once, len(todo)), len(todo))
        return len(todo)

    def read(self, items: Sequence[Item]) -> Tensor:
        """(n, T, h, w, D) float32 on the backbone's device, T the most parts of these items; an image is its only part.

        Raises:
            DataError: an item cannot be read.
        """
        made = self._extracted(items)
        if made.skipped:
            raise DataError("{}: {}".format(*made.skipped[0]))
        rows = made.features.with_parts().parts.to(self.backbone.device)
        return rows.unflatten(2, (*self.grid, self.backbone.embed_dim))

    def of(self, items: Sequence[Item], parts: int) -> PatchTokens:
        """Those of N items of T = `parts` parts at most."""
        return _StoredPatchTokens(self, items, parts)

    def _extracted(self, items: Sequence[Item]) -> Extraction:
        how = {"batch_size": self.batch_size, "workers": self.workers, "amp": self.amp}
        return self.store.get_or_compute(
            self.data, items, self.backbone, self.transform, tap=PATCH_TOKENS, parts=True, **how
        )


class _StoredPatchTokens(PatchTokens):
    """Read as they are asked for; a set of up to `HELD_BYTES` all at the first call."""

    def __init__(self, reader: PatchTokenReader, items: Sequence[Item], parts: int):
        self.grid, self.dim = reader.grid, reader.backbone.embed_dim
        self._reader, self._items, self._parts = reader, items, parts
        self._held: Tensor | None = None

    def __len__(self) -> int:
        return len(self._items)

    def rows(self, index: Tensor) -> Tensor:
        height, width = self.grid
        if len(self) * self._parts * height * width * self.dim * NUMBER_BYTES > HELD_BYTES:
            return self._read([self._items[i] for i in index.tolist()])
        if self._held is None:
            self._held = self._read(self._items)
        return self._held[index.to(self._held.device)]

    def _read(self, items: Sequence[Item]) -> Tensor:
        return padded_parts(self._reader.read(items), self._parts)


def padded_parts(tokens: Tensor, parts: int) -> Tensor:
    """(n, T', h, w, D) with zeros behind, up to T = `parts`."""
    return F.pad(tokens, (0, 0, 0, 0, 0, 0, 0, parts - tokens.shape[1]))


def check_space(size: int, root: Path) -> None:
    """Refuse what the disk of the store has no room for.

    Args:
        size: bytes to come.
        root: folder of the store; need not exist.

    Raises:
        DataError: less is free.
    """
    there = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise DataError(
            f"{root}: patch tokens need {bytes_in_words(size)}, and {bytes_in_words(free)} are free; free some, set "
            "VLADAPT_CACHE to a folder on another disk, or give fewer samples or parts of each"
        )


def bytes_in_words(size: int) -> str:
    """Bytes as GB, small ones as MB."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
