"""A folder per camera: PRID 2011, iLIDS-VID, VIPeR, and others laid out alike.

* "Person Re-Identification by Descriptive and Discriminative Classification" (Hirzer et al., SCIA 2011), PRID 2011:
  `cam_a/person_0001.png`, or `cam_a/person_0001/0001.png`. Only persons 1 to 200 are the same in both cameras.
* "Person Re-identification by Video Ranking" (Wang et al., ECCV 2014), iLIDS-VID:
  `cam1/person001/cam1_person001_00317.png`.
* "Evaluating Appearance Models for Recognition, Reacquisition, and Tracking" (Gray et al., PETS 2007), VIPeR:
  `cam_a/000_45.bmp`, person 0 seen from 45 degrees.
"""

from __future__ import annotations

import re
from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import Format, folders, shown, walk
from ..pedestrian import IDENTITIES, Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat

CAMERA = re.compile(r"cam(?:era)?[_-]?([a-z]|\d{1,4})", re.IGNORECASE)
PERSON = re.compile(r"(?:cam\w+_)?(?:person_?)?0*(\d+)(?!\d)", re.IGNORECASE)
PRID, IN_BOTH = re.compile(r"person_\d{4}$"), 200


def find(path: Path) -> Path | None:
    """`path`, if folders of two or more cameras are in it, and no others."""
    inner = folders(path) if path.is_dir() else []
    return path if len(inner) > 1 and all(CAMERA.fullmatch(each.name) for each in inner) else None


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures of all cameras; the person is told by a folder inside, else by the file's name."""
    people = PeopleCollector(source=path)
    for folder in folders(path):
        camera = CAMERA.sub(r"\1", folder.name).lower()
        for file in walk(folder, path, people):
            if Format.of(file, reading.formats) is None:
                continue
            name = file.relative_to(folder).parts[0] if file.parent != folder else file.stem
            if (match := PERSON.match(name)) is None:
                people.skip(shown(file, path), "its name does not begin with a person's number, as 000_45.bmp does")
                continue
            alone = PRID.match(name) and int(match[1]) > IN_BOTH
            target = Pedestrian(f"{match[1]} of {camera}" if alone else match[1], camera)
            people.add_person(file, shown(file, path), reading.formats, target)
    return people.data(path.resolve().name, IDENTITIES, reading.formats)


CAMERA_FOLDERS = SetFormat(
    "a folder per camera (cam_a, cam_b), as PRID 2011, iLIDS-VID and VIPeR have them",
    ("re-identification",),
    find,
    read,
)
