"""What every task does with a data set before its own work: read it, keep some classes, check its files, split it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.domain import SPLITS, Domain, DomainData
from ..contracts.errors import ConfigError, DataError, did_you_mean
from ..contracts.recipe import SAMPLE, Recipe
from ..data.identity import FileHashes
from ..data.sampling import base_new, restrict
from ..data.splits import assign_splits
from ..data.verify import drop_unreadable
from ..runtime.progress import Reporter


def read_data(recipe: Recipe, domain: Domain, task: str) -> DomainData:
    """The recipe's data set, or the domain's own sample.

    Raises:
        DataError: there is no such file or folder, or nothing usable in it.
    """
    path = recipe.data_path
    if path == SAMPLE:
        return domain.sample(task)
    if not Path(path).exists():
        raise DataError(f"--data {path}: no such file or folder; give the path of a data set, or 'sample'")
    return domain.read(path, task, **recipe.reading)


def place_of_data(recipe: Recipe) -> str:
    """Where the data lies, whatever folder a later command is called from."""
    path = str(recipe.features or recipe.data_path)
    return path if path == SAMPLE else str(Path(path).absolute())


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


def split_counts(data: DomainData) -> dict[str, dict[str, int]]:
    """Split -> class -> number of samples."""
    counts = {split: dict.fromkeys(data.class_names, 0) for split in SPLITS}
    for item in data.items:
        for label in item.classes():
            counts[item.split][data.class_names[label]] += 1
    return counts
