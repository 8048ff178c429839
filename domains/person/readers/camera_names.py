"""Folders whose file names say person and camera: Market-1501, DukeMTMC-reID, and class folders with such names.

"Scalable Person Re-identification: A Benchmark" (Zheng et al., ICCV 2015): `0002_c1s1_000451_03.jpg` is person 2 in
camera 1, sequence 1, frame 451. Identity -1 is junk, which counts nowhere; identity 0 is background, which stays in the
gallery as pictures of nobody. DukeMTMC-reID, which its authors withdrew, names files alike (`0005_c2_f0046985.jpg`) and
has neither.
"""

from __future__ import annotations

import re
from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import shown, walk
from ..pedestrian import GALLERY, IDENTITIES, QUERY, Pedestrian
from ..reading import PeopleCollector, Reading, SetFormat, folder_with

NAME = re.compile(r"(?P<identity>-1|\d{1,9})_c(?P<camera>\d{1,4})(?:s\d+)?_f?(?P<frame>\d+)", re.IGNORECASE)
CAMERA = re.compile(r"(?:^|[_\-/ ])c(?:am(?:era)?)?[_\- ]?(\d{1,4}|[a-z])(?=s\d|[_\-. /]|$)", re.IGNORECASE)
JUNK, BACKGROUND = -1, 0
FOLDERS = {
    "bounding_box_train": ("train", ""),
    "query": ("test", QUERY),
    "bounding_box_test": ("test", GALLERY),
}
"""Folder -> the split and the role of its pictures."""


def camera_in(name: str) -> str:
    """The camera that a path names (`0001_c2_f00066`, `cam_a/12.png`), "" where it names none."""
    found = CAMERA.findall(name)
    return "" if not found else str(int(found[-1])) if found[-1].isdigit() else found[-1].lower()


def find(path: Path) -> Path | None:
    """The folder with `bounding_box_train`, `query` and `bounding_box_test`: `path`, or one folder in it."""
    return folder_with(path, lambda folder: all((folder / name).is_dir() for name in FOLDERS))


def read(path: Path, reading: Reading, task: str) -> DomainData:
    """The pictures of the three folders; others (`gt_bbox`, `gt_query`) are not needed."""
    people = PeopleCollector(source=path)
    for folder, (split, role) in FOLDERS.items():
        for file in walk(path / folder, path, people):
            _add(people, file, path, reading, split, role)
    return people.data(path.resolve().name, IDENTITIES, reading.formats)


def _add(people: PeopleCollector, file: Path, root: Path, reading: Reading, split: str, role: str) -> None:
    """One picture by what its name says; a file whose name says nothing is passed over if it is no image."""
    match = NAME.match(file.stem)
    if match is None:
        if any(fmt.matches(file) for fmt in reading.formats):
            people.skip(shown(file, root), "its name is not PERSON_cCAMERA..., as 0002_c1s1_000451_03.jpg is")
        return
    number = int(match["identity"])
    if number == JUNK:
        people.junk += 1
        return
    identity = None if number == BACKGROUND and role == GALLERY else str(number)
    target = Pedestrian(identity, camera=str(int(match["camera"])), time=str(int(match["frame"])), role=role)
    people.add_person(file, shown(file, root), reading.formats, target, split=split)


CAMERA_NAMES = SetFormat(
    "a folder with bounding_box_train, query and bounding_box_test (Market-1501)", ("re-identification",), find, read
)
