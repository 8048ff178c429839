"""One fit of a method on a draw of shots: how images are augmented, what it is given, what it reads without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ...contracts.adapter import Adapter, FitReport
from ...contracts.features import FeatureSet
from ...contracts.images import CropTransform, TrainingImages, TrainingPlace
from ...contracts.items import Item, items_of
from ...contracts.part_views import IMAGES
from ...contracts.parts import RandomCrops, StoredViews, part_of
from ...contracts.prepared import PreparedData, Shots
from ...data.file_hashes import FileHashes
from ...data.verify import content_key
from ...errors import CapabilityError, ConfigError
from ...features.batches import OF_IMAGES
from ...features.table import canonical_json, transform_spec
from ...forgetting.probe import probe_of
from ...recipes.asked_for import trains_towers
from ...registry import build_adapter
from ...runtime.progress import Reporter
from .resources import check_needs
from .transfer import Transfer

Crop = tuple[float, float]
NOWHERE = TrainingPlace(None)
"""Of a fit whose checkpoints nobody needs."""


@dataclass(frozen=True)
class Augmentation:
    """Of a method on one data set.

    Args:
        views: stored views of each support image.
        transform: decoded image -> augmented pixels; None on a features file.
        note: what the run says of it; "" for nothing to say.
    """

    views: int = 0
    transform: Callable[..., Any] | None = None
    note: str = ""

    @property
    def of_draw(self) -> dict[str, Any]:
        """As `PreparedData.draw` takes it."""
        return {"views": self.views, "augment": self.transform}

    @property
    def spec(self) -> str:
        """Equal for transforms that do the same."""
        return "" if self.transform is None else transform_spec(self.transform)


def augmentation_of(
    adapter: Adapter, prepared: PreparedData, own_options: Collection[str] = (), published: bool = False
) -> Augmentation:
    """What a method's images go through in training. A preset or a protocol takes what it publishes, a user's
    `crop_scale` goes before both; else the crop is the tighter of what it publishes and of what is safe for images of
    the domain.

    Args:
        own_options: names of the options that somebody gave for the method.
        published: whether a protocol asks for what papers do.

    Raises:
        ConfigError: `crop_scale` is given, and the domain's augmentation has no crop.
    """
    if prepared.domain is None:
        return Augmentation()
    published = published or adapter.as_published
    views = views_wanted(adapter, prepared, published or "views" in own_options)
    usual = prepared.domain.transforms(prepared.backbone, True, prepared.task)
    if (crops := part_of(adapter, RandomCrops)) is None:
        return Augmentation(views, usual if views else None)
    own_crop = bool(crops.crop_scale) or crops.published_crop is None
    if published and not own_crop and isinstance(usual, CropTransform):
        usual = prepared.backbone.preprocess(True)
    transform = crops.training_transform(usual)
    if own_crop:
        return Augmentation(views, transform)
    note = f"augmented as domain {prepared.domain.name} does (published: crops of {_percent(crops.published_crop)})"
    if isinstance(transform, CropTransform):
        crop = tighter(transform.safe_crop or crops.published_crop, crops.published_crop)
        transform, note = transform.with_crop(crop), _on_crop(crop, crops.published_crop, prepared.domain.name)
    return Augmentation(views, transform, note if _augments(adapter, views) else "")


def tighter(safe: Crop, published: Crop) -> Crop:
    """The crops that both allow; where there are none, the safe ones."""
    low, high = max(safe[0], published[0]), min(safe[1], published[1])
    return (low, high) if low <= high else safe


def notes_on_augmentation(of: Mapping[str, Augmentation]) -> list[str]:
    """A sentence for each way of augmenting, with the methods that it is of where there are several."""
    names: dict[str, list[str]] = {}
    for name, augmentation in of.items():
        names.setdefault(augmentation.note, []).append(name)
    names.pop("", None)
    return [f"{note}: {', '.join(those)}" if len(of) > 1 else note for note, those in names.items()]


def views_wanted(adapter: Adapter, prepared: PreparedData, decided: bool) -> int:
    """How many augmented views of each support image a fit has, as projected features.

    Args:
        decided: whether the user, a preset or a protocol says how many; else they are no more than the domain found to
            help.
    """
    if "views" not in adapter.needs or "pre_projection" in adapter.needs:
        return 0
    pool = part_of(adapter, StoredViews)
    asked = pool.pooled if pool is not None else int(adapter.options.get("views") or 0)
    most = None if decided or prepared.domain is None else prepared.domain.views
    return asked if most is None else min(asked, most)


def fewer_views(shots: Shots, views: int) -> Shots:
    """The draw with the first `views` augmented views of its support, where it holds more."""
    support = shots.support
    if support.views is None or support.views.shape[1] == views:
        return shots
    return replace(shots, support=replace(support, views=support.views[:, :views] if views else None))


def _augments(adapter: Adapter, views: int) -> bool:
    """Whether a fit looks at augmented images."""
    fresh = (pool := part_of(adapter, StoredViews)) is not None and pool.fresh
    before = "pre_projection" in adapter.needs and bool(adapter.options.get("views"))
    return views > 0 or fresh or before or "pixels" in adapter.needs


def _on_crop(crop: Crop, published: Crop, domain: str) -> str:
    why = (
        "as published"
        if crop == published
        else f"the safe share for domain {domain} (published: {_percent(published)})"
    )
    return f"random crops keep {_percent(crop)} of an image, {why}"


def _percent(crop: Crop) -> str:
    return f"{100 * crop[0]:g} to {100 * crop[1]:g} %"


def fit_adapter(
    adapter: Adapter,
    prepared: PreparedData,
    shots: Shots,
    seed: int,
    reporter: Reporter,
    place: TrainingPlace = NOWHERE,
) -> FitReport:
    """Fit an adapter on one draw.

    Args:
        place: for adapters that train towers; the reporter hears of the training.
    """
    if not (adapter.text_free or prepared.classifier.has_texts):
        raise CapabilityError(
            f"adapter '{adapter.name}' learns from class texts, and these features have none, because they come from "
            "an image tower alone; choose linear-probe or tip-adapter"
        )
    unlabelled = Unlabelled.of(adapter, prepared, shots)
    counts = [f"{len(shots.support)} images"] if len(shots.support) or not unlabelled.items else []
    counts += [f"{len(unlabelled.items)} images without labels"] if unlabelled.items else []
    reporter.info(f"Fitting {adapter.name} on {' and '.join(counts)}")
    with _resources(adapter, prepared, shots, unlabelled, reporter, place) as resources:
        return adapter.fit(
            shots.support,
            prepared.classifier,
            val=shots.val_of_fit,
            unlabeled=unlabelled.features,
            backbone=prepared.backbone,
            resources=resources,
            seed=seed,
        )


def refitted(
    adapter: Adapter,
    report: FitReport,
    prepared: PreparedData,
    shots: Shots,
    seed: int,
    reporter: Reporter,
    place: TrainingPlace = NOWHERE,
) -> tuple[Adapter, FitReport]:
    """The method with the settings that it chose, fitted on support and val together.

    Args:
        adapter, report: of the fit that chose.
        place: of the fit that chose; the second training has a folder of its own in it.
    """
    if shots.val is None:
        report.notes.append("--refit: there were no val images to add")
        return adapter, report
    again = build_adapter(adapter.name, **{**adapter.options, **adapter.settled(report)})
    both = prepared.with_val(shots)
    inside = replace(place, folder=None if place.folder is None else place.folder / "refit", resume=False)
    second = fit_adapter(again, prepared, both, seed, reporter, inside)
    second.notes.append(
        f"fitted again with the chosen settings on {len(both.support)} images: {len(shots.support)} of the support and "
        f"{len(shots.val)} of val"
    )
    chosen = {"chosen": {**second.chosen, **report.chosen}, "chosen_on": report.chosen_on}
    chosen |= {"val_score": report.val_score, "judged": report.judged}
    if report.judged:  # the fit that took one of several methods says why
        second.notes = list(dict.fromkeys([*report.notes, *second.notes]))
    return again, replace(second, **chosen, history=[*report.history, *second.history])


def refuse_early(adapter: Adapter, prepared: PreparedData, transfer: Transfer | None, generic: str | None) -> None:
    """Raise what can be told before anything is encoded or fitted.

    Args:
        transfer: how the fit is to be tested on other data, or None.
        generic: a folder of generic images, or None.
    """
    check_needs(prepared, adapter)
    adapter.check_kind(several_labels=prepared.data.kind == "multilabel", text_encoder=prepared.backbone is not None)
    if prepared.domain is not None:
        data = prepared.data
        if not adapter.label_free and all(item.training_label() is None for item in data.split("train")):
            raise CapabilityError(
                f"{data.name}: no training image has a class (the set is one of {data.kind}), and adapter "
                f"'{adapter.name}' learns from these; give another --task, or zero-shot"
            )
        adapter.check_sample(lambda: prepared.transform(data.load(data.items[0])), data.part_views)
    if prepared.data.part_views is not None and adapter.at_predict & (OF_IMAGES | {"patch_tokens"}):
        raise CapabilityError(f"adapter '{adapter.name}' {IMAGES}")
    if prepared.data.in_tiles and (seen := (adapter.needs | adapter.at_predict) & (OF_IMAGES | {"patch_tokens"})):
        raise CapabilityError(
            f"adapter '{adapter.name}' looks at whole {'images' if seen & OF_IMAGES else 'patches'}, and slides are "
            "read by their tiles; choose one that reads bags, such as abmil, or their means, such as linear-probe"
        )
    if transfer is not None:
        transfer.check(adapter)
    if generic and trains_towers(adapter.name):
        if not prepared.backbone.has_text:
            raise ConfigError(f"--generic {generic}: backbone '{prepared.backbone.spec}' names no images; omit it")
        probe_of(generic)  # a folder that cannot be used is found out here
    if prepared.base is not None:
        prepared.base.check_classes(prepared.class_names)
    if "keys" in adapter.needs | adapter.optional:
        prepared.resources.keyed  # noqa: B018 (a backbone of keys that cannot be loaded is found out here)
    prepared.classifier  # noqa: B018 (descriptions and templates that cannot be used are found out here)


def check_novel(adapter: Adapter, left_out: Sequence[str]) -> None:
    """Raise the error of a method that cannot be scored on the classes that `--classes` leaves out."""
    if "new_classes" not in adapter.can:
        raise CapabilityError(
            f"--novel: adapter '{adapter.name}' has no scores for classes it never saw; learn a prompt instead (coop)"
        )
    if len(left_out) < 2:
        raise ConfigError(f"--novel: --classes leaves out {len(left_out)}, at least two are needed; name fewer classes")


@contextmanager
def _resources(
    adapter: Adapter,
    prepared: PreparedData,
    shots: Shots,
    unlabelled: Unlabelled,
    reporter: Reporter,
    place: TrainingPlace,
) -> Iterator[dict[str, Any]]:
    """What an adapter needs besides features, and the place of a training with its progress."""
    collected = prepared.resources.collect(adapter, shots)
    if prepared.base is not None and "base" in adapter.needs | adapter.optional:
        collected["base"] = prepared.base.predictions(prepared, shots.test)
    if unlabelled.features is not None and "images" in collected:
        collected["unlabeled_images"] = unlabelled.images(collected["images"])
    if "pixels" not in adapter.needs:
        with reporter.watching(f"Fitting {adapter.name}"):
            yield collected
        return
    log_every = adapter.options.get("log_every")
    with reporter.training_lines(f"Training {adapter.name}", log_every) as on_step:
        yield {**collected, "place": replace(place, on_step=on_step, on_message=reporter.info)}


def parts_wanted(adapter: Adapter) -> bool:
    """Whether the adapter is fitted on the parts of each sample."""
    return "parts" in adapter.needs | adapter.optional


@dataclass(frozen=True)
class Unlabelled:
    """What a method reads without labels.

    Args:
        items: the samples, in the order of the rows.
        features: their features; None where none are asked for.
    """

    items: tuple[Item, ...] = ()
    features: FeatureSet | None = None

    @classmethod
    def of(cls, adapter: Adapter, prepared: PreparedData, shots: Shots) -> Unlabelled:
        """All test images of a transductive method, and of one that without labels chooses among such; else the train
        images, of a method that learns from labels too those beyond the shots. Where the data has no train split, as
        without labels, the test images.

        Raises:
            CapabilityError: all train images are shots.
        """
        if adapter.transductive or (adapter.transductive_unlabelled and not len(shots.support)):
            return cls.of_rows(prepared, shots.test)
        if "unlabeled" not in adapter.needs:
            return cls()
        train = prepared.data.split("train")
        if not train:
            return cls.of_rows(prepared, shots.test)
        taught = set() if adapter.label_free else {item.id for item in shots.items}
        items = [item for item in train if item.id not in taught]
        if not items:
            reads = f"adapter '{adapter.name}' also learns from images without labels"
            raise CapabilityError(f"{reads}, but all {len(train)} train images are shots; give fewer --shots")
        return cls.of_rows(prepared, prepared.of_ids([item.id for item in items]))

    @classmethod
    def of_rows(cls, prepared: PreparedData, features: FeatureSet) -> Unlabelled:
        """These rows, and the samples behind them."""
        return cls(tuple(items_of(features.ids, prepared.data.items)), features.without_labels())

    def images(self, of_support: TrainingImages) -> TrainingImages:
        """The images themselves, looked at like those of the support."""
        return replace(of_support, items=self.items, val=())


def fit_key(adapter: Adapter, prepared: PreparedData, shots: Shots, *further: Any) -> str:
    """16 hex digits that say what a training learns from what.

    Args:
        further: that decides about it, JSON-able: the seed, the shots that were asked for, and the like.
    """
    options = {name: value for name, value in adapter.options.items() if name not in adapter.cost_options}
    parts: list[Any] = [adapter.name, options, prepared.backbone.fingerprint, *further]
    parts += [list(prepared.class_names), [list(texts) for texts in prepared.classifier.texts or ()]]
    hashes = FileHashes()
    unlabelled = Unlabelled.of(adapter, prepared, shots).items
    read = [shots.items, shots.val_items, *([unlabelled] if unlabelled else [])]
    parts += [[_content(item, hashes) for item in items] for items in read]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def _content(item: Item, hashes: FileHashes) -> list[Any]:
    label = item.class_label()
    one, several = (None, label) if isinstance(label, tuple) else (label, None)
    return [content_key(item, hashes), one, repr(several)]
