"""File names that say person and camera; the folders of Market-1501, DukeMTMC-reID and MARS.

"Scalable Person Re-identification: A Benchmark" (Zheng et al., ICCV 2015): `0002_c1s1_000451_03.jpg` is person 2 in
camera 1, sequence 1, frame 451. Identity -1 is junk, which counts nowhere; identity 0 is background, which stays in the
gallery as pictures of nobody. DukeMTMC-reID, which its authors withdrew, names files alike (`0005_c2_f0046985.jpg`) and
has neither. "MARS: A Video Benchmark for Large-Scale Person Re-Identification" (Zheng et al., ECCV 2016):
`0001C1T0001F001.jpg` is person 1 in camera 1, tracklet 1, frame 1; `00-1` is junk, `0000` background.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import shown, walk
from ..pedestrian import GALLERY, IDENTITIES, QUERY, Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat, folder_with

JUNK, BACKGROUND = -1, 0
CAMERA = re.compile(
    r"(?:^|[_\-/ ])c(?:am(?:era)?[_\- ]?(\d{1,4}|[a-z])|[_\-]?(\d{1,4}))(?=s\d|[_\-. /]|$)", re.IGNORECASE
)
"""What may name a camera in a name of any kind."""
LAYOUTS = (
    {
        "bounding_box_train": ("train", ""),
        "query": ("test", QUERY),
        "bounding_box_test": ("test", GALLERY),
    },
    {"bbox_train": ("train", ""), "bbox_test": ("test", "")},
)
"""Of Market-1501 and of MARS: folder -> the split and the role of its pictures."""
FEW_CAMERAS = (
    "No camera is taken from the file names: two cameras that show several people each are needed to tell them from "
    "other words; a table may have a column camera."
)


@dataclass(frozen=True)
class Scheme:
    """How a published set names its files.

    Args:
        pattern: with "identity" and "camera" and, where the names say so, "frame" and "tracklet".
        junk: whether identity -1 is of no use, and 0 nobody.
    """

    pattern: re.Pattern[str]
    junk: bool = False


def _scheme(pattern: str, junk: bool = False) -> Scheme:
    return Scheme(re.compile(rf"(?:^|/){pattern}", re.IGNORECASE), junk)


MARKET = _scheme(r"(?P<identity>-1|\d{1,9})_c(?P<camera>\d{1,4})(?:s\d+)?_f?(?P<frame>\d+)", junk=True)
MARS = _scheme(r"(?P<identity>00-1|\d{4})C(?P<camera>\d+)T(?P<tracklet>\d+)F(?P<frame>\d+)$", junk=True)
SCHEMES = (
    MARKET,
    MARS,
    _scheme(r"(?P<identity>\d{4})_\d{3}_(?P<camera>\d{2})_\d{4}(?:morning|noon|afternoon)_(?P<frame>\d{4})_\d$"),
    _scheme(r"(?P<identity>\d+_\d{3})_(?P<camera>[12])_\d{2}$"),
    _scheme(r"(?P<identity>\d{3})_\d+_c(?P<camera>\d+)_(?P<frame>\d+)$"),
    _scheme(r"cam(?P<camera>\d)_person(?P<identity>\d+)(?:_(?P<frame>\d+))?$"),
    _scheme(r"cam_(?P<camera>[ab])/(?P<identity>\d{3})_\d{1,3}$"),
)
"""Of Market-1501 (DukeMTMC-reID, DukeMTMC-VideoReID, Occluded-Duke and RSTPReid name alike), MARS, MSMT17 (and
ICFG-PEDES), CUHK03, LTCC, iLIDS-VID and VIPeR."""


def person_named(name: str, schemes: Sequence[Scheme] = SCHEMES) -> Pedestrian | int | None:
    """Whom a picture shows, by which camera and when, by the first scheme that knows its name; `JUNK` of a picture of
    no use, None where no scheme does.

    Args:
        name: its path without suffix, "/" between parts.
    """
    known_by = next(((scheme, match) for scheme in schemes if (match := scheme.pattern.search(name))), None)
    if known_by is None:
        return None
    scheme, named = known_by[0], known_by[1].groupdict()
    if scheme.junk and "-" in named["identity"]:
        return JUNK
    identity = named["identity"] if "_" in named["identity"] else str(int(named["identity"]))
    who = None if scheme.junk and int(identity) == BACKGROUND else identity
    time, tracklet = ("" if named.get(key) is None else str(int(named[key])) for key in ("frame", "tracklet"))
    return Pedestrian(who, _plain(named["camera"]), time, tracklet=tracklet)


def camera_in(name: str) -> str:
    """What may be the camera in a path (`0001_c2_f00066`, `cam_a/12.png`), "" where it names none."""
    cameras = [letter or number for letter, number in CAMERA.findall(name)]
    return _plain(cameras[-1]) if cameras else ""


def _plain(camera: str) -> str:
    return str(int(camera)) if camera.isdigit() else camera.lower()


def cameras_told(names: Sequence[str], identities: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """The camera of each picture by its name, as a published set has it, else as `camera_in` tells where two cameras
    show several people each; and a sentence where what looks like cameras shows fewer.

    Args:
        names: paths without suffixes, of a set's pictures.
        identities: whose they are.
    """
    cameras, guesses, seen = [], [], defaultdict(set)
    for name, identity in zip(names, identities, strict=True):
        named = person_named(name)
        cameras.append(named.camera if isinstance(named, Pedestrian) else "")
        guesses.append(cameras[-1] or camera_in(name))
        seen[guesses[-1]].add(identity)
    if cameras == guesses:
        return cameras, []
    several = [camera for camera, people in seen.items() if camera and len(people - {None}) > 1]
    return (guesses, []) if len(several) > 1 else (cameras, [FEW_CAMERAS])


def _layout(folder: Path) -> dict[str, tuple[str, str]] | None:
    return next((each for each in LAYOUTS if all((folder / name).is_dir() for name in each)), None)


def find(path: Path) -> Path | None:
    """The folder with the folders of one layout: `path`, or one folder in it."""
    return folder_with(path, lambda folder: _layout(folder) is not None)


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures of the layout's folders; others (`gt_bbox`, `gt_query`, `info`) are not needed."""
    people = PeopleCollector(source=path)
    for folder, (split, role) in (_layout(path) or {}).items():
        for file in walk(path / folder, path, people):
            _add(people, file, path, reading, split, role)
    return people.data(path.resolve().name, IDENTITIES, reading.formats)


def _add(people: PeopleCollector, file: Path, root: Path, reading: PersonReading, split: str, role: str) -> None:
    """One picture by what its name says; a file whose name says nothing is passed over if it is no image."""
    target = person_named(file.stem, (MARKET, MARS))
    if target is None:
        if any(fmt.matches(file) for fmt in reading.formats):
            people.skip(shown(file, root), "its name is not PERSON_cCAMERA..., as 0002_c1s1_000451_03.jpg is")
    elif isinstance(target, int):
        people.junk += 1
    else:
        identity = target.identity or (None if split == "test" and role != QUERY else str(BACKGROUND))
        target = replace(target, identity=identity, role=role)
        people.add_person(file, shown(file, root), reading.formats, target, split=split)


CAMERA_NAMES = SetFormat(
    "a folder with bounding_box_train, query and bounding_box_test (Market-1501), or bbox_train and bbox_test (MARS)",
    ("re-identification",),
    find,
    read,
)
