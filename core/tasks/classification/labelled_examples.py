"""The labelled images of a run: kept at the fit, and their pictures found again where they still are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...contracts.adapter import Adapter
from ...contracts.domain import Domain
from ...contracts.features import FeatureSet
from ...contracts.items import Decoded, DomainData, Item
from ...contracts.prepared import PreparedData, Shots, on_adapted
from ...contracts.recipe import SAMPLE
from ...contracts.use import FittedRun
from ...data.unlabelled import images_of
from ...data.verify import FileHashes
from ...errors import VladaptError
from ...explanation.nearest import Example, LabelledImages, kept_rows
from ...runs.evaluations import image_digest
from ...runs.redaction import Redaction
from .stored_run import located


def labelled_of(
    prepared: PreparedData, adapter: Adapter, shots: Shots, val_taught: bool = False
) -> LabelledImages | None:
    """The labelled images that an adapter was fitted on, by the towers that it predicts with.

    Args:
        val_taught: whether it learned from the val of the draw too.

    Returns:
        None where it learned from no labelled image, or the towers that it trained see nothing in one.
    """
    parts = [part for part in (shots.support, shots.val if val_taught else None) if part is not None and len(part)]
    if not parts or any(part.labels is None for part in parts):
        return None
    features, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("features", "labels"))
    ids = tuple(name for part in parts for name in part.ids)
    learned = FeatureSet(features, labels, tuple(prepared.class_names), ids=ids)
    rows = kept_rows(len(learned))
    kept, moved = learned.select(list(rows)), on_adapted(prepared, adapter)
    if moved is not prepared:
        counts = replace(prepared.counts)
        seen = moved.of_ids(kept.ids)
        prepared.counts.computed, prepared.counts.cached = counts.computed, counts.cached  # no image is new to it
        if len(seen) != len(kept):
            return None
        kept = replace(kept, features=seen.features)
    return LabelledImages.of(kept, rows, len(learned), prepared.class_names)


def placed(
    labelled: LabelledImages, prepared: PreparedData, info: Mapping[str, Any], redacts: bool = False
) -> LabelledImages:
    """The labelled images as a run keeps them: with where each lies and what it shows, or with numbers for names.

    Args:
        info: run.json, before anything is redacted.
        redacts: whether the run names and shows no image.
    """
    if redacts:
        return labelled.redacted(Redaction.of(prepared.data, info["skipped"]))
    if prepared.backbone is None:  # rows of a file have no pictures
        return labelled
    known, splits = info.get("digests") or {}, info["splits"]
    digests = {name: digest for part, of in known.items() if part in splits for name, digest in zip(splits[part], of)}
    items = {item.id: item for item in prepared.data.items}
    path = info["data"]["path"]
    chosen = [_below(items[name], path) for name in labelled.ids]
    return labelled.with_places(chosen, [digests.get(name, "") for name in labelled.ids])


def _below(item: Item, path: str) -> Item:
    """The image with its file as it is found from the data."""
    if path == SAMPLE:  # drawn by the domain, wherever that is installed
        return item.with_(source=Path())
    folder = _folder_of(path)
    return item.with_(source=item.source.relative_to(folder)) if item.source.is_relative_to(folder) else item


def _folder_of(path: str) -> Path:
    """The data themselves, or where the file lies that lists them."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def labelled_in_run(
    run: FittedRun, domain: Domain | None, task: str, reading: Mapping[str, Any]
) -> tuple[LabelledImages | None, Callable[[Example], Decoded | None]]:
    """The labelled images that a run keeps, or None, and what decodes their pictures.

    Args:
        reading: options of the domain's reader.
    """
    labelled = LabelledImages.load(run.path)
    if labelled is None:
        return None, lambda example: None
    return labelled, LabelledPictures(run, domain, task, labelled, reading).load


@dataclass
class LabelledPictures:
    """Pictures of the labelled images of a run; those that are gone, or show something else by now, are None.

    Args:
        run: its folder.
        domain: whose reader decodes them; None of a run of features.
        reading: options of the reader.
    """

    run: FittedRun
    domain: Domain | None
    task: str
    labelled: LabelledImages
    reading: Mapping[str, Any] = field(default_factory=dict)
    _hashes: FileHashes = field(default_factory=FileHashes, init=False, repr=False)
    _of_sample: DomainData | None = field(default=None, init=False, repr=False)

    def load(self, example: Example) -> Decoded | None:
        """The decoded image of one of them, (H, W, 3) or (T, H, W, 3), or None."""
        position = self.labelled.position(example.row)
        if position is None or self.labelled.places is None or self.domain is None:
            return None
        place = self.labelled.places[position]
        try:
            return self._decoded(Item(example.id, Path(place["source"]), dict(place["decode"])), place["digest"])
        except (VladaptError, OSError, KeyError, TypeError, ValueError):  # the last three where a run was tampered with
            return None

    def path_of(self, source: str) -> Path:
        """Where the file of a picture is found from here."""
        found = Path(located(self.run, str((self.run.info.get("data") or {}).get("path") or "")))
        return Path(located(self.run, source)) if Path(source).is_absolute() else _folder_of(str(found)) / source

    def _decoded(self, item: Item, digest: str) -> Decoded | None:
        if (self.run.info.get("data") or {}).get("path") == SAMPLE:
            self._of_sample = self._of_sample or self.domain.sample(self.task)
            return self._of_sample.load(item)
        item = item.with_(source=self.path_of(str(item.source)))
        data = images_of(self.domain, [item.source], self.reading)
        if "digest" in item.decode:  # of an array: it must be one that the file has, not one that the run only names
            known = item.decode in [each.decode for each in data.items]
        else:
            known = image_digest(item, self._hashes) == digest
        return data.load(item) if known else None
