"""The feature store: each image, part of a sample and text goes through a tower once, ever, for one way of looking at
it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.backbone import Backbone, logit_facts
from ..contracts.features import PROJECTED, FeatureSet
from ..contracts.items import ClassLabel, DomainData, Item
from ..data.file_hashes import FileHashes
from ..errors import CapabilityError, DataError, shortened
from ..runtime.distributed import all_gather_json, rank, run_on_all, world_size
from ..runtime.files import filled_once, write_cached
from ..runtime.process import cache_folder, keeps
from ..runtime.progress import part
from ..runtime.shards import NoShards, ShardFolder, ShardWriter
from .extract import CPU_SIZES, GPU_SIZES, BatchSizeTuner, Encoded, UnreadableKeys, encoder, extract, renderer
from .on_cores import OnCores
from .table import (
    PART_COUNTS,
    FeatureTable,
    Request,
    Share,
    canonical_json,
    folder_name,
    gathered,
    part_key,
    space_of,
    text_key,
)

TEXTS_AT_ONCE = 64

Progress = Callable[[int, int], None]


@dataclass
class Extraction:
    """What `get_or_compute` gives.

    Args:
        features: of the items that could be read, in the order asked for, on the CPU; with parts where those are asked
            for and a sample has some.
        items: those items.
        skipped: (id, reason in one line) of the others.
        computed: images and views that went through the tower now.
        cached: images and views that did not need to.
    """

    features: FeatureSet
    items: list[Item]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    computed: int = 0
    cached: int = 0


class FeatureStore:
    """Features on disk, found by what they are made of: backbone, precision, tap, bytes, decoding and transform.

    A sample whose pixels are (T, 3, S, S) is stored part by part, with its number of parts. Its feature is the mean of
    its parts; both are read without running the backbone again.

    Several processes may use one store at once. A damaged part of it is removed and computed again.

    Args:
        root: its folder; by default `FeatureStore.default_root()`.
        flush_rows, flush_seconds: computed rows are written at the latest after so many, or so long.
        keep: False looks nothing up and writes nothing: for towers that a fit made, whose features are not needed
            again.
        alone: how many threads encode on a CPU, where this process works by itself: nothing is divided among the ranks
            of torchrun, and features are the same from any number of threads. None divides the work.
    """

    @staticmethod
    def default_root() -> Path:
        """The folder `features` in $VLADAPT_CACHE, or in ~/.cache/vladapt."""
        return cache_folder("features")

    @staticmethod
    def filled(name: str, fill: Callable[[Path], None]) -> Path:
        """The folder of a name beside `default_root`, filled at the first call; arguments and errors as for
        `filled_once`."""
        return filled_once(cache_folder(name), fill)

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        flush_rows: int = 1024,
        flush_seconds: float = 10.0,
        keep: bool = True,
        alone: int | None = None,
    ):
        self.root = self.default_root() if root is None else Path(root)
        self.keep, self.alone = keep, alone
        self.flush_rows, self.flush_seconds = flush_rows, flush_seconds
        self.hashes = FileHashes(cache_folder() if root is None else self.root)
        self._folders: dict[str, ShardFolder] = {}
        self._tuners: dict[tuple[str, ...], BatchSizeTuner] = {}

    @property
    def unkept(self) -> FeatureStore:
        """One like it that keeps nothing."""
        return FeatureStore(keep=False, alone=self.alone) if self.keep else self

    @part("features")
    def get_or_compute(
        self,
        data: DomainData,
        items: Sequence[Item],
        backbone: Backbone,
        transform: Callable,
        *,
        tap: str = PROJECTED,
        views: int = 0,
        view_transform: Callable | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        workers: int | None = None,
        amp: str | None = None,
        progress: Progress | None = None,
        parts: bool = False,
    ) -> Extraction:
        """Features of items, from the store where they are there; only the others are decoded and encoded.

        Under torch.distributed the items are split by rank, and every rank returns the same whole.

        Args:
            data: whose `load` decodes the items.
            items: N samples; one that cannot be read is left out and listed.
            backbone: its model is built only if something is to be computed.
            transform: decoded image -> pixels (3, S, S), or (T, 3, S, S) of a sample of T parts, whose features are
                averaged; with a JSON-able `spec`.
            tap: one of `TAPS`.
            views: V augmented views of each image besides; the result's `views` is then (N, V, D).
            view_transform: called as view_transform(decoded, seed=int), with a JSON-able `spec`.
            seed: of the views.
            batch_size: images at once; None measures the best. It changes results by rounding at most.
            workers: decoding threads; None takes one per CPU core.
            amp: None, "bf16" or "fp16".
            progress: called as progress(done, total) in this thread while something is computed.
            parts: whether the result's `parts` (N, T, D) are wanted, T the most that a sample has; images as they are
                count among them as samples of one part. They stay None where no sample has parts.

        Raises:
            ConfigError: an option is not usable; CapabilityError: the backbone has no such tap.
            DataError: the store cannot be written (no space left); what was written before stays.
        """
        if backbone.of_parts:
            raise CapabilityError(
                f"backbone '{backbone.spec}' reads the parts of a sample together, for index, search and eval; give "
                "the backbone that it stands on"
            )
        request = Request(data, backbone, transform, view_transform, tap, views, seed, amp, workers, parts)
        fixed = None if batch_size is None else BatchSizeTuner(batch_size)
        first, step = (rank(), world_size()) if self.alone is None else (0, 1)
        positions = list(range(first, len(items), step))

        def on_this_rank() -> Share:
            table = FeatureTable(request, [items[i] for i in positions], self.hashes)
            computed = self._fill(table, fixed, progress)
            return Share.of(table, positions, computed, backbone.embed_dim)

        whole = gathered(run_on_all(on_this_rank)) if self.alone is None else on_this_rank()
        return _extraction(whole, request, items)

    def some_at_once(
        self,
        data: DomainData,
        items: Sequence[Item],
        backbone: Backbone,
        transform: Callable,
        *,
        at_once: int,
        progress: Progress,
        **how: Any,
    ) -> Iterator[Extraction]:
        """`get_or_compute` of some items after the others, for as many as memory would not hold together.

        Args:
            at_once: how many items.
            progress: of all items.
            how: further arguments of it.
        """
        for start in range(0, len(items), at_once):
            some = items[start : start + at_once]
            how["progress"] = lambda done, _, before=start: progress(before + done, len(items))
            yield self.get_or_compute(data, some, backbone, transform, **how)

    def lacking(
        self,
        data: DomainData,
        items: Sequence[Item],
        backbone: Backbone,
        transform: Callable,
        *,
        tap: str = PROJECTED,
        workers: int | None = None,
        amp: str | None = None,
    ) -> dict[int, int]:
        """Which of some items `get_or_compute` would have to encode, with their parts; no feature is read.

        Returns:
            Position in `items` -> number of images or parts; a sample never met before counts as one.
        """
        request = Request(data, backbone, transform, None, tap, 0, 0, amp, workers, True)
        table = FeatureTable(request, items, self.hashes)
        _look_up_counts(table, self.folder_of(PART_COUNTS))
        found = all_gather_json(table.lacking(self.folder_of(request.space).known(table.missing())))[0]
        return {int(position): pieces for position, pieces in found.items()}  # one answer for all ranks

    def text_features(self, backbone: Backbone, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 on the CPU, not normalised. The model is built only for texts not met before.

        Raises:
            DataError: the store cannot be written, or the backbone gives NaN or infinity for a text.
        """
        space = space_of(backbone, "text", "float32")
        folder = self.folder_of(space)
        keys = [text_key(space, text) for text in texts]
        row_of: dict[bytes, np.ndarray] = {}
        for some, rows in folder.find(keys):
            row_of.update(zip(some, rows))
        todo = {key: text for key, text in zip(keys, texts) if key not in row_of}
        writer = ShardWriter(folder, self.flush_rows, self.flush_seconds)
        try:
            for some, rows in _encoded_texts(backbone, todo):
                writer.add(some, rows)
                row_of.update(zip(some, rows))
        finally:
            writer.flush()
        if todo:
            folder.merge()
        return torch.from_numpy(np.stack([row_of[key] for key in keys])) if keys else torch.zeros(0, backbone.embed_dim)

    def backbone_facts(self, backbone: Backbone) -> dict[str, float | None]:
        """{"logit_scale", "logit_bias"} as numbers, stored, so that a second run builds no model.

        Raises:
            DataError: the store cannot be written.
        """
        return self._fact(f"{folder_name(backbone.fingerprint)}.json", _valid_facts, lambda: logit_facts(backbone))

    def patch_grid(self, backbone: Backbone) -> tuple[int, int]:
        """(h, w) of the patch tokens of an image, stored, so that a second run builds no model.

        Raises:
            CapabilityError: the tower gives none. DataError: the store cannot be written.
        """
        backbone.need("image_tokens")

        def asked() -> dict[str, int]:
            height, width = backbone.image_tokens(backbone.blank_image().to(backbone.device))[1]
            return {"height": height, "width": width}

        fact = self._fact(f"{folder_name(backbone.fingerprint)}-patches.json", _valid_grid, asked)
        return fact["height"], fact["width"]

    def _fact(self, name: str, valid: Callable[[Any], dict], asked: Callable[[], dict]) -> dict:
        """What an earlier run stored of a tower, or what it says now."""
        path = self.root / "facts" / name
        fact = None
        with suppress(OSError, ValueError, TypeError, KeyError):  # damaged, or not there: asked again
            fact = valid(json.loads(path.read_bytes())) if self.keep else None
        if fact is None:
            with torch.no_grad():
                fact = asked()
            if self.keep:
                write_cached(path, canonical_json(fact).encode())
        return fact

    def _fill(self, table: FeatureTable, fixed: BatchSizeTuner | None, progress: Progress | None) -> int:
        """Find or compute all cells; returns how many were computed. What is computed is stored, come what may.

        Args:
            fixed: the size of batches that is asked for; None for the best one.
        """
        request = table.request
        folder, counts = self.folder_of(request.space), self.folder_of(PART_COUNTS)
        _look_up(table, folder, counts)
        jobs = table.jobs()
        if not jobs:
            return 0
        tuner, total, computed = fixed or self._tuner(request), table.todo, 0
        counted = ShardWriter(counts, self.flush_rows, self.flush_seconds)
        writer = ShardWriter(folder, self.flush_rows, self.flush_seconds, before=counted)
        render = renderer(request.data.load, request.transform, request.view_transform)
        joint = request.backbone.joint
        each_part = joint is not None and joint.gives_parts
        encode = encoder(request.backbone, request.tap, request.amp, each_part)
        if self.alone is not None and request.backbone.device.type == "cpu":
            _ = request.backbone.model  # built once, before several threads ask for it
            encode = OnCores(encode, self.alone)
        pin = request.backbone.device.type == "cuda"
        try:
            with closing(extract(jobs, render, encode, tuner, request.workers, pin, each_part)) as results:
                for result in results:
                    if isinstance(result, UnreadableKeys):
                        table.fail(result.keys, result.reason)
                    else:
                        counted.add(*table.learn(result.pieces))
                    if isinstance(result, Encoded):
                        keys = [
                            each.key if each.part is None else part_key(each.key, each.part) for each in result.pieces
                        ]
                        writer.add(keys, result.rows)
                        computed += table.put(keys, result.rows)
                    if progress is not None:
                        progress(total - table.todo, total)
        finally:
            writer.flush()
            if computed and self.keep:
                keeps("features", self.root.parent)
        folder.merge()
        counts.merge()
        return computed

    def folder_of(self, space: str) -> ShardFolder | NoShards:
        """The rows of a space."""
        if not self.keep:
            return NoShards()
        if space not in self._folders:
            self._folders[space] = ShardFolder(self.root / folder_name(space), space)
        return self._folders[space]

    def _tuner(self, request: Request) -> BatchSizeTuner:
        """The measurement for such work as far as this store's earlier calls brought it."""
        device = request.backbone.device
        work = (request.space, request.specs[0], str(device))
        if work not in self._tuners:
            self._tuners[work] = BatchSizeTuner(sizes=CPU_SIZES if device.type == "cpu" else GPU_SIZES)
        return self._tuners[work]


def _look_up(table: FeatureTable, folder: ShardFolder | NoShards, counts: ShardFolder | NoShards) -> None:
    """Find what is stored: how many parts each sample has, then features of images and of parts."""
    _look_up_counts(table, counts)
    for keys, rows in folder.find(table.missing()):
        table.put(keys, rows)


def _look_up_counts(table: FeatureTable, counts: ShardFolder | NoShards) -> None:
    cells = table.count_keys()
    for keys, rows in counts.find(cells):
        for key, row in zip(keys, rows):
            table.know(cells[key], int(row[0]))


def _extraction(whole: Share, request: Request, items: Sequence[Item]) -> Extraction:
    kept = [items[i] for i in whole.positions]
    groups = tuple(item.group or item.id for item in kept)
    features = FeatureSet(
        features=whole.values[:, 0].contiguous(),
        labels=labels_of_items(kept),
        class_names=request.data.class_names,
        views=whole.values[:, 1:].contiguous() if request.views else None,
        tap=request.tap,
        groups=groups if any(item.group for item in kept) else None,
        ids=tuple(item.id for item in kept),
        backbone=request.backbone.fingerprint,
        parts=whole.parts,
        parts_mask=None if whole.parts is None else whole.parts_mask,
        part_views=request.data.part_views,
        soft_labels=_soft_labels(kept),
    )
    skipped = [(items[position].id, reason) for position, reason in whole.reasons]
    return Extraction(features, kept, skipped, whole.computed, whole.cached)


def _soft_labels(items: Sequence[Item]) -> Tensor | None:
    """(N, C) float, None where losses take the labels as they are."""
    soft = [item.training_label() for item in items]
    return _labels(soft) if any(label != item.class_label() for label, item in zip(soft, items, strict=True)) else None


def labels_of_items(items: Sequence[Item]) -> Tensor | None:
    """(N,) int64, or (N, C) float where samples have several labels; None if one of them has none."""
    return _labels([item.class_label() for item in items])


def _labels(labels: Sequence[ClassLabel]) -> Tensor | None:
    """(N,) int64, or (N, C) float where images have several labels; None if one of them has none."""
    if labels and all(isinstance(label, tuple) for label in labels):
        return torch.tensor(labels, dtype=torch.float32)
    if labels and not any(label is None or isinstance(label, tuple) for label in labels):
        return torch.tensor(labels, dtype=torch.int64)
    return None


def _encoded_texts(backbone: Backbone, todo: dict[bytes, str]):
    """Yield keys and rows (n, D), some texts at a time."""
    pairs = list(todo.items())
    for i in range(0, len(pairs), TEXTS_AT_ONCE):
        some = pairs[i : i + TEXTS_AT_ONCE]
        with torch.no_grad():
            rows = backbone.encode_text([text for _, text in some], normalize=False).float().cpu()
        wrong = (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if wrong:
            text = shortened(some[wrong[0]][1])
            raise DataError(f"text '{text}': the backbone gives NaN or infinity for it; give another text or backbone")
        yield [key for key, _ in some], rows.numpy()


def _valid_facts(facts: Any) -> dict[str, float | None]:
    bias = facts["logit_bias"]
    return {"logit_scale": float(facts["logit_scale"]), "logit_bias": None if bias is None else float(bias)}


def _valid_grid(fact: Any) -> dict[str, int]:
    return {name: int(fact[name]) for name in ("height", "width")}
