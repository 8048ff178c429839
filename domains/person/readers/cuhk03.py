"""CUHK03 by its new protocol: 767 people train and 700 test, who are in two cameras each.

Pictures are of "DeepReID: Deep Filter Pairing Neural Network for Person Re-Identification" (Li et al., CVPR 2014), the
protocol is that of "Re-ranking Person Re-identification with k-reciprocal Encoding" (Zhong et al. 2017, arXiv
1701.08398): `cuhk03_new_protocol_config_labeled.mat`, or `..._detected.mat`, with the file names of the pictures, whose
third part is the camera (`1_001_1_01.png`).
"""

from __future__ import annotations

from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import read_matlab
from ....core.errors import DataError
from ..pedestrian import GALLERY, IDENTITIES, QUERY, Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat, folder_with

KINDS = ("labeled", "detected")
"""Boxes that people drew, and those of a detector."""
FILE = "cuhk03_new_protocol_config_{}.mat"
PARTS = {"train_idx": ("train", ""), "query_idx": ("test", QUERY), "gallery_idx": ("test", GALLERY)}
NEEDED = (*PARTS, "labels", "filelist")


def find(path: Path) -> Path | None:
    """The folder with the protocol's file, or that file."""
    if path.is_file():
        return path if path.name in map(FILE.format, KINDS) else None
    return folder_with(path, lambda folder: any((folder / FILE.format(kind)).is_file() for kind in KINDS))


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures that the protocol's file lists: of the boxes that `--detected` says, or of the file that was given.

    Raises:
        DataError: no file of the protocol of these boxes, or a damaged one.
    """
    folder, file = (path.parent, path) if path.is_file() else (path, path / FILE.format(KINDS[reading.detected]))
    if not file.is_file():
        other = "omit" if reading.detected else "give"
        raise DataError(f"{file}: no such file; {other} --detected, or put the protocol's file there")
    content = read_matlab(file, *NEEDED)
    kind = next(kind for kind in KINDS if kind in file.name)
    roots = [each for each in (folder / f"images_{kind}", folder / kind, folder) if each.is_dir()]
    people = PeopleCollector(source=folder)
    names, labels = content["filelist"], content["labels"]
    for part, (split, role) in PARTS.items():
        for index in (int(number) - 1 for number in content[part]):  # MATLAB counts from 1
            if not 0 <= index < min(len(names), len(labels)):
                raise DataError(f"{file}: {part} names picture {index + 1} of {len(names)}; copy the file again")
            _add(people, str(names[index]), int(labels[index]), file, folder, roots, reading, split, role)
    return people.data(f"{folder.resolve().name}-{kind}", IDENTITIES, reading.formats)


def _add(people, name: str, label: int, file: Path, folder: Path, roots: list[Path], reading, split: str, role: str):
    parts = Path(name).stem.split("_")
    if len(parts) < 4 or not parts[2].isdigit():
        raise DataError(f"{file}: a picture is called '{name}', which names no camera, as 1_001_1_01.png does")
    target = Pedestrian(str(label), camera=parts[2], role=role)
    people.add_listed(name, roots, str(file), folder, reading.formats, target, split)


CUHK03 = SetFormat(
    "CUHK03's folder with its new protocol's .mat", ("re-identification",), find, read, takes=("detected",)
)
