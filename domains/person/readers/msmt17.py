"""MSMT17: lists of pictures, `list_train.txt` and its like, whose file names say the camera.

"Person Transfer GAN to Bridge Domain Gap for Person Re-Identification" (Wei et al. 2018, arXiv 1711.08565). A line is
`0000/0000_000_01_0303morning_0015_0.jpg 0`: the third part of the name is the camera, the number behind it the person,
counted anew in train and test. The published val holds further pictures of the people in train; here these train too,
and val is made of other people.
"""

from __future__ import annotations

from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import folders
from ....core.errors import DataError, shortened
from ....core.runtime import read_text
from ..pedestrian import GALLERY, IDENTITIES, QUERY, Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat, folder_with

LISTS = {
    "list_train.txt": ("train", "train", ""),
    "list_val.txt": ("train", "train", ""),
    "list_query.txt": ("test", "test", QUERY),
    "list_gallery.txt": ("test", "test", GALLERY),
}
"""List -> the split, the beginning of the folder with its pictures, and their role."""
NEEDED = ("list_train.txt", "list_query.txt", "list_gallery.txt")
NOTE = (
    "The published val pictures show people of train: they are used for training too, and val is made of other people."
)


def find(path: Path) -> Path | None:
    """The folder with the lists: `path`, or one folder in it."""
    return folder_with(path, lambda folder: all((folder / name).is_file() for name in NEEDED))


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures of all lists. They lie in `train` and `test`, or folders whose names end so (`mask_train_v2`)."""
    people = PeopleCollector(source=path)
    for name, (split, part, role) in LISTS.items():
        if (path / name).is_file():
            _read_list(people, path, path / name, reading, split, part, role)
    notes = [NOTE] if (path / "list_val.txt").is_file() else []
    return people.data(path.resolve().name, IDENTITIES, reading.formats, notes)


def _read_list(
    people: PeopleCollector, root: Path, file: Path, reading: PersonReading, split: str, part: str, role: str
):
    roots = [folder for folder in folders(root) if part in folder.name.lower()] or [root]
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{file} line {number}"
        name, _, person = line.strip().rpartition(" ")
        parts = Path(name).stem.split("_")
        if not person.isdigit() or len(parts) < 3 or not parts[2].isdigit():
            raise DataError(f"{place}: '{shortened(line)}' is not PATH PERSON, as 0000/0000_000_01_..._0.jpg 0 is")
        target = Pedestrian(f"{split} {int(person)}", camera=str(int(parts[2])), role=role)
        people.add_listed(name.strip(), roots, place, root, reading.formats, target, split)


MSMT17 = SetFormat(
    "a folder with list_train.txt, list_query.txt and list_gallery.txt (MSMT17)", ("re-identification",), find, read
)
