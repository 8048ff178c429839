"""A fit from a features file: the same splits, shots and text side, with no images and no backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...contracts.adapter import Adapter
from ...contracts.domain import Domain
from ...contracts.features import FeatureSet, TextClassifier
from ...contracts.items import Columns, DomainData, Item, Label, Labels
from ...contracts.prepared import PreparedData
from ...contracts.recipe import AUTO, SAMPLE
from ...data.file_hashes import FileHashes
from ...data.splits import assign_splits
from ...errors import CapabilityError, DataError
from ...features import packaged
from ...features.files import FeatureFile, load_features, load_unlabelled
from ...recipes.asked_for import class_indices
from ...runtime.progress import Reporter
from .prepared import Prepared

OF_ROWS = frozenset({"labels", "ids"})
"""Arrays of a features file that hold the label and the name of each row."""


@dataclass(kw_only=True)
class PreparedFeatures(Prepared):
    """Rows of a features file, which are split and drawn like images and looked up in place of computed.

    Attributes:
        path: the file.
        wanted_device: as the user says.
        classes: what `--classes` says, for further files.
        all_class_names: of the file, with those that `classes` leaves out.
    """

    path: str
    file: FeatureFile
    wanted_device: str = "auto"
    classes: Any = None
    all_class_names: tuple[str, ...] = ()
    task: str = "classification"
    domain: None = None  # type: ignore[assignment]  # no images, so nothing that reads or encodes them
    backbone: None = None  # type: ignore[assignment]
    store: None = None  # type: ignore[assignment]
    templates: ClassVar = ()
    metrics: ClassVar = ()
    thumbnail: ClassVar = None  # type: ignore[assignment]

    @property
    def notes(self) -> list[str]:
        return list(self.data.notes)

    @property
    def classifier(self) -> TextClassifier:
        return self.file.classifier.to(self.device)

    @cached_property
    def device(self) -> torch.device:
        if self.wanted_device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.wanted_device)

    def classifier_of(self, class_names: Sequence[str]) -> TextClassifier:
        """The text rows of some of the file's classes."""
        names = list(self.file.classifier.class_names)
        return self.file.classifier.select([names.index(name) for name in class_names]).to(self.device)

    @property
    def made_by(self) -> str:
        """The fingerprint of the backbone of the features, "" where the file does not say."""
        return self.file.features.backbone

    def features(self, items: Sequence[Item], title: str = "", *how: Any, **further: Any) -> FeatureSet:
        """Rows of some items, with the parts that the file has; it holds no augmented views."""
        rows = self.file.features.select([item.decode["row"] for item in items])
        return replace(rows, ids=tuple(item.id for item in items)).to(self.device)

    def encode_items(self, items: Sequence[Item], tap: str, parts: bool = False) -> FeatureSet:
        return self.features(items)

    def _no_support(self) -> FeatureSet:
        return self.features([])

    def _of_images(self, adapter: Adapter) -> dict[str, Any]:
        return {}

    def on_further(self, path: str) -> PreparedFeatures:
        """The same rows in another file, made by another backbone.

        Raises:
            DataError: its rows or classes are others.
        """
        other = _restricted(load_features(path), self.classes)
        features, names = self.file.features, self.file.classifier.class_names
        if tuple(other.classifier.class_names) != tuple(names):
            raise DataError(f"--resource further-backbones={path}: its classes are not those of {self.path}")
        same = len(other.features) == len(features)
        if features.labels is not None:
            same = other.features.labels is not None and _same_labels(other.features.labels, features.labels)
        if not same:
            raise DataError(f"--resource further-backbones={path}: its labels are not those of {self.path}, row by row")
        return replace(self, file=other)

    @cached_property
    def test(self) -> FeatureSet:
        items = self.data.split("test")
        if not items:
            raise DataError(
                f"{self.data.name}: no test rows; give more rows per class, or a `split` array that holds 'test'"
            )
        return self.features(items)

    def test_set(self, parts: bool = False) -> FeatureSet:
        return self.test


def rows_of_split(prepared: PreparedData, split: str, everything: bool, parts: bool = False) -> FeatureSet:
    """The rows of a split; "all" gives every row.

    Args:
        everything: whether data without a split of its own is taken whole for testing, as nothing was fitted on it.
        parts: whether samples come with their parts.

    Raises:
        DataError: the data has no such split.
    """
    splits = {item.split for item in prepared.data.items}
    if split == "all" or (everything and not prepared.had_splits and split == "test"):
        items = prepared.data.items
    elif split in splits:
        items = prepared.data.split(split)
    else:
        raise DataError(f"--split {split}: {prepared.data.name} has only {', '.join(sorted(splits))}; give one of them")
    return prepared.features(items, f"{split} images", parts=parts)


def prepared_rows(
    path: str,
    reporter: Reporter,
    *,
    shots: int | None,
    classes: Any = None,
    preset: str = AUTO,
    split_seed: int = 0,
    device: str = "auto",
    given: Mapping[str, Any] | None = None,
    divided: bool = True,
) -> PreparedFeatures:
    """Read a features file and split its rows; one whose rows are all for testing, or have no labels, is tested whole.

    Args:
        shots: that are to be drawn per class; None for all.
        classes: as `--classes` says.
        preset: the published set that they are of, if the user says so.
        given: resource name -> path.
        divided: whether rows without splits are split; else they are kept whole for testing.

    Raises:
        DataError: the file cannot be used. CapabilityError: shots are asked for, and no row may teach.
    """
    file = load_features(path)
    whole = file.features.labels is None or set(file.split or ()) == {"test"}
    if whole and shots != 0:
        why = "its rows have no labels" if file.features.labels is None else "all its rows are test rows"
        raise CapabilityError(
            f"--features {Path(path)}: {why}; give --shots 0 and a method that needs no labelled images (stat-a for "
            "all images at once, zero-shot)"
        )
    every = tuple(file.classifier.class_names)
    file = _restricted(file, classes)
    data = DomainData(
        items=_as_items(file, Path(path)),
        class_names=tuple(file.classifier.class_names),
        load=_no_pixels,
        has_images=False,
        **_facts(path),
        kind="multilabel" if file.features.multilabel else "labels",
        published=None if preset in (AUTO, Domain.NO_PRESET) else preset,
    )
    ids = [item.id for item in data.items]
    data = replace(data, columns=lambda: _columns(file, Path(path), ids))
    if whole or (not divided and len(set(file.split or ()) - {""}) < 2):
        data = data.with_items([item.with_(split="test") for item in data.items])
    else:
        data = assign_splits(data, seed=split_seed, hashes=FileHashes())
    splits = set(file.split or ()) - {""}
    return PreparedFeatures(
        path=path,
        file=file,
        data=data,
        reporter=reporter,
        wanted_device=device,
        classes=classes,
        given=given or {},
        all_class_names=every,
        had_splits=len(splits) > 1 or splits == {"test"},
    )


def rows_asked(
    path: str, reporter: Reporter, *, class_names: Sequence[str], device: str = "auto", given: Mapping[str, Any]
) -> PreparedFeatures:
    """Read features that a run is asked about; what the file says of labels and texts is not read.

    Args:
        class_names: of the run.
        given: resource name -> path.

    Raises:
        DataError: the file cannot be used.
    """
    features = load_unlabelled(path)
    classifier = TextClassifier.without_texts(class_names, features.dim, torch.device("cpu"))
    file = FeatureFile(features, classifier)
    data = DomainData(
        items=_as_items(file, Path(path)),
        class_names=tuple(class_names),
        load=_no_pixels,
        name=Path(path).stem,
        has_images=False,
    )
    return PreparedFeatures(
        path=path, file=file, data=data, reporter=reporter, wanted_device=device, given=given, had_splits=True
    )


def _facts(path: str) -> dict[str, Any]:
    """Name, licence and notes of the data."""
    if path != SAMPLE:
        return {"name": Path(path).stem}
    return {"name": packaged.NAME, "licence": packaged.LICENCE, "notes": [packaged.NOTE]}


def _same_labels(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first.nan_to_num(-1), second.nan_to_num(-1))


def _restricted(file: FeatureFile, classes) -> FeatureFile:
    """The file with only the chosen classes, relabelled."""
    indices = class_indices(file.classifier.class_names, classes)
    if indices is None:
        return file
    if file.features.labels is None or file.features.multilabel:
        kind = "without labels" if file.features.labels is None else "with several labels per row"
        raise CapabilityError(f"--classes: not for features files {kind}; omit it")
    position = torch.full((len(file.classifier),), -1, dtype=torch.int64)
    position[torch.tensor(indices)] = torch.arange(len(indices))
    labels = position[file.features.labels]
    rows = (labels >= 0).nonzero().flatten()
    features = replace(
        file.features.select(rows),
        labels=labels[rows],
        class_names=tuple(file.classifier.class_names[i] for i in indices),
    )
    split = None if file.split is None else tuple(file.split[i] for i in rows.tolist())
    columns = {name: values[rows.numpy()] for name, values in file.columns.items()}
    return replace(file, features=features, classifier=file.classifier.select(indices), split=split, columns=columns)


def _columns(file: FeatureFile, path: Path, ids: Sequence[str]) -> Columns:
    def cells(name: str) -> dict[str, str]:
        return dict(zip(ids, map(_cell, file.columns[name].tolist())))

    return Columns(path.name, tuple(file.columns), OF_ROWS, cells)


def _cell(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()


def _as_items(file: FeatureFile, path: Path) -> list[Item]:
    features = file.features
    rows = (features.features if features.parts is None else features.parts).numpy()  # a mean forgets the order
    named = features.ids is not None and len(set(features.ids)) == len(features)
    items = []
    for i in range(len(features)):
        digest = hashlib.sha256(rows[i].tobytes()).hexdigest()
        label = None if features.labels is None else features.labels[i].tolist()
        item = Item(
            id=features.ids[i] if named else str(i),  # shots are drawn by id: as from the images, if it names them
            source=path,
            decode={"digest": digest, "row": i},
            target=None if label is None else Labels(tuple(label)) if features.multilabel else Label(label),
            group=None if features.groups is None else features.groups[i],
            split="" if file.split is None else file.split[i],
        )
        items.append(item)
    return items


def _no_pixels(item: Item):
    raise DataError(f"row {item.decode['row']} of {item.source}: a features file holds no pixels; give --data")
