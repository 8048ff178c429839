"""From a recipe to everything a fit needs: the data split and read, the backbone, features by demand, the text side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine import Config

from ..backbones.load import load_backbone
from ..contracts.adapter import Adapter, Batch
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain, DomainData, Item
from ..contracts.errors import ConfigError, DataError
from ..contracts.features import PROJECTED, FeatureSet
from ..contracts.images import TrainingImages
from ..contracts.text import TextClassifier
from ..data.identity import FileHashes
from ..data.sampling import base_new, positive_classes, restrict, sample_shots
from ..data.splits import assign_splits
from ..data.verify import check_skipped, drop_unreadable
from ..features.store import FeatureStore
from ..prompts.classifier import build_classifier
from ..prompts.descriptions import read_descriptions
from ..prompts.templates import fill
from ..registry import catalogue, load_domain
from ..registry.catalogue import did_you_mean
from .extras import Extras, batches
from .progress import Reporter
from .recipe import data_options, encoding_batch_size
from .resources import Resources

VAL_SHOTS = 4
"""Images a class that hyper-parameters are chosen on, at most: min(K, 4), as CoOp and its successors publish."""


@dataclass
class Counts:
    """How often the backbone ran, for the line that tells the user."""

    computed: int = 0
    cached: int = 0


@dataclass
class Shots:
    """One few-shot draw as features, and the samples behind the support and val, where there are images."""

    support: FeatureSet
    val: FeatureSet | None
    test: FeatureSet
    items: tuple[Item, ...] = ()
    val_items: tuple[Item, ...] = ()
    seed: int = 0


@dataclass
class Prepared:
    """One data set on one backbone; `draw` gives the shots of a seed, features coming from the store.

    Attributes:
        data: all items, each with a split.
        task: the domain's task.
        counts: how many images the backbone ran on and how many came from the store.
        skipped: (id, reason) of images found unreadable while encoding.
        had_splits: whether the data itself says which images are for testing.
    """

    recipe: Config
    domain: Domain
    task: str
    data: DomainData
    backbone: Backbone
    store: FeatureStore
    reporter: Reporter
    counts: Counts = field(default_factory=Counts)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    had_splits: bool = False
    _test: FeatureSet | None = field(default=None, init=False, repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def notes(self) -> list[str]:
        return [*self.data.notes, *getattr(self.backbone, "notes", [])]

    @cached_property
    def classifier(self) -> TextClassifier:
        """The zero-shot text classifier of the data's classes."""
        return self.classifier_of(self.class_names)

    def classifier_of(self, class_names: Sequence[str]) -> TextClassifier:
        described = self.recipe.descriptions
        negatives = self.domain.negative_templates(self.task) if self.data.kind == "multilabel" else None
        return build_classifier(
            self.backbone,
            list(class_names),
            self.templates,
            descriptions=read_descriptions(described, list(class_names), others=True) if described else None,
            negative_templates=negatives,
            store=self.store,
        )

    @cached_property
    def templates(self) -> list[str]:
        given = self.recipe.templates
        if given is None:
            return list(self.domain.templates(self.task))
        return [given] if isinstance(given, str) else list(given)

    def draw(
        self,
        shots: int,
        seed: int,
        views: int = 0,
        parts: bool = False,
        check: Callable[[FeatureSet], None] | None = None,
    ) -> Shots:
        """Support, val and test features of one seed. Val holds min(K, 4) images a class, outside the support.

        Args:
            parts: whether all three sets are to have parts; where the support has none, nor have they.
            check: called with the support before more is encoded; raises if that would be in vain.
        """
        chosen = sample_shots(self.data.split("train"), shots, seed, num_classes=len(self.class_names))
        pool = self.data.split("val")
        val = sample_shots(pool, min(shots, VAL_SHOTS), seed, num_classes=len(self.class_names)) if pool else []
        support = self.features(chosen, "support images", views=views, seed=seed, parts=parts)
        if check is not None:
            check(support)
        parts = support.parts is not None
        held = self.features(val, "validation images", parts=parts) if val else None
        held = held.with_parts() if parts and val else held
        test = self.test_set(parts) if parts else self.test
        return Shots(support, held, test, _behind(support, chosen), _behind(held, val) if val else (), seed)

    def training_images(self, shots: Shots) -> TrainingImages:
        """The images of a draw, for adapters that train towers."""
        negative = None
        if self.data.kind == "multilabel":
            against = self.domain.negative_templates(self.task)
            negative = [fill(against, name) for name in self.class_names]
        return TrainingImages(
            items=shots.items,
            load=self.data.load,
            train_transform=self.domain.transforms(self.backbone, True, self.task),
            eval_transform=self.domain.transforms(self.backbone, False, self.task),
            prompts=self.classifier.texts,
            negative=negative,
            templates=self.templates,
            val=shots.val_items,
        )

    @cached_property
    def resources(self) -> Resources:
        """What the recipe names besides data and backbone."""
        return Resources(self)

    def batches(self, adapter: Adapter, features: FeatureSet) -> Iterator[Batch]:
        """Rows of this data, with all that the adapter needs to predict."""
        return batches(adapter, features, self._extras(adapter))

    def _extras(self, adapter: Adapter) -> Extras:
        several = "further_backbones" in adapter.at_predict
        return Extras(
            items=self.data.items,
            load=self.data.load,
            transform=self.domain.transforms(self.backbone, False, self.task),
            encode=self.encode_items,
            further=[other.encode_items for other in self.resources.further] if several else (),
            boxes=self.resources.boxes if "boxes" in adapter.at_predict else None,
            parts=lambda items: self.encode_items(items, PROJECTED, parts=True),
        )

    def encode_items(self, items: Sequence[Item], tap: str, parts: bool = False) -> FeatureSet:
        """Features of some items by this backbone."""
        return self.features(items, f"images by {self.backbone.spec}", tap=tap, parts=parts)

    def of_ids(self, ids: Sequence[str], parts: bool = False) -> FeatureSet:
        """Features of some items by their ids, in that order."""
        by_id = {item.id: item for item in self.data.items}
        return self.encode_items([by_id[i] for i in ids], PROJECTED, parts)

    def on_further(self, spec: str) -> Prepared:
        """The same data on another backbone, whose features are stored as well."""
        return replace(self, backbone=load_backbone(spec, device=str(self.backbone.device)))

    def on(self, backbone: Backbone) -> Prepared:
        """The same data on towers that a fit changed, whose features are not stored."""
        if backbone is self.backbone:
            return self
        return replace(self, backbone=backbone, store=FeatureStore(keep=False))

    @property
    def test(self) -> FeatureSet:
        """Features of the test split."""
        return self.test_set().without_parts()

    def test_set(self, parts: bool = False) -> FeatureSet:
        """Features of the test split, with parts if wanted; read once."""
        if self._test is None or (parts and self._test.parts is None):
            items = self.data.split("test")
            if not items:
                raise DataError(f"{self.data.name}: no test images; give more images a class, or a test split")
            found = self.features(items, "test images", parts=parts)
            self._test = found.with_parts() if parts else found
        return self._test

    @cached_property
    def test_items(self) -> list[Item]:
        """The test items that could be read, in the order of `test`."""
        by_id = {item.id: item for item in self.data.split("test")}
        return [by_id[i] for i in self.test.ids]

    def features(
        self,
        items: Sequence[Item],
        title: str,
        views: int = 0,
        seed: int = 0,
        tap: str = PROJECTED,
        parts: bool = False,
    ) -> FeatureSet:
        """Features of some items, from the store where they are there."""
        with self.reporter.task(f"Encoding {title}") as progress:
            found = self.store.get_or_compute(
                self.data,
                list(items),
                self.backbone,
                self.domain.transforms(self.backbone, False, self.task),
                tap=tap,
                views=views,
                view_transform=self.domain.transforms(self.backbone, True, self.task) if views else None,
                seed=seed,
                batch_size=encoding_batch_size(self.recipe),
                workers=self.recipe.workers,
                amp=self.recipe.amp,
                progress=progress,
                parts=parts,
            )
        self.counts.computed += found.computed
        self.counts.cached += found.cached
        self.skipped += [pair for pair in found.skipped if pair not in self.skipped]
        check_skipped([*self.data.skipped, *self.skipped], self.data.total)
        return found.features.to(self.backbone.device)

    def thumbnail(self, index: int):
        """The decoded image of a row of `test`, for the report."""
        return self.data.load(self.test_items[index])


def _behind(features: FeatureSet, items: Sequence[Item]) -> tuple[Item, ...]:
    """The samples that could be read, in the order of their features."""
    by_id = {item.id: item for item in items}
    return tuple(by_id[i] for i in features.ids)


def prepare(recipe: Config, reporter: Reporter, domain: Domain | None = None) -> Prepared:
    """Read, check, restrict and split the data; load the backbone (its model is built only when it runs).

    Raises:
        DataError, ConfigError, CapabilityError: one line each, as DESIGN says.
    """
    domain = domain or named_domain(recipe)
    task = domain.check_task(recipe.task)
    data = read_data(recipe, domain, task)
    data = restrict_classes(data, recipe.classes)
    hashes = FileHashes()
    with reporter.task("Checking images") as progress:
        data = drop_unreadable(data, hashes, workers=recipe.workers, progress=progress)
    had_splits = any(item.split for item in data.items)
    data = assign_splits(data, seed=recipe.split_seed, hashes=hashes)
    backbone = load_backbone(recipe.backbone, device=recipe.device, image_size=recipe.image_size)
    return Prepared(recipe, domain, task, data, backbone, FeatureStore(), reporter, had_splits=had_splits)


def named_domain(recipe: Config) -> Domain:
    """The domain that the recipe names.

    Raises:
        ConfigError: it names none. UnknownNameError: nothing has that name.
    """
    if not recipe.domain:
        raise ConfigError(f"--domain is missing; there are: {', '.join(sorted(catalogue.domains()))}")
    return load_domain(recipe.domain)


def read_data(recipe: Config, domain: Domain, task: str) -> DomainData:
    """The recipe's data set, or the domain's own sample."""
    path = recipe.data.path
    if path in (None, "sample"):
        return domain.sample(task)
    if not Path(path).exists():
        raise DataError(f"--data {path}: no such file or folder; give the path of a data set, or 'sample'")
    return domain.read(path, task, **data_options(recipe))


def restrict_classes(data: DomainData, classes: Any) -> DomainData:
    """Only some classes: None or "all", "base", "new", a list, comma-separated names, or a file with one a line."""
    indices = class_indices(data.class_names, classes)
    return data if indices is None else restrict(data, indices)


def class_indices(class_names: Sequence[str], classes: Any) -> list[int] | None:
    """Positions of the chosen classes, or None for all.

    Raises:
        ConfigError: a name that the data does not have.
    """
    if classes in (None, "all"):
        return None
    if classes in ("base", "new"):
        base, new = base_new(class_names)
        return list(base if classes == "base" else new)
    if isinstance(classes, str):
        listed = (
            Path(classes).read_text(encoding="utf-8").splitlines() if Path(classes).is_file() else classes.split(",")
        )
    else:
        listed = classes
    wanted = [name.strip() for name in listed if name.strip()]
    for name in wanted:
        if name not in class_names:
            raise ConfigError(f"--classes: the data has no class '{name}'; {did_you_mean(name, class_names)}")
    if len(set(wanted)) < 2:
        raise ConfigError("--classes: give two classes at least")
    return [class_names.index(name) for name in dict.fromkeys(wanted)]


def views_wanted(adapter: Adapter) -> int:
    """How many augmented views of each support image the adapter asks for, as projected features."""
    if "views" not in adapter.needs or "pre_projection" in adapter.needs:
        return 0
    return int(getattr(adapter, "views", 0) or 0)


def parts_wanted(adapter: Adapter) -> bool:
    """Whether the adapter is fitted on the parts of each sample."""
    return "parts" in adapter.needs | adapter.optional


def fewer_views(support: FeatureSet, views: int) -> FeatureSet:
    """The first `views` views of a set that holds more of them."""
    if support.views is None or support.views.shape[1] == views:
        return support
    return replace(support, views=support.views[:, :views] if views else None)


def split_counts(data: DomainData) -> dict[str, dict[str, int]]:
    """Split -> class -> number of images."""
    counts = {split: dict.fromkeys(data.class_names, 0) for split in ("train", "val", "test")}
    for item in data.items:
        for label in positive_classes(item):
            counts[item.split][data.class_names[label]] += 1
    return counts
