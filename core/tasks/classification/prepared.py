"""A data set on one backbone: shots are drawn of it, and its features and the texts of its classes come by demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from ...backbones.languages import note_on_language
from ...backbones.load import announced, load_backbone
from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.bags import StoredTiles
from ...contracts.domain import Domain, Metric
from ...contracts.features import PROJECTED, Batch, FeatureSet, TextClassifier
from ...contracts.images import TrainingImages
from ...contracts.items import DomainData, Item, items_of
from ...contracts.judgement import Judgement
from ...contracts.prepared import Counts, Shots, val_images
from ...contracts.recipe import AUTO
from ...contracts.run_info import RunInfo
from ...data.file_hashes import FileHashes
from ...data.group_candidates import settle_groups
from ...data.sampling import draw_scenario, sample_shots
from ...data.splits import assign_splits
from ...data.verify import check_tolerated, drop_unreadable
from ...errors import CapabilityError, DataError
from ...features.batches import Extras, batches
from ...features.files import load_class_texts
from ...features.patch_tokens import PatchTokenReader
from ...features.store import Extraction, FeatureStore
from ...prompts.classifier import build_classifier, fill
from ...prompts.descriptions import read_descriptions
from ...prompts.languages import ClassWords
from ...recipes.asked_for import has_labels
from ...registry import build_metric
from ...runtime.progress import Reporter
from .resources import BaseLogits, Resources


@dataclass(frozen=True)
class Encoding:
    """How images go through the backbone.

    Args:
        batch_size: images at once; None measures it.
        workers: threads that decode.
        amp: None, "bf16" or "fp16".
    """

    batch_size: int | None = None
    workers: int | None = None
    amp: str | None = None


@dataclass(kw_only=True)
class Prepared:
    """One data set on one backbone; `draw` gives the shots of a seed, features coming from the store.

    Attributes:
        task: the domain's task.
        data: all items, each with a split.
        given_templates: prompts in place of the domain's, or None.
        words: names of classes, and prompts in place of the domain's, in a language, or None.
        descriptions: file of texts per class, or None.
        given: resource name -> path.
        reading: options of the data's reader.
        counts: how many images the backbone ran on and how many came from the store.
        skipped: (id, reason) of images found unreadable while encoding.
        had_splits: whether the data itself says which images are for testing.
        through: the transform that the domain has for predicting -> that which images go through; None for the same.
    """

    domain: Domain
    task: str
    data: DomainData
    backbone: Backbone
    store: FeatureStore
    reporter: Reporter
    encoding: Encoding = Encoding()
    given_templates: Any = None
    words: ClassWords | None = None
    descriptions: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    had_splits: bool = False
    through: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    _test: FeatureSet | None = field(default=None, init=False, repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def notes(self) -> list[str]:
        words = self.words
        of_language = None if words is None else note_on_language(self.backbone, words.code, words.language)
        further = [] if of_language is None else [of_language]
        return [*self.data.notes, *self.backbone.notes, *self.backbone.notes_on_channels(), *further]

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Those of the domain's own."""
        return [build_metric(each) for each in self.domain.metrics]

    @cached_property
    def classifier(self) -> TextClassifier:
        """The zero-shot text classifier of the data's classes."""
        return self.classifier_of(self.class_names)

    def classifier_of(self, class_names: Sequence[str]) -> TextClassifier:
        if self.data.bags is not None and self.data.bags.texts is not None:
            return load_class_texts(self.data.bags.texts, class_names, self.backbone.embed_dim).to(self.device)
        if not self.backbone.has_text:
            return TextClassifier.without_texts(class_names, self.backbone.embed_dim, self.backbone.device)
        described = self.descriptions
        negatives = self.negative_templates if self.data.kind == "multilabel" else None
        return build_classifier(
            self.backbone,
            list(class_names),
            self.templates,
            descriptions=read_descriptions(described, list(class_names), others=True) if described else None,
            negative_templates=negatives,
            sentences=self._sentences(class_names),
            store=self.store,
        )

    def _sentences(self, class_names: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
        """The domain's or the language's own texts of classes, where the user gave no templates."""
        if self.given_templates is not None:
            return {}
        if self.words is not None and self.words.templates:
            return {name: texts for name, texts in self.words.sentences.items() if name in class_names}
        sentences = {name: self.domain.sentences(name, self.task) for name in class_names}
        return {name: texts for name, texts in sentences.items() if texts is not None}

    @cached_property
    def templates(self) -> Sequence[str]:
        stored = self.data.bags is not None and self.data.bags.texts is not None
        templates = self.given_templates if self.backbone.has_text and not stored else []
        if templates is None and self.words is not None and self.words.templates:
            return list(self.words.templates)
        if templates is None:
            return list(self.domain.templates(self.task))
        return [templates] if isinstance(templates, str) else list(templates)

    @property
    def negative_templates(self) -> list[str]:
        """Prompts that say that a class is absent, in the language of `templates`."""
        if self.words is not None and self.words.templates:
            return list(self.words.negative)
        return self.domain.negative_templates(self.task)

    def draw(
        self,
        shots: int | None,
        seed: int,
        views: int = 0,
        augment: Callable[..., Any] | None = None,
        parts: bool = False,
        check: Callable[[FeatureSet], None] | None = None,
        val_shots: int | str | None = None,
        scenario: str | None = None,
        searches: bool = True,
    ) -> Shots:
        """Support, val and test features of one seed.

        Args:
            shots: images per class to learn from; None for all there are.
            views: augmented views of each support image.
            augment: decoded image -> augmented pixels, by default the domain's.
            parts: whether all three sets are to have parts; where the support has none, nor have they.
            check: called with the support before more is encoded; raises if that would be in vain.
            val_shots: as for `val_images`.
            scenario: how unequal the shots are, as `draw_shots` takes it.
            searches: whether settings may be chosen at all.
        """
        classes = len(self.class_names)
        parts_asked, parts = parts, parts or self.data.part_views is not None
        chosen = draw_scenario(self.data.split("train"), shots, seed, num_classes=classes, scenario=scenario)
        chosen = chosen if shots is None else [item.with_(draw=None) for item in chosen]  # so many were labelled
        pool = self.data.split("val")
        val = sample_shots(pool, val_images(shots, val_shots), seed, num_classes=classes) if pool else []
        if chosen:
            support = self.features(chosen, "support images", views, seed, parts=parts, augment=augment)
        else:
            support = self._no_support()
        if check is not None:
            check(support)
        parts = support.has_parts
        held = self.features(val, "validation images", parts=parts) if val else None
        held = held.with_parts() if parts and val else held
        test = self.test_set(parts) if parts and parts_asked else self.test
        samples = tuple(items_of(support.ids, chosen)), tuple(items_of(held.ids, val)) if val else ()
        return Shots(support, held, test, *samples, seed, searches, augment)

    def with_val(self, shots: Shots) -> Shots:
        """The draw whose support has the images of val too, so that none are left to choose on."""
        if shots.val is None:
            return shots
        views = 0 if shots.support.views is None else shots.support.views.shape[1]
        items, parts = [*shots.items, *shots.val_items], shots.support.has_parts
        title = "support and validation images"
        both = self.features(items, title, views, shots.seed, parts=parts, augment=shots.augment)
        both = both.with_parts() if parts else both
        return replace(shots, support=both, val=None, items=tuple(items_of(both.ids, items)), val_items=())

    def batches(self, adapter: Adapter, features: FeatureSet) -> Iterator[Batch]:
        """Rows of this data, with all that the adapter needs to predict."""
        several, keyed = "further_backbones" in adapter.at_predict, "keys" in adapter.at_predict
        extras = Extras(
            items=self.data.items,
            further=[other.encode_items for other in self.resources.further] if several else (),
            keys=self.resources.keyed.encode_items if keyed and self.resources.keyed else None,
            base=partial(self.base.logits, self) if self.base is not None else None,
            **self._of_images(adapter),
        )
        return batches(adapter, features, extras)

    def of_ids(self, ids: Sequence[str], parts: bool = False) -> FeatureSet:
        """Features of some items by their ids, in that order."""
        return self.encode_items(items_of(ids, self.data.items), PROJECTED, parts)

    @cached_property
    def resources(self) -> Resources:
        """What the recipe names besides data and backbone."""
        return Resources(self)

    @cached_property
    def base(self) -> BaseLogits | None:
        """The run that the recipe starts from."""
        return BaseLogits.of_data(self, self.device)

    def augmented(self, shots: Shots, views: int, augment: Callable[..., Any] | None) -> Shots:
        """The draw with augmented views of its support."""
        shots = replace(shots, augment=augment)
        if not views or not shots.items:
            return shots
        seen = self.features(shots.items, "support images", views, shots.seed, augment=augment)
        return replace(shots, support=replace(shots.support, views=seen.views))

    def _no_support(self) -> FeatureSet:
        """For methods that learn from no labelled image."""
        none, several = torch.zeros(0, self.backbone.embed_dim), self.data.kind == "multilabel"
        labels = torch.zeros(0, len(self.class_names)) if several else torch.zeros(0, dtype=torch.int64)
        made_by = self.backbone.fingerprint
        empty = FeatureSet(none, labels, self.class_names, ids=(), backbone=made_by)
        return empty.to(self.backbone.device)

    def training_images(self, shots: Shots) -> TrainingImages:
        """The images of a draw, for adapters that train towers."""
        negative = None
        if self.data.kind == "multilabel":
            against, sentences = self.negative_templates, self._sentences(self.class_names)
            negative = [sentences[name][1] if name in sentences else fill(against, name) for name in self.class_names]
        drawn = any(item.draw for item in shots.items)
        return TrainingImages(
            items=shots.items,
            draw=self.domain.drawer(shots.items, self.class_names) if drawn else None,
            load=self.data.load,
            train_transform=shots.augment or self.domain.transforms(self.backbone, True, self.task),
            eval_transform=self.transform,
            prompts=self.classifier.texts or ((),) * len(self.class_names),
            negative=negative,
            templates=self.templates,
            val=shots.val_items,
            workers=self.encoding.workers,
            amp=self.encoding.amp,
        )

    @property
    def transform(self) -> Callable[..., Any]:
        """Decoded image -> pixels, for predicting."""
        transform = self.domain.transforms(self.backbone, False, self.task)
        return transform if self.through is None else self.through(transform)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def made_by(self) -> str:
        """The fingerprint of the backbone of the features."""
        return self.backbone.fingerprint

    def _of_images(self, adapter: Adapter) -> dict[str, Any]:
        return {
            "load": self.data.load,
            "transform": self.transform,
            "encode": self.encode_items,
            "boxes": self.resources.boxes if "boxes" in adapter.at_predict else None,
            "parts": lambda items: self.encode_items(items, PROJECTED, parts=True),
            "patches": self.patch_tokens.read if "patch_tokens" in adapter.at_predict else None,
        }

    @property
    def patch_tokens(self) -> PatchTokenReader:
        """Features of the patches, stored as well."""
        transform = self.transform
        return PatchTokenReader(self.data, self.backbone, transform, self.store, **asdict(self.encoding))

    def encode_items(self, items: Sequence[Item], tap: str, parts: bool = False) -> FeatureSet:
        """Features of some items by this backbone."""
        return self.features(items, f"images by {self.backbone.spec}", tap=tap, parts=parts)

    def on_further(self, spec: str) -> Prepared:
        """The same data on another backbone, whose features are stored as well."""
        backbone = load_backbone(spec, str(self.backbone.device), channels=self.backbone.channels)
        return replace(self, backbone=announced(backbone, self.reporter.info))

    def again(self, data: DomainData, reporter: Reporter | None = None) -> Prepared:
        """Other data, encoded in the same way, of which what is read is counted apart."""
        return replace(self, data=data, reporter=reporter or self.reporter, counts=Counts(), skipped=[])

    def seen_through(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Prepared:
        """The same data, whose images a further transform changes; nothing is stored, shown or counted of them."""
        quiet, store = Reporter(quiet=True), self.store.unkept
        return replace(self, through=change, store=store, reporter=quiet, counts=Counts(), skipped=[])

    def on(self, backbone: Backbone) -> Prepared:
        """The same data on towers that a fit changed, whose features are not stored."""
        if backbone is self.backbone:
            return self
        return replace(self, backbone=backbone, store=self.store.unkept)

    @property
    def test(self) -> FeatureSet:
        """Features of the test split."""
        return self.test_set().without_parts()

    def test_set(self, parts: bool = False) -> FeatureSet:
        """Features of the test split, with parts if wanted; read once."""
        if self._test is None or (parts and not self._test.has_parts):
            items = self.data.split("test")
            if not items:
                raise DataError(f"{self.data.name}: no test images; give more images per class, or a test split")
            test_set = self.features(items, "test images", parts=parts)
            self._test = test_set.with_parts() if parts else test_set
        return self._test

    @cached_property
    def test_items(self) -> list[Item]:
        """The test items that could be read, in the order of `test`."""
        return items_of(self.test.ids, self.data.split("test"))

    def features(
        self,
        items: Sequence[Item],
        title: str,
        views: int = 0,
        seed: int = 0,
        tap: str = PROJECTED,
        parts: bool = False,
        augment: Callable[..., Any] | None = None,
    ) -> FeatureSet:
        """Features of some items, from the store where they are there; views are made by `augment`, by default as the
        domain says."""
        if views and augment is None:
            augment = self.domain.transforms(self.backbone, True, self.task)
        how = {"views": views, "view_transform": augment if views else None, "seed": seed}
        with self.reporter.task(f"Encoding {title}", "tiles" if self.data.in_tiles else "images") as progress:
            extraction = self.extracted(items, tap=tap, parts=parts, progress=progress, **how)
        self.counts.computed += extraction.computed
        self.counts.cached += extraction.cached
        self.skipped += [pair for pair in extraction.skipped if pair not in self.skipped]
        check_tolerated(self.data, self.skipped)
        return extraction.features.to(self.backbone.device)

    def extracted(self, items: Sequence[Item], **how: Any) -> Extraction:
        """Features of some items, and which could not be read; `how` as `FeatureStore.get_or_compute` has it."""
        transform, encoding = self.transform, asdict(self.encoding)
        if self.data.in_tiles:
            from ...features.bag_extraction import bags_of_items

            return bags_of_items(self.data, list(items), self.backbone, transform, self.store, **encoding, **how)
        return self.store.get_or_compute(self.data, list(items), self.backbone, transform, **encoding, **how)

    def thumbnail(self, index: int):
        """The decoded image of a row of `test`, for the report."""
        return self.data.load(self.test_items[index])


def check_read(data: DomainData, judges: Sequence[Judgement]) -> None:
    """Raise what judgements that are asked for tell of the data as they were read."""
    for judgement in judges:
        if judgement.asked:
            judgement.check_read(data)


def as_wide_as(bags: StoredTiles, backbone: Backbone, device: str | None) -> Backbone:
    """The backbone, if its features are as wide as the stored ones of tiles.

    Raises:
        CapabilityError: they are not.
    """
    stored = load_backbone(bags.backbone, device).embed_dim
    if backbone.embed_dim != stored:
        raise CapabilityError(
            f"--backbone {backbone.spec}: gives features of width {backbone.embed_dim}, the stored ones have {stored}; "
            "give the encoder that made them, or omit it"
        )
    return backbone


def with_preset(data: DomainData, domain: Domain, preset: str, used: str = "prompts") -> DomainData:
    """The data of the published set that is asked for, or of the one that was recognised.

    Args:
        used: what of a recognised set is, in words.
    """
    if preset != AUTO:
        asked = copy(domain.of(data))
        return replace(data, published=asked.use_preset(preset), domain=asked)
    if data.published is None:
        return data
    note = f"Recognised as the published set {data.published}, whose {used} are used; --preset none turns this off."
    return replace(data, notes=[*data.notes, note])


def checked_and_split(
    data: DomainData,
    reporter: Reporter,
    workers: int | None,
    seed: int,
    divided: bool = True,
    fitted: RunInfo | None = None,
) -> tuple[DomainData, bool]:
    """The items that can be read, each with its split, and whether the data itself says which are for testing.

    Args:
        workers: threads that decode; None for one per core.
        seed: of the splits.
        divided: whether data without splits are split; else they are kept whole for testing.
        fitted: of a run on these data, by whose groups they are split again.

    Raises:
        DataError: too many cannot be read, or there are too few to split.
    """
    hashes = FileHashes()
    if data.bags is None:
        with reporter.task("Checking images") as progress:
            data = drop_unreadable(data, hashes, workers=workers, progress=progress)
    else:
        check_tolerated(data)
    grouping = None if fitted is None else fitted.data.get("grouping")
    still_open = data.open_groups is not None and has_labels(data)
    if still_open and (fitted is None or grouping is not None):  # older runs asked names and pixels for nothing
        data = settle_groups(data, hashes, grouping)
    had_splits = len({item.split for item in data.items if item.split}) > 1  # one alone divides nothing
    if not divided and not had_splits:
        data = data.with_items([item.with_(split="test") for item in data.items])
    elif has_labels(data):
        data = _drawn_once(assign_splits(data, seed=seed, hashes=hashes), seed)
    return data, had_splits


def _drawn_once(data: DomainData, seed: int) -> DomainData:
    """The set whose training samples that are drawn anew in each epoch are those of one draw, for methods that encode
    them once; those of val and test stay as they were read."""
    places = [k for k, item in enumerate(data.items) if item.split == "train"]
    if not any(data.items[k].draw for k in places) or data.domain is None:
        return data
    from ...training.samples import seed_of  # only where samples are drawn anew

    draw = data.domain.drawer([data.items[k] for k in places], data.class_names)
    items = [item.with_(draw=None) for item in data.items]
    taken = {item.id for item in items}
    for row, k in enumerate(places):
        drawn = draw(row, seed_of(seed, row, "drawn once"))
        items[k] = data.items[k] if drawn.id in taken else drawn
        taken.add(drawn.id)
    return data.with_items(items)
