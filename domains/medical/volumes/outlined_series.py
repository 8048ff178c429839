"""A folder of DICOM series with the objects (SEG, RTSTRUCT) that outline structures on them, anywhere below it.

What the objects of a series outline becomes one file of labels in the cache. Structures may overlap, so that a label
stands for all structures that a voxel lies in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ....core.contracts import Item
from ....core.data import FileHashes, visible
from ....core.errors import DataError, UnknownNameError, did_you_mean
from ....core.features import FeatureStore
from ..dicom_header import read_header
from ..file_kinds import is_dicom
from .series import all_series, ordered
from .structures import KINDS, outlined_by, read_structures

VERSION = 1
"""Of what lies in the cache."""
MOST_LABELS = 255
LABELS, MEANING = "labels.nii", "meaning.json"
Inside = tuple[int, ...]
"""The structures that a voxel lies in, by their numbers from 1 in ascending order."""


@dataclass(frozen=True)
class OutlinedSeries:
    """Args:
    files: of the series, sorted by name.
    objects: that outline structures on it -> the names of these.
    """

    files: tuple[Path, ...]
    objects: Mapping[Path, tuple[str, ...]]

    @property
    def names(self) -> list[str]:
        return [*chain(*self.objects.values())]


@dataclass(frozen=True)
class OutlinedSet:
    """Args:
    names: of the structures, larger ones before those that lie in them.
    values: of each structure the labels that make it up.
    order: the label that each is written as, later ones over earlier ones; () where none overlap.
    labels: first file of a series -> its file of labels, None where nothing outlines a structure on it.
    lacking: structure -> how many outlined series have no such structure.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    labels: Mapping[Path, Path | None]
    lacking: Mapping[str, int]


def outlined_set(folder: Path, chosen: Sequence[str] | None = None, max_pixels: int = Item.MAX_PIXELS) -> OutlinedSet:
    """The series below a folder, and the structures outlined on them.

    Args:
        chosen: the structures to read; by default all.
        max_pixels: of a slice.

    Raises:
        DataError: an object refers to a series that is absent, or as `read_structures`; two outline the same structure
            on a series; or nothing outlines any. UnknownNameError: none outlines a chosen structure.
    """
    found = _outlined_series(folder)
    outlined = [series for series in found if series.objects]
    if not outlined:
        raise DataError(f"{folder}: no SEG or RTSTRUCT object outlines structures on its series; put them beside these")
    names = list(dict.fromkeys(chain(*(series.names for series in outlined))))
    for name in chosen or ():
        if name not in names:
            raise UnknownNameError(
                f"--class-names {name}: no object of {folder} outlines it; {did_you_mean(name, names)}"
            )
    names = list(chosen or names)
    stored = [_stored_labels(series, names, max_pixels) for series in outlined]
    counts: Counter[Inside] = Counter()
    for _, meaning in stored:
        counts.update(dict(meaning.values()))
    numbers = _numbers(folder, names, counts)
    files = [_renumbered(labels, meaning, numbers) for labels, meaning in stored]
    of_series = {series.files[0]: file for series, file in zip(outlined, files, strict=True)}
    lacking = {name: sum(name not in series.names for series in outlined) for name in names}
    by_size = sorted(range(1, 1 + len(names)), key=lambda one: -sum(counts[each] for each in counts if one in each))
    return OutlinedSet(
        tuple(names[one - 1] for one in by_size),
        tuple(tuple(sorted(number for inside, number in numbers.items() if one in inside)) for one in by_size),
        _order(by_size, counts, numbers),
        {series.files[0]: of_series.get(series.files[0]) for series in found},
        {name: count for name, count in lacking.items() if count},
    )


def _outlined_series(folder: Path) -> list[OutlinedSeries]:
    """All series below a folder."""
    folders = [folder, *sorted(below for below in folder.rglob("*") if below.is_dir())]
    files: dict[str, list[Path]] = {}
    for each in folders:
        for uid, of_series in all_series(each).items():
            if uid in files:
                raise DataError(f"{each}: holds a series that {files[uid][0].parent} holds, too; keep one of them")
            files[uid] = of_series
    objects: dict[str, dict[Path, tuple[str, ...]]] = {uid: {} for uid in files}
    for path in chain(*map(_objects_in, folders)):
        referred, names = outlined_by(path)
        there = sorted(uid for uid in referred if uid in files)
        if not there:
            told = ", ".join(sorted(uid[:8] for uid in referred)) or "none"
            raise DataError(
                f"{path}: refers to a series that is absent ({told}); put that below {folder}, or remove it"
            )
        if len(there) > 1:
            raise DataError(f"{path}: refers to {len(there)} series of {folder}; keep the one that it was drawn on")
        for other, known in objects[there[0]].items():
            if twice := next((name for name in names if name in known), None):
                raise DataError(f"{path}: outlines '{twice}', as {other} does on the same series; keep one of them")
        objects[there[0]][path] = names
    return [OutlinedSeries(tuple(files[uid]), objects[uid]) for uid in files]


def _objects_in(folder: Path) -> Iterator[Path]:
    for path in sorted(Path(entry.path) for entry in visible(folder)):
        if path.is_file() and is_dicom(path) and read_header(path).modality in KINDS:
            yield path


def _stored_labels(
    series: OutlinedSeries, names: Sequence[str], max_pixels: int
) -> tuple[Path, dict[int, tuple[Inside, int]]]:
    """The labels of a series in the cache, and of each label the structures that it stands for, and its voxels."""
    objects = {path: [name for name in names if name in known] for path, known in series.objects.items()}
    sources = FileHashes.of_files([*series.files, *objects])
    content = json.dumps([VERSION, sources, list(names), list(objects.values())])

    def fill(empty: Path) -> None:
        import nibabel

        slices, affine = ordered(series.files)
        labels = np.zeros((slices[0].size[1], slices[0].size[0], len(slices)), np.uint8)
        meaning: dict[int, Inside] = {0: ()}
        for path, outlined in objects.items():
            for name in outlined:
                mask = read_structures(path, series.files, [name], max_pixels).masks[0].numpy() > 0
                _lay(path, labels, mask, 1 + names.index(name), meaning, len(names))
        nibabel.save(nibabel.Nifti1Image(labels, affine), empty / LABELS)
        voxels = np.bincount(labels.ravel(), minlength=256).tolist()
        kept = {label: (inside, voxels[label]) for label, inside in meaning.items() if voxels[label]}
        (empty / MEANING).write_text(json.dumps(kept), encoding="utf-8")

    stored = FeatureStore.filled(f"volumes/outlined-{_key(content)}", fill)
    meaning = json.loads((stored / MEANING).read_text(encoding="utf-8"))
    return stored / LABELS, {int(label): (tuple(inside), voxels) for label, (inside, voxels) in meaning.items()}


def _lay(path: Path, labels: np.ndarray, mask: np.ndarray, one: int, meaning: dict[int, Inside], count: int) -> None:
    """Add a structure to labels, in place: where it lies alone it is labelled by its number."""
    known = {inside: label for label, inside in meaning.items()}
    for before in np.unique(labels[mask]).tolist():
        inside = tuple(sorted({*meaning[before], one}))
        label = known.setdefault(inside, one if len(inside) == 1 else max(count, *meaning) + 1)
        if label > MOST_LABELS:
            raise DataError(f"{path}: structures overlap in more than {MOST_LABELS} ways; name fewer by --class-names")
        meaning[label] = inside
        labels[mask & (labels == before)] = label


def _numbers(folder: Path, names: Sequence[str], counts: Counter[Inside]) -> dict[Inside, int]:
    """The label of each set of structures that has a voxel, or of one alone, of the whole set of series."""
    several = sorted(inside for inside in counts if len(inside) > 1)
    if len(names) + len(several) > MOST_LABELS:
        raise DataError(
            f"{folder}: its structures overlap in more than {MOST_LABELS} ways; name fewer by --class-names"
        )
    alone: dict[Inside, int] = {(one,): one for one in range(1, 1 + len(names))}
    return {**alone, **{inside: len(names) + place for place, inside in enumerate(several, start=1)}}


def _renumbered(labels: Path, meaning: Mapping[int, tuple[Inside, int]], numbers: Mapping[Inside, int]) -> Path:
    """The labels of a series by the numbers of the whole set; the file itself where they are these."""
    table = np.zeros(256, np.uint8)
    for label, (inside, _) in meaning.items():
        table[label] = numbers.get(inside, 0)
    if all(table[label] == label for label in meaning):
        return labels

    def fill(empty: Path) -> None:
        import nibabel

        stored = nibabel.load(labels)
        nibabel.save(nibabel.Nifti1Image(table[np.asarray(stored.dataobj)], stored.affine), empty / LABELS)

    return FeatureStore.filled(f"volumes/outlined-{_key(labels.parent.name + str(table.tolist()))}", fill) / LABELS


def _order(by_size: Sequence[int], counts: Counter[Inside], numbers: Mapping[Inside, int]) -> tuple[int, ...]:
    """What each structure is written as, over larger ones: as it lies in these in most of its voxels."""
    if not any(len(inside) > 1 for inside in counts):
        return ()
    order = []
    for place, one in enumerate(by_size):
        larger = {*by_size[: place + 1]}
        ways = [inside for inside in numbers if one in inside and larger.issuperset(inside)]
        order.append(numbers[max(ways, key=lambda inside: counts[inside])])
    return tuple(order)


def _key(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:24]
