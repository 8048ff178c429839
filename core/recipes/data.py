"""The data that a recipe asks for: read, restricted to its classes, checked, and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.items import DomainData, Item
from ..contracts.recipe import AUTO, SAMPLE, Recipe, check_data_place
from ..data.label_files import is_label_file, read_label_file
from ..data.pools import listed_names
from ..data.sampling import base_new, restrict
from ..data.splits import assign_splits
from ..data.unlabelled import images_of
from ..data.verify import FileHashes, drop_unreadable
from ..errors import ConfigError, NoClassesError, did_you_mean, near_names, shortened
from ..runtime.progress import Reporter


def read_data(recipe: Recipe, domain: Domain, task: str) -> DomainData:
    """The recipe's data set, the domain's own sample, or the images of a table that `vladapt label` wrote.

    Raises:
        DataError: there is no such file or folder, or nothing usable in it.
    """
    path = recipe.data_path
    if path == SAMPLE:
        return domain.sample(task)
    check_data_place(path)
    if is_label_file(path):
        return read_label_file(path, domain, task, recipe.reading)
    return domain.read(path, task, **recipe.reading)


def place_of_data(recipe: Recipe) -> str:
    """Where the data lies, as it was given: the run says how the folder is found in which that holds."""
    return str(recipe.features or recipe.data_path)


def readable_samples(data: DomainData, reporter: Reporter, workers: int | None, hashes: FileHashes | None = None):
    """The samples whose files can be read; the others are listed in `skipped`.

    Raises:
        DataError: more than 5 % cannot.
    """
    with reporter.task("Checking samples", unit="samples") as progress:
        return drop_unreadable(data, hashes or FileHashes(), workers=workers, progress=progress)


def split_samples(data: DomainData, reporter: Reporter, workers: int | None, split_seed: int) -> DomainData:
    """The readable samples, each with its split."""
    hashes = FileHashes()
    return assign_splits(readable_samples(data, reporter, workers, hashes), seed=split_seed, hashes=hashes)


def restrict_classes(data: DomainData, classes: Any) -> DomainData:
    """Only some classes: None or "all", "base", "new", a list, comma-separated names, or a file with one per line."""
    indices = class_indices(data.class_names, classes)
    return data if indices is None else restrict(data, indices)


def class_indices(class_names: Sequence[str], classes: Any) -> list[int] | None:
    """Positions of the chosen classes, or None for all.

    Raises:
        ConfigError: a name that the data does not have.
    """
    if classes in ("base", "new"):
        base, new = base_new(class_names)
        return list(base if classes == "base" else new)
    wanted = listed_classes(classes)
    if wanted is None:
        return None
    for name in wanted:
        if name not in class_names:
            raise ConfigError(f"--classes: the data has no class '{name}'; {did_you_mean(name, class_names)}")
    return [class_names.index(name) for name in wanted]


def listed_classes(classes: Any) -> list[str] | None:
    """The names in `--classes`, each once; None where it names none ("all", "base", "new").

    Raises:
        ConfigError: fewer than two names.
    """
    if classes in (None, "all", "base", "new"):
        return None
    names = list(dict.fromkeys(listed_names(classes)))
    if len(names) < 2:
        given = classes if isinstance(classes, str) else ", ".join(names)
        raise ConfigError(f"--classes {shortened(given)}: give at least two classes, or a file of names")
    return names


def data_facts(data: DomainData, path: str) -> dict[str, Any]:
    """What run.json says of the data of a fit, or a report of those of an evaluation.

    Args:
        path: as it was given.
    """
    facts = {"name": data.name, "path": path, "kind": data.kind, "licence": data.licence}
    return {**facts, "counts": split_counts(data)}


def split_counts(data: DomainData) -> dict[str, dict[str, int]]:
    """Split -> class -> number of samples."""
    counts = {split: dict.fromkeys(data.class_names, 0) for split in Item.SPLITS}
    for item in data.items:
        for label in item.classes():
            counts[item.split][data.class_names[label]] += 1
    return counts


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
    asked = names if recipe.protocol is None and (recipe.shots == 0 or not recipe.gave("shots")) else None
    try:
        data = read_data(recipe, domain, task)
    except NoClassesError as error:
        if asked is None:
            cure = "or name the classes with --classes and give a method that needs no labels"
            if names is not None and recipe.gave("shots") and recipe.protocol is None:
                cure = f"or omit --shots {recipe.shots}: without labels nothing is drawn"
            raise NoClassesError(f"{error}, {cure}") from None
        images = images_of(domain, [recipe.data_path], recipe.reading)
        return _named(replace(images, name=Path(recipe.data_path).resolve().name), asked)
    if asked is None or data.kind != "labels" or _meant(asked, data.class_names, recipe.shots == 0):
        return restrict_classes(data, recipe.classes)
    folders = ", ".join(data.class_names[:5]) + (", ..." if len(data.class_names) > 5 else "")
    note = f"None of --classes is among the labels of the data ({folders}), so these are not used as labels."
    return _named(replace(data, published=None, notes=[*data.notes, note]), asked)


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


def on_target(recipe: Recipe) -> Recipe:
    """The recipe as it reads a target: all its classes, its own prompts, and no shots, as nothing is fitted there."""
    preset = recipe.preset if recipe.preset == Domain.NO_PRESET else AUTO
    return recipe.with_(classes=None, preset=preset, shots=0)
