"""A trained network of volumes: labels of volumes, scores on a test split, and the choice of largest components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmengine import Config
from torch import nn

from ....core.contracts import DomainData, Evaluation, Item
from ....core.errors import CapabilityError, ConfigError, DataError
from ....core.runs import ListSection, PictureSection, TableSection
from ....core.runtime import read_text
from ..volumes import Slabs, files_of
from .labels import MAPS, REGIONS, ScoreRule, largest_component
from .pictures import middle_slice, outlined_slices
from .preprocessing import Preprocessing
from .scores import (
    MISSED,
    CaseScores,
    case_intervals,
    case_scores,
    mean_scores,
)
from .windows import write_labels

SHOWN = 6
LISTED = 20
Progress = Callable[[int, int], None]
DEFINITION = (
    "Means over volumes. HD95 is MONAI's: the larger of the two directed 95 % quantiles of distances between surface "
    "voxels, in millimetres; surface Dice counts surface voxels within {tolerance:g} mm. A structure that is missed, "
    "or found where it is not, has Dice 0, surface Dice 0 and the diagonal of its volume as HD95."
)


class Labeller:
    """A trained model that labels volumes.

    Args:
        model: with `cfg`, whose group `vladapt` says how volumes are prepared.
    """

    def __init__(self, model: nn.Module):
        kept = model.cfg.vladapt
        self.model, self.device = model, next(model.parameters()).device
        self.how = Preprocessing.from_json(kept["preprocessing"])
        self.patch_size = tuple(kept["patch_size"])
        self.decision = ScoreRule.from_json(kept["decision"])
        self.class_names, self.tolerance = tuple(kept["classes"]), float(kept["tolerance"])
        values = [tuple(of) for of in kept["values"]]
        self.values = values if self.decision.kind == REGIONS else [(label,) for label in self.decision.written]

    def labels(self, volume: Slabs, file: Path) -> np.ndarray:
        """(Z, Y, X) uint8, in a file or in memory.

        Raises:
            DataError: the volume cannot be read, or has other channels than those of the training.
        """
        if volume.shape[0] != len(self.how.channels):
            raise DataError(
                f"{volume.files[0]}: has {volume.shape[0]} channels, and the network was trained on "
                f"{len(self.how.channels)}; give those"
            )
        found = write_labels(volume, self.how, self.patch_size, self.model, self.decision, file, self.device)
        return self.decision.cleaned(found, self.values)

    def values_in(self, class_names: Sequence[str]) -> list[tuple[int, ...]]:
        """The labels of the structures of some data.

        Raises:
            ConfigError: the network knows others.
        """
        if missing := [name for name in class_names if name not in self.class_names]:
            raise ConfigError(
                f"the data have the structure {missing[0]}, and the network knows {', '.join(self.class_names)}; give "
                f"data of these"
            )
        return [self.values[self.class_names.index(name)] for name in class_names]


def evaluate_volumes(model: nn.Module, data: DomainData, progress: Progress) -> Evaluation:
    """Scores of the test split, per structure and with intervals over patients."""
    labeller, items = Labeller(model), data.split("test")
    values = labeller.values_in(data.class_names)
    shown = set(range(0, len(items), max(1, len(items) // SHOWN))[:SHOWN])
    cases, pictures = [], []
    with TemporaryDirectory(prefix="vladapt-") as folder:
        for place, item in enumerate(items):
            volume = Slabs(files_of(item))
            found = labeller.labels(volume, Path(folder) / "labels.raw")
            truth = _truth_of(item)
            cases.append(case_scores(truth, found, item.target.values, values, volume.spacing, labeller.tolerance))
            if place in shown:
                at = middle_slice(truth)
                pictures.append((outlined_slices(volume, at, [truth[at], found[at]]), item.id))
            progress(place + 1, len(items))
    intervals, patients = case_intervals(cases, data.class_names, [item.group or item.id for item in items])
    sections = [
        _per_structure(cases, data.class_names, labeller.tolerance),
        *_wrong(cases, items, data.class_names),
        PictureSection("What it finds", pictures, "Left as labelled, right as found.", side=640, columns=2),
    ]
    metrics = mean_scores(cases, data.class_names)
    missed = sum(len(case.wrong) for case in cases)
    notes = [f"Structures missed, or found where they are not: {missed}; they count as 0."] if missed else []
    return Evaluation(metrics, sections, notes, intervals, patients)


def _truth_of(item: Item) -> np.ndarray:
    """The labels of a volume, (Z, Y, X) uint8."""
    mask = Slabs([item.target.file])
    labels = np.empty(mask.shape[1:], np.uint8)
    for start, slab in mask:
        labels[start : start + slab.shape[1]] = slab[0]
    return labels


def predict_volumes(
    model: nn.Module, data: DomainData, folder: Path, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """A row per volume with the millilitres of each structure, and the files of the labels, (Z, Y, X) bytes, by id."""
    labeller, rows, files = Labeller(model), [], {}
    for place, item in enumerate(data.items):
        volume, file = Slabs(files_of(item)), folder / f"{place}.raw"
        labels = labeller.labels(volume, file)
        if not isinstance(labels, np.memmap):
            labels.tofile(file)
        voxel = float(np.prod(volume.spacing)) / 1000
        counts = sum(np.bincount(plane.ravel(), minlength=256) for plane in labels)
        sizes = {
            name: round(int(counts[list(of)].sum()) * voxel, 4)
            for name, of in zip(labeller.class_names, labeller.values)
        }
        told = ", ".join(f"{name} {size:.3g} ml" for name, size in sizes.items() if size) or "no structure"
        rows.append({"id": item.id, "summary": told, "millilitres": sizes})
        files[item.id] = file
        progress(place + 1, len(data.items))
    return rows, files


def asked_for(model: nn.Module, names: Sequence[str]) -> None:
    """Give a network that is steered by texts those of some structures.

    Raises:
        CapabilityError: it is not.
    """
    if not model.steered:
        raise CapabilityError(
            "--classes: this network has fixed structures; omit --classes, or fit --network clip-driven"
        )
    model.ask_for(names)


def renamed(model: nn.Module, classes: Any) -> tuple[str, ...]:
    """Ask a trained network for other structures, which are labelled 1, 2, ...; returns their names."""
    names = tuple(dict.fromkeys(name.strip() for name in _listed_names(classes) if name.strip()))
    if not 0 < len(names) < 256:
        raise ConfigError("--classes: give 1 to 255 names of structures: liver, spleen")
    asked_for(model, names)
    kept, numbers = model.cfg.vladapt, list(range(1, 1 + len(names)))
    kept["classes"], kept["values"] = list(names), [[number] for number in numbers]
    kept["decision"] = ScoreRule(MAPS, tuple(numbers)).to_json()
    return names


def _listed_names(classes: Any) -> Sequence[str]:
    if isinstance(classes, str):
        file = Path(classes)
        return read_text(file).splitlines() if classes.endswith(".txt") and file.is_file() else classes.split(",")
    return list(classes)


def gains_of(model: nn.Module, items: Sequence[Item], class_names: Sequence[str]) -> list[list[float]]:
    """What each structure's Dice gains, volume by volume, if only the largest component of what is found is kept; NaN
    where the structure is not to be found."""
    return [_gains(model, item, class_names) for item in items]


def structures_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The structures that a model labels -> their labels; regions that contain each other share some."""
    labeller = Labeller(model)
    return dict(zip(labeller.class_names, labeller.values))


def keep_largest(model: nn.Module, plan: Config, gains: Sequence[Sequence[float]], how: str) -> None:
    """Say in the plan, and in its model, which structures keep their largest component alone: all, none, or, as nnU-Net
    decides, those whose mean Dice on volumes that were held out is then higher."""
    kept = plan.vladapt["decision"]
    names = plan.vladapt["classes"]
    if how == "auto":
        table = np.array(gains).reshape(-1, len(names))
        means = np.array([of[np.isfinite(of)].mean() if np.isfinite(of).any() else 0.0 for of in table.T])
        chosen = [int(place) for place in np.flatnonzero(means > 0)]
    else:
        chosen = list(range(len(names))) if how == "yes" else []
    kept["largest"] = chosen
    model.cfg.vladapt["decision"]["largest"] = chosen


def _gains(model: nn.Module, item: Item, class_names: Sequence[str]) -> list[float]:
    labeller, volume = Labeller(model), Slabs(files_of(item))
    values = labeller.values_in(class_names)
    with TemporaryDirectory(prefix="vladapt-") as folder:
        found, truth = labeller.labels(volume, Path(folder) / "labels.raw"), _truth_of(item)
        gains = []
        for of_truth, of_found in zip(item.target.values, values):
            one, other = np.isin(truth, list(of_truth)), np.isin(found, list(of_found))
            gains.append(_dice(one, largest_component(other)) - _dice(one, other) if of_truth and one.any() else np.nan)
    return gains


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * int((one & other).sum()) / max(1, int(one.sum()) + int(other.sum()))


def _per_structure(cases: Sequence[CaseScores], class_names: Sequence[str], tolerance: float) -> TableSection:
    table = np.stack([case.values for case in cases])  # (N, K, 3)
    rows = []
    for place, name in enumerate(class_names):
        known = table[np.isfinite(table[:, place, 0]), place]
        means = [float(value) for value in known.mean(axis=0)] if len(known) else [None] * 3
        rows.append([name, *means, len(known), sum(case.wrong.get(place) == MISSED for case in cases)])
    shown = [[row[0], row[1], None if row[2] is None else f"{row[2]:.2f}", *row[3:]] for row in rows]
    header = ["Structure", "Dice ↑", "HD95, mm ↓", "Surface Dice ↑", "Volumes", "Missed"]
    return TableSection("Structure by structure", header, shown, DEFINITION.format(tolerance=tolerance))


def _wrong(cases: Sequence[CaseScores], items: Sequence[Item], class_names: Sequence[str]) -> list[Any]:
    """What was missed or invented, volume by volume."""
    told = [
        f"{item.id}: {class_names[place]} {how}"
        for case, item in zip(cases, items)
        for place, how in case.wrong.items()
    ]
    if not told:
        return []
    more = [f"and {len(told) - LISTED} more"] if len(told) > LISTED else []
    return [ListSection("Missed structures", [*told[:LISTED], *more], warning=False)]
