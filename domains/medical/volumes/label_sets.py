"""Sets of volumes in which structures are outlined, each set one `dataset.json` says what its labels mean:

* Medical Segmentation Decathlon: `training` lists images and labels, several channels are a fourth dimension.
* nnU-Net's raw folders: `imagesTr/CASE_0000.nii.gz` with a file per channel, `labelsTr/CASE.nii.gz`, `labelsTs` if
  there are labels of the test images; `splits_final.json` names folds; labels may be regions that overlap.
* A folder of several such sets, whose structures of one name are the same: each volume is labelled for those of its own
  set alone.
* Folders `images` and `labels` with files of the same names, where there is no `dataset.json`.
* DICOM series and the objects (SEG, RTSTRUCT) that outline structures on them (`outlined_series.py`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Decoded, DomainData, Item
from ....core.data import FileHashes, GroupNames, group_of, locate, remember_by_file, shown, visible
from ....core.errors import ConfigError, DataError, did_you_mean, printable
from ....core.runtime import read_json
from ..formats import VOLUME_SUFFIXES, volume_group
from ..targets import VolumeMask
from .geometry import check_same_grid
from .slabs import Slabs, grid_of

KIND = "volumes"
DATASET, SPLITS = "dataset.json", "splits_final.json"
BACKGROUND, IGNORED = "background", "ignore"
CHANNEL = re.compile(r"_(\d{4})$")
"""End of the name of a file that holds one of several channels."""
MOST_VALUES = 256
"""Of labels, which are written as bytes."""
SHOWN_SLICES = 8
CLEAR = "with the keys labels, and channel_names or modality"


@dataclass(frozen=True)
class LabelSetLayout:
    """What a set says of itself.

    Args:
        folder: of the set.
        structures: name -> the labels that make it up.
        order: as of `VolumeMask`.
        modalities: name of each channel.
        cases: (name, files of its channels, file of labels or None, split or "").
        notes: what else is to be said.
    """

    folder: Path
    structures: Mapping[str, tuple[int, ...]]
    order: tuple[int, ...]
    modalities: tuple[str, ...]
    cases: Sequence[tuple[str, tuple[Path, ...], Path | None, str]]
    notes: Sequence[str] = ()


def read_label_set(path: Path, reading: Any) -> DomainData:
    """The volumes of a set with their structures.

    Args:
        path: a folder.
        reading: options of the reader: class_names, group_column, fold, max_pixels.

    Raises:
        DataError: nothing there that can be read; labels on another grid than their volume, or that the set does not
            name; given splits that share a patient.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give the folder of a set of volumes")
    layouts = list(_layouts(path, reading))
    names = tuple(dict.fromkeys(name for layout in layouts for name in layout.structures))
    _check_alike(layouts, path)
    items: list[Item] = []
    unlabelled = 0
    for layout in layouts:
        for name, files, labels, split in layout.cases:
            if labels is None:
                unlabelled += 1
                continue
            item = _item(layout, path, name, files, labels, names, reading.max_pixels)
            items.append(item.with_(split=split))
    if not items:
        raise DataError(f"{path}: no volume with labels; put labels beside the images ({DATASET}, imagesTr, labelsTr)")
    items = _grouped(items, path, reading.group_column)
    _check_splits(items, path)
    notes = [note for layout in layouts for note in layout.notes]
    if unlabelled:
        notes.append(f"Volumes without labels, left out: {unlabelled}.")
    if len(layouts) > 1:
        notes.append(f"{len(layouts)} sets; each volume is labelled for the structures of its own set alone.")
    return DomainData(items, names, load_volume, KIND, name=path.resolve().name, notes=notes)


def new_volumes(paths: Sequence[str | Path], max_pixels: int = Item.MAX_PIXELS) -> DomainData:
    """Volumes without labels: files, and folders that are searched for files; those of several channels of one volume
    are told by their names, CASE_0000 and CASE_0001. A DICOM file stands for its series, each of which is a volume.

    Raises:
        DataError: a path does not exist, or nothing there is a volume.
    """
    files: list[Path] = []
    for place in map(Path, paths):
        if not place.exists():
            raise DataError(f"{place}: no such file or folder; check the path")
        files += [place] if place.is_file() else [*sorted(filter(_is_volume, place.rglob("*"))), *_series_below(place)]
    cases: dict[Path, list[Path]] = {}
    for file in files:
        cases.setdefault(file.with_name(CHANNEL.sub("", volume_stem(file)) or file.name), []).append(file)
    items, skipped = [], []
    for channels in cases.values():
        name = printable(channels[0].as_posix())
        try:
            Slabs(sorted(channels), max_pixels)
            items.append(_unlabelled(name, tuple(sorted(channels)), max_pixels))
        except DataError as error:
            skipped.append((name, str(error)))
    if not items:
        reason = f" ({skipped[0][1]})" if skipped else ""
        raise DataError(
            f"{', '.join(map(str, paths))}: no readable volume{reason}; known kinds: {' '.join(VOLUME_SUFFIXES)}"
        )
    return DomainData(items, (), load_volume, KIND, name="volumes", skipped=skipped)


def files_of(item: Item) -> list[Path]:
    """The files of an item's channels."""
    return [item.source, *map(Path, item.decode.get("further", ()))]


def load_volume(item: Item) -> Decoded:
    """Some axial slices of the first channel, (T, H, W, 3), to look at.

    Raises:
        DataError: a channel cannot be read.
    """
    from .slices import load_parts

    limit = {"max_pixels": item.decode["max_pixels"]} if "max_pixels" in item.decode else {}
    return load_parts(item.source, {"axis": "axial", "slices": SHOWN_SLICES, "volume": 0, **limit})


def volume_stem(file: Path) -> str:
    """The name of a volume's file without its ending."""
    lower = file.name.lower()
    return next(
        (file.name[: -len(each)] for each in sorted(VOLUME_SUFFIXES, key=len)[::-1] if lower.endswith(each)), ""
    )


# layouts --------------------------------------------------------------------------------------------------------------


def _layouts(path: Path, reading: Any) -> Iterator[LabelSetLayout]:
    if path.is_dir() and (path / DATASET).is_file():
        yield _described(path, reading)
        return
    below = [Path(each.path) for each in visible(path) if each.is_dir()] if path.is_dir() else []
    described = [folder for folder in sorted(below) if (folder / DATASET).is_file()]
    if described:
        for folder in described:
            yield _described(folder, reading)
    elif path.is_dir() and (path / "images").is_dir() and (path / "labels").is_dir():
        yield _beside(path, reading)
    elif path.is_dir() and _series_below(path):
        yield _outlined(path, reading)
    else:
        raise DataError(
            f"{path}: no set of labelled volumes; give a folder with {DATASET} (Medical Segmentation Decathlon, "
            "nnU-Net), with the folders 'images' and 'labels', or of DICOM series with SEG or RTSTRUCT objects"
        )


def _described(folder: Path, reading: Any) -> LabelSetLayout:
    """A set with a `dataset.json`."""
    place = folder / DATASET
    content = read_json(place, f"write it anew, {CLEAR}")
    labels = content.get("labels") if isinstance(content, dict) else None
    channels = (content.get("channel_names") or content.get("modality")) if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not isinstance(channels, dict) or not labels or not channels:
        raise DataError(f"{place}: does not say what labels and channels mean; write it {CLEAR}")
    structures, order = _structures(place, labels, content.get("regions_class_order"))
    numbers = sorted(channels, key=_number)
    modalities = tuple(str(channels[number]) for number in numbers)
    listed = content.get("training")
    if isinstance(listed, list) and all(isinstance(each, dict) for each in listed):
        cases = [_listed(folder, place, each) for each in listed]
    else:
        ending = str(content.get("file_ending") or ".nii.gz")
        cases = [
            *_in_folders(folder, "Tr", ending, len(modalities)),
            *_in_folders(folder, "Ts", ending, len(modalities)),
        ]
    cases = _with_folds(folder, cases, reading.fold)
    return LabelSetLayout(folder, structures, order, modalities, cases)


def _structures(
    place: Path, labels: Mapping[str, Any], order: Any
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Names with their labels, of nnU-Net's second version {name: label or labels} or the first {label: name}."""
    if all(re.fullmatch(r"\d+", str(key)) for key in labels):
        labels = {str(name): int(number) for number, name in labels.items()}
    structures: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        numbers = tuple(value) if isinstance(value, list) else (value,)
        if not all(type(number) is int and 0 <= number < MOST_VALUES for number in numbers):
            raise DataError(
                f"{place}: label {value!r} of '{name}' is no number from 0 to {MOST_VALUES - 1}; correct it"
            )
        if name.lower() == IGNORED:
            raise DataError(f"{place}: voxels to ignore are not supported; give them a label of their own, or 0")
        if numbers != (0,) and name.lower() != BACKGROUND:
            structures[name] = numbers
    if not structures:
        raise DataError(f"{place}: names no structure but the background; name one in labels")
    overlapping = len({number for numbers in structures.values() for number in numbers}) < sum(
        map(len, structures.values())
    )
    if not overlapping and order is None:
        return structures, ()
    if not isinstance(order, list) or len(order) != len(structures) or not all(type(each) is int for each in order):
        raise DataError(
            f"{place}: regions that overlap need regions_class_order, a label for each of the {len(structures)}; add it"
        )
    return structures, tuple(order)


def _listed(folder: Path, place: Path, entry: Mapping[str, Any]) -> tuple[str, tuple[Path, ...], Path | None, str]:
    """A volume that the Decathlon's `training` names."""
    files = [locate(str(entry.get(key, "")), [folder], place.name) for key in ("image", "label")]
    for key, file in zip(("image", "label"), files):
        if file is None:
            raise DataError(f"{place}: training names the {key} '{entry.get(key, '')}', which is not there; copy it")
    return volume_stem(files[0]), (files[0],), files[1], ""


def _in_folders(
    folder: Path, ending: str, suffix: str, channels: int
) -> Iterator[tuple[str, tuple[Path, ...], Path | None, str]]:
    """The volumes of nnU-Net's imagesTr or imagesTs."""
    images, labels = folder / f"images{ending}", folder / f"labels{ending}"
    if not images.is_dir():
        return
    cases: dict[str, list[Path]] = {}
    for file in sorted(Path(each.path) for each in visible(images)):
        if file.name.endswith(suffix):
            name = file.name[: -len(suffix)]
            cases.setdefault(CHANNEL.sub("", name), []).append(file)
    for name, files in cases.items():
        if len(files) not in (1, channels):
            raise DataError(
                f"{files[0]}: {name} has {len(files)} of the {channels} channels that {DATASET} names; copy the others"
            )
        mask = labels / f"{name}{suffix}"
        if ending == "Tr" and not mask.is_file():
            raise DataError(f"{mask}: not there, though {files[0].name} is a training image; copy it")
        yield name, tuple(files), mask if mask.is_file() else None, "test" if ending == "Ts" else ""


def _beside(path: Path, reading: Any) -> LabelSetLayout:
    """Images and labels of the same names."""
    masks = {volume_stem(file): file for each in visible(path / "labels") if _is_volume(file := Path(each.path))}
    files = [file for each in visible(path / "images") if _is_volume(file := Path(each.path))]
    cases: dict[str, list[Path]] = {}
    for file in sorted(files):
        name = volume_stem(file)
        cases.setdefault(name if name in masks else CHANNEL.sub("", name), []).append(file)
    listed = [(name, tuple(of), masks.get(name), "") for name, of in cases.items()]
    values = sorted({value for file in masks.values() for value in label_counts(file)} - {0})
    names = reading.class_names or tuple(f"label {value}" for value in values)
    if len(names) < len(values):
        raise ConfigError(f"--set data.class_names={','.join(names)}: labels are {_words(values)}; name each of them")
    numbers = range(1, 1 + len(names)) if reading.class_names else values
    structures = {name: (number,) for name, number in zip(names, numbers)}
    channels = max((len(of) for of in cases.values()), default=1)
    return LabelSetLayout(path, structures, (), ("",) * channels, _with_folds(path, listed, reading.fold))


def _outlined(path: Path, reading: Any) -> LabelSetLayout:
    """DICOM series, each labelled by the objects that refer to it."""
    from ..dicom_header import read_header
    from .outlined_series import outlined_set

    known = outlined_set(path, reading.class_names, reading.max_pixels)
    alone = Counter(file.parent for file in known.labels)
    named = {file: file.parent if alone[file.parent] == 1 and file.parent != path else file for file in known.labels}
    cases = [(shown(named[file], path), (file,), labels, "") for file, labels in known.labels.items()]
    modalities = sorted({read_header(file).modality for file, labels in known.labels.items() if labels is not None})
    if len(modalities) > 1:
        raise DataError(f"{path}: structures are outlined on series of {_words(modalities)}; give those of one kind")
    lacking = ", ".join(f"{name} (on {count})" for name, count in known.lacking.items())
    notes = [f"Structures that some series are not outlined for, which count as absent there: {lacking}."]
    structures = dict(zip(known.names, known.values, strict=True))
    cases = _with_folds(path, cases, reading.fold)
    return LabelSetLayout(path, structures, known.order, tuple(modalities), cases, notes if lacking else [])


def _with_folds(folder: Path, cases: Sequence[Any], fold: int) -> list[Any]:
    """Splits by nnU-Net's file of folds: what a fold holds out is for testing, unless there is a test set."""
    cases = list(cases)
    prepared = folder.parent.parent / "nnUNet_preprocessed" / folder.name / SPLITS
    place = next((file for file in (folder / SPLITS, prepared) if file.is_file()), None)
    if place is None:
        if fold:
            raise ConfigError(f"--fold {fold}: {folder} has no {SPLITS}; omit it")
        return cases
    folds = read_json(place, "write it anew")
    if not isinstance(folds, list) or not all(isinstance(each, dict) for each in folds) or not folds:
        raise DataError(f"{place}: not a list of folds with train and val; write it anew")
    if fold >= len(folds):
        raise ConfigError(f"--fold {fold}: {place} has {len(folds)} folds, 0 to {len(folds) - 1}; give one of them")
    train, val = (list(map(str, folds[fold].get(key) or ())) for key in ("train", "val"))
    known = {name for name, *_ in cases}
    for name in (*train, *val):
        if name not in known:
            raise DataError(f"{place}: names '{name}', which is no case; {did_you_mean(name, known)}")
    if both := sorted(set(train) & set(val)):
        raise DataError(f"{place}: fold {fold} has {both[0]} in train and in val; leave each case in one of them")
    held_out = "val" if any(split == "test" and mask is not None for *_, mask, split in cases) else "test"
    splits = {**dict.fromkeys(train, "train"), **dict.fromkeys(val, held_out)}
    return [(name, files, mask, split or splits.get(name, "")) for name, files, mask, split in cases]


# items ----------------------------------------------------------------------------------------------------------------


def _item(
    layout: LabelSetLayout,
    root: Path,
    name: str,
    files: tuple[Path, ...],
    mask: Path,
    names: Sequence[str],
    max_pixels: int,
) -> Item:
    grid = grid_of(files[0], max_pixels)
    check_same_grid(grid, grid_of(mask, max_pixels))
    slabs = Slabs(files, max_pixels)
    if slabs.shape[0] != len(layout.modalities):
        channels = f"{slabs.shape[0]} channel{'s' * (slabs.shape[0] != 1)}"
        raise DataError(f"{files[0]}: has {channels}, but the set names {len(layout.modalities)}; correct {DATASET}")
    counts = label_counts(mask)
    known = {0, *(value for values in layout.structures.values() for value in values)}
    if unknown := sorted(set(counts) - known):
        raise DataError(
            f"{mask}: has the label {unknown[0]} (voxels: {counts[unknown[0]]}), and the set names only "
            f"{_words(sorted(known))}; correct the labels, or name it"
        )
    values = tuple(layout.structures.get(each, ()) for each in names)
    labels = tuple(float(any(v in counts for v in of)) if of else math.nan for of in values)
    target = VolumeMask(mask, labels, values, layout.order, layout.modalities)
    place = shown(layout.folder / name, root) if layout.folder != root else name
    item = _unlabelled(printable(place), files, max_pixels)
    return item.with_(target=target, group=_group(files[0], root))


def _group(file: Path, root: Path) -> str | None:
    """The patient, where the header or the path says whose volume it is, else the volume."""
    from ..dicom_header import read_header

    if file.name.lower().endswith(VOLUME_SUFFIXES):
        return volume_group(file, shown(file, root))
    return read_header(file).patient or volume_group(file, shown(file, root))


def _unlabelled(name: str, files: tuple[Path, ...], max_pixels: int) -> Item:
    from .slices import volume_files

    further = {"further": [str(file) for file in files[1:]]} if len(files) > 1 else {}
    limit = {"max_pixels": max_pixels} if max_pixels != Item.MAX_PIXELS else {}
    read = [each for file in files for each in volume_files(file)]
    digest = {"digest": FileHashes.of_files(read)} if len(read) > 1 else {}
    return Item(id=name, source=files[0], decode={**further, **limit, **digest})


@remember_by_file(size=4096)
def label_counts(mask: Path) -> dict[int, int]:
    """How many voxels have each label.

    Raises:
        DataError: it cannot be read, or holds values between whole numbers.
    """
    counts: dict[int, int] = {}
    for _, slab in Slabs([mask]):
        values, voxels = np.unique(slab, return_counts=True)
        if (values != values.round()).any():
            raise DataError(f"{mask}: holds values between whole numbers, so it is no file of labels; give one")
        for value, count in zip(values.astype(int).tolist(), voxels.tolist()):
            counts[value] = counts.get(value, 0) + count
    return counts


def _grouped(items: Sequence[Item], root: Path, named: str) -> list[Item]:
    """With the groups that `--group-column` says."""
    if named == "none":
        return [item.with_(group=None) for item in items]
    if named == "auto":
        return list(items)
    if not GroupNames.are_named_by(named):
        raise ConfigError(f"--group-column {named}: a set of volumes has no table; give folder or stem:REGEX")
    names = [shown(item.source, root) for item in items]
    values = GroupNames(named).values(names, [item.classes() for item in items])
    return [item.with_(group=group_of(value) or item.group) for item, value in zip(items, values, strict=True)]


def _check_splits(items: Sequence[Item], path: Path) -> None:
    """Refuse given splits of which two have volumes of one patient."""
    sides: dict[str, Item] = {}
    for item in items:
        if item.group is None or not item.split:
            continue
        other = sides.setdefault(item.group, item)
        if other.split != item.split:
            raise DataError(
                f"{path}: {other.id} in {other.split} and {item.id} in {item.split} are of one patient; put both into "
                "one split"
            )


def _check_alike(layouts: Sequence[LabelSetLayout], path: Path) -> None:
    """Refuse sets in one folder that do not go together."""
    channels = sorted({len(layout.modalities) for layout in layouts})
    if len(channels) > 1:
        raise DataError(f"{path}: its sets have volumes of {_words(channels)} channels; give those of one kind")
    if len(layouts) > 1 and (regions := next((layout for layout in layouts if layout.order), None)):
        raise DataError(f"{regions.folder / DATASET}: regions that overlap do not go with other sets; give it alone")


def _is_volume(file: Path) -> bool:
    return file.name.lower().endswith(VOLUME_SUFFIXES) and not file.name.startswith(".") and file.is_file()


def _series_below(folder: Path) -> list[Path]:
    """The first file of each DICOM series in a folder, or below it."""
    from .series import all_series

    folders = [folder, *sorted(below for below in folder.rglob("*") if below.is_dir())]
    return [files[0] for each in folders for files in all_series(each).values()]


def _number(key: str) -> int:
    return int(key) if str(key).isdigit() else 0


def _words(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
