"""Images with numbers, or rows of a features file, in their splits, and as features."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.items import DomainData, Item, Number
from ...contracts.run_info import RunInfo
from ...data.file_hashes import FileHashes
from ...data.group_candidates import settle_groups
from ...data.manifests import NUMBERS
from ...data.sampling import BINS, number_bins, sample_numbers
from ...data.splits import assign_splits
from ...data.verify import check_tolerated
from ...errors import CapabilityError, DataError
from ...features.files import load_numbers
from ...features.store import FeatureStore
from ...recipes.asked_for import readable_samples
from ...runtime.progress import Reporter, part
from .heads import NumberRows

COLUMN = "number"
"""What the numbers are called where nothing says."""


@dataclass(kw_only=True)
class PreparedNumbers(ABC):
    """One data set whose samples have numbers.

    Attributes:
        data: the samples, each with its split.
        reporter: what shows progress.
        had_splits: whether the data itself says which are for testing.
        skipped: (id, reason) of images found unreadable while encoding.
        encoded, stored: images that the backbone ran on, and that were in the store.
    """

    data: DomainData
    reporter: Reporter
    had_splits: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    encoded: int = 0
    stored: int = 0

    @property
    def column(self) -> str:
        """What the numbers are of."""
        return (self.data.number_names.get(Number.NAME) or (COLUMN,))[0]

    @property
    @abstractmethod
    def made_by(self) -> str:
        """The fingerprint of the backbone of the features, or ""."""

    @abstractmethod
    def rows(self, items: Sequence[Item], title: str, backbone: Backbone | None = None) -> NumberRows:
        """Features of samples, with their numbers.

        Args:
            title: names them for the progress.
            backbone: towers that a fit changed, of which nothing is stored; by default the data's own.
        """

    def split(self, name: str) -> list[Item]:
        """The samples of a split; "all" is every one.

        Raises:
            DataError: there are none.
        """
        items = self.data.items if name == "all" else self.data.split(name)
        if not items:
            splits = ", ".join(sorted({item.split for item in self.data.items}))
            raise DataError(f"--split {name}: {self.data.name} has no such images; it has {splits}")
        return items

    def drawn(self, shots: int | None, seed: int) -> list[Item]:
        """Training samples: K of each quantile bin of their numbers, or all."""
        training = self.split("train")
        return sample_numbers(training, list(map(_number_of, training)), shots, seed)

    def notes_on_draw(self, shots: int | None) -> list[str]:
        """That some of the `BINS` bins have fewer images than were asked for."""
        training = self.split("train")
        bins = number_bins(training, list(map(_number_of, training)))
        if shots is None or (min(map(len, bins)) >= shots and len(bins) == BINS):
            return []
        return [f"Fewer than {shots} training images in some of the {BINS} bins of the numbers, all used."]


def _number_of(item: Item) -> float:
    """The number of a sample that has one."""
    target = item.target
    return target.value if isinstance(target, Number) else float("nan")


@dataclass(kw_only=True)
class NumberImages(PreparedNumbers):
    """Images on a backbone.

    Attributes:
        how: batch_size, workers and amp of the encoding.
    """

    domain: Domain
    backbone: Backbone
    task: str
    store: FeatureStore
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def made_by(self) -> str:
        return self.backbone.fingerprint

    def rows(self, items: Sequence[Item], title: str, backbone: Backbone | None = None) -> NumberRows:
        towers = backbone or self.backbone
        store = self.store if backbone is None else self.store.unkept
        transform = self.domain.transforms(towers, False, self.task)
        with self.reporter.task(f"Encoding {title}") as progress:
            taken = store.get_or_compute(self.data, list(items), towers, transform, progress=progress, **self.how)
        self.encoded += taken.computed
        self.stored += taken.cached
        self.skipped += [pair for pair in taken.skipped if pair not in self.skipped]
        check_tolerated(self.data, self.skipped)
        numbers = torch.tensor([_number_of(item) for item in taken.items], dtype=torch.float64)
        groups, ids = tuple(item.group for item in taken.items), tuple(item.id for item in taken.items)
        return NumberRows(taken.features.unit.float().cpu(), numbers, groups, ids)


@dataclass(kw_only=True)
class NumberFeatures(PreparedNumbers):
    """Rows of a features file."""

    features: torch.Tensor
    fingerprint: str = ""

    @property
    def made_by(self) -> str:
        return self.fingerprint

    def rows(self, items: Sequence[Item], title: str, backbone: Backbone | None = None) -> NumberRows:
        if backbone is not None:
            raise CapabilityError(f"{self.data.name}: a features file has no images to train towers on; give --data")
        index = torch.tensor([item.decode["row"] for item in items])
        numbers = torch.tensor([_number_of(item) for item in items], dtype=torch.float64)
        return NumberRows(self.features[index], numbers, tuple(i.group for i in items), tuple(i.id for i in items))


@part("reading the data")
def prepared_number_images(
    data: DomainData,
    domain: Domain,
    task: str,
    backbone: Backbone,
    reporter: Reporter,
    *,
    split_seed: int = 0,
    how: Mapping[str, Any] | None = None,
    divided: bool = True,
    fitted: RunInfo | None = None,
) -> NumberImages:
    """Images that were read, in their splits, on a backbone.

    Args:
        how: batch_size, workers and amp of the encoding.
        divided: whether data without splits are split; else they are kept whole for testing.
        fitted: of a run on these data, by whose groups they are split again.

    Raises:
        DataError, ConfigError: one line each.
    """
    hashes, how = FileHashes(), dict(how or {})
    data = readable_samples(data, reporter, how.get("workers"), hashes)
    grouping = None if fitted is None else fitted.data.get("grouping")
    if data.open_groups is not None and (fitted is None or grouping is not None):
        data = settle_groups(data, hashes, grouping)
    data, had_splits = _divided(data, split_seed, hashes, divided)
    of: dict[str, Any] = {
        "domain": domain.of(data),
        "backbone": backbone,
        "task": task,
        "store": FeatureStore(),
        "how": how,
    }
    return NumberImages(data=data, reporter=reporter, had_splits=had_splits, **of)


def prepared_features(path: Path, reporter: Reporter, *, split_seed: int = 0, divided: bool = True) -> NumberFeatures:
    """The rows of a features file in their splits; those without a number are left out, and counted.

    Raises:
        DataError: the file cannot be used.
    """
    features, numbers, split = load_numbers(path)
    ids = features.ids or ()
    named = len(set(ids)) == len(features)
    unit, items = features.unit, []
    for row, value in enumerate(numbers.tolist()):
        if value == value:
            decode = {"digest": hashlib.sha256(unit[row].numpy().tobytes()).hexdigest(), "row": row}
            group = None if features.groups is None else features.groups[row]
            id_ = ids[row] if named else str(row)
            items.append(Item(id_, path, decode, Number(value), group, "" if split is None else split[row]))
    if len(items) < 2:
        raise DataError(f"{path}: {len(items)} row with a number in targets; give two or more")
    without = len(features) - len(items)
    notes = [f"Rows without a number, left out: {without}."] if without else []
    data = DomainData(items, (), _no_pixels, NUMBERS, name=path.stem, notes=notes, has_images=False)
    data, had_splits = _divided(data, split_seed, FileHashes(), divided)
    of = {"features": unit.float(), "fingerprint": features.backbone}
    return NumberFeatures(data=data, reporter=reporter, had_splits=had_splits, **of)


def _divided(data: DomainData, seed: int, hashes: FileHashes, divided: bool) -> tuple[DomainData, bool]:
    """The set in its splits, and whether it came in some."""
    had_splits = len({item.split for item in data.items if item.split}) > 1
    if not divided and not had_splits:
        return data.with_items([item.with_(split="test") for item in data.items]), False
    return assign_splits(data, seed=seed, hashes=hashes), had_splits


def _no_pixels(item: Item):
    raise DataError(f"row {item.decode['row']} of {item.source}: a features file holds no pixels; give --data")
