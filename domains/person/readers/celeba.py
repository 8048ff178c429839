"""CelebA's list of attributes: `list_attr_celeba.txt`, beside `list_eval_partition.txt` and `identity_CelebA.txt`.

"Deep Learning Face Attributes in the Wild" (Liu et al. 2015, arXiv 1411.7766). The first line is the number of faces,
the second the 40 names, then a file and 1 or -1 for each: -1 is absent here, not unknown. Also as a table with a column
`image_id`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ....core.contracts import DomainData
from ....core.errors import DataError, shortened
from ....core.runtime import text_lines
from ..pedestrian import Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat
from .market_attributes import chosen_names

STEM = "list_attr_celeba"
PARTITION, IDENTITY = ("list_eval_partition",), ("identity_celeba",)
SUFFIXES = (".txt", ".csv")
FOLDERS = ("", "img_align_celeba", "img_align_celeba/img_align_celeba", "img_celeba", "images")
LABELS = {"1": 1.0, "-1": 0.0}
SPLITS = {"0": "train", "1": "val", "2": "test"}


def find(path: Path) -> Path | None:
    """The list: `path`, or in a folder the one of that name, also in `Anno/`."""
    if path.is_file():
        return path if path.stem.lower() == STEM and path.suffix.lower() in SUFFIXES else None
    return _beside(path, (STEM,)) or _beside(path / "Anno", (STEM,))


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The faces of the list.

    CelebA's own split divides people; where `identity_CelebA.txt` lies beside the list, that is checked.

    Raises:
        DataError: a value other than 1 and -1, a line that is cut short, or a path that leaves the folder.
    """
    base = path.parent.parent if path.parent.name.lower() == "anno" else path.parent
    names, rows = celeba_rows(path)
    chosen = chosen_names(names, reading, path)
    places = [names.index(name) for name in chosen]
    folders = [base, base / "Eval", path.parent]
    splits = _words(next((f for b in folders if (f := _beside(b, PARTITION))), None), SPLITS)
    people = _words(next((f for b in (path.parent, base) if (f := _beside(b, IDENTITY))), None), None)
    root = Path(reading.root) if reading.root else base
    roots = [root / folder if folder else root for folder in FOLDERS]
    faces = PeopleCollector(source=path)
    for place, listed, values in rows:
        target = Pedestrian(people.get(listed), attributes=tuple(values[p] for p in places))
        faces.add_listed(listed, roots, place, root, reading.formats, target, splits.get(listed, ""))
    data = faces.data(path.resolve().parent.name, "multilabel", reading.formats)
    data.class_names = chosen
    return data


def celeba_rows(path: Path) -> tuple[list[str], Iterator[tuple[str, str, tuple[float, ...]]]]:
    """The names, and (place, file, 1 or 0 for each name) of each line.

    Raises:
        DataError: as `read`.
    """
    lines = ((number, line) for number, line in enumerate(text_lines(path), start=1) if line.strip())
    commas = path.suffix.lower() == ".csv"
    number, first = next(lines, (1, ""))
    if not commas and first.strip().isdecimal():
        number, first = next(lines, (2, ""))
    names = _cells(first, commas)
    names = names[1:] if commas or names[:1] == ["image_id"] else names
    if not names:
        raise DataError(f"{path} line {number}: names no attributes; get the list again")
    return names, _rows(path, names, lines, commas)


def _rows(path: Path, names, lines, commas: bool) -> Iterator[tuple[str, str, tuple[float, ...]]]:
    for number, line in lines:
        file, *values = _cells(line, commas)
        place = f"{path} line {number}"
        if len(values) != len(names):
            raise DataError(f"{place}: {len(values)} values for {len(names)} attributes; get the list again")
        if wrong := next((value for value in values if value not in LABELS), None):
            raise DataError(f"{place}: '{shortened(wrong)}' is neither 1 nor -1; get the list again")
        yield place, file, tuple(LABELS[value] for value in values)


def _cells(line: str, commas: bool) -> list[str]:
    return [cell.strip() for cell in line.split(",")] if commas else line.split()


def _words(path: Path | None, meanings: dict[str, str] | None) -> dict[str, str]:
    """File -> the word behind it in a list of two columns."""
    if path is None:
        return {}
    words = {}
    for number, line in enumerate(text_lines(path), start=1):
        cells = _cells(line, path.suffix.lower() == ".csv")
        if len(cells) != 2 or (number == 1 and not cells[1].lstrip("-").isdecimal()):
            if line.strip() and number > 1:
                raise DataError(f"{path} line {number}: not a file and a number; get the list again")
            continue
        if meanings is not None and cells[1] not in meanings:
            raise DataError(
                f"{path} line {number}: '{shortened(cells[1])}' is none of {', '.join(meanings)}; get the list again"
            )
        words[cells[0]] = cells[1] if meanings is None else meanings[cells[1]]
    return words


def _beside(folder: Path, stems: tuple[str, ...]) -> Path | None:
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    return next((file for file in files if file.stem.lower() in stems), None)


CELEBA = SetFormat("CelebA's list_attr_celeba.txt", ("attributes",), find, read, takes=("root", "class_names"))
