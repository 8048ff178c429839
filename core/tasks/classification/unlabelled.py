"""Images without labels: a set whose classes `--classes` names, and what of a set a method reads without its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...contracts.adapter import Adapter
from ...contracts.domain import Domain
from ...contracts.features import FeatureSet
from ...contracts.images import TrainingImages
from ...contracts.items import DomainData, Item
from ...contracts.prepared import PreparedData, Shots
from ...contracts.recipe import Recipe
from ...data.unlabelled import images_of
from ...errors import CapabilityError, ConfigError, NoClassesError, near_names
from ..methods import listed_classes, read_data, restrict_classes

CURE = "give a method that needs none (auto, stat-a for all images at once, zero-shot)"


def classes_of_data(recipe: Recipe, domain: Domain, task: str) -> DomainData:
    """The recipe's data set with the classes that `--classes` says.

    Where the folder has no class folders, or none of them is named like a class of `--classes`, no image has a label:
    all are for testing, and the classes are those named. Names that are nearly those of folders are taken for a slip,
    unless `--shots 0` says that no label is wanted.

    Raises:
        As `read_data` and `restrict_classes`.
    """
    names = listed_classes(recipe.classes)
    asked = names is not None and recipe.protocol is None and (recipe.shots == 0 or not recipe.gave("shots"))
    try:
        data = read_data(recipe, domain, task)
    except NoClassesError as error:
        if not asked:
            cure = "or name the classes with --classes and give a method that needs no labels"
            if names is not None and recipe.gave("shots") and recipe.protocol is None:
                cure = f"or omit --shots {recipe.shots}: without labels nothing is drawn"
            raise NoClassesError(f"{error}, {cure}") from None
        images = images_of(domain, [recipe.data_path], recipe.reading)
        return _named(replace(images, name=Path(recipe.data_path).resolve().name), names)
    if not asked or data.kind != "labels" or _meant(names, data.class_names, recipe.shots == 0):
        return restrict_classes(data, recipe.classes)
    folders = ", ".join(data.class_names[:5]) + (", ..." if len(data.class_names) > 5 else "")
    note = f"None of --classes is among the labels of the data ({folders}), so these are not used as labels."
    return _named(replace(data, published=None, notes=[*data.notes, note]), names)


def _meant(names: Sequence[str], known: Sequence[str], exactly: bool) -> bool:
    """Whether one of the names is a class of the data, or a slip for one."""
    return any(name in known or (not exactly and near_names(name, known)) for name in names)


def _named(data: DomainData, names: Sequence[str]) -> DomainData:
    """The images without labels, all of them for testing."""
    items = [item.with_(target=None, split="test") for item in data.items]
    return replace(data, items=items, class_names=tuple(names))


def has_labels(data: DomainData) -> bool:
    """Whether some image of the set has a label."""
    return any(item.target is not None for item in data.items)


def check_shots(recipe: Recipe, adapter: Adapter) -> None:
    """Refuse a method that learns from labels where none are to be used.

    Raises:
        ConfigError: as said.
    """
    if recipe.shots != 0 or adapter.label_free:
        return
    given, cure = "--shots 0", "give 1 or more, or a method that needs none"
    if recipe.protocol is not None and not recipe.gave("shots"):
        given, cure = f"--protocol {recipe.protocol}", "there are none, so give --adapter a method that needs none"
    raise ConfigError(
        f"{given}: adapter '{adapter.name}' learns from labelled images; {cure} (stat-a for all images at once, "
        "zero-shot)"
    )


def without_shots(recipe: Recipe, data: DomainData, adapter: Adapter) -> Recipe:
    """The recipe of a set without labels, which has no shots.

    Raises:
        CapabilityError: the method learns from labels.
    """
    if has_labels(data):
        return recipe
    if not adapter.label_free:
        lacking = f"adapter '{adapter.name}' learns from labelled images, and no image of {data.name} has a label"
        raise CapabilityError(f"{lacking}; {CURE}")
    return recipe.with_(shots=0)


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
        by_id = {item.id: item for item in prepared.data.items}
        return cls(tuple(by_id[i] for i in features.ids or ()), features.without_labels())

    def images(self, of_support: TrainingImages) -> TrainingImages:
        """The images themselves, looked at like those of the support."""
        return replace(of_support, items=self.items, val=())
