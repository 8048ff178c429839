"""JSON lists of pictures of people with captions: CUHK-PEDES, ICFG-PEDES, RSTPReid, SYNTH-PEDES.

A list of objects with `id`, `captions` and `file_path` (RSTPReid: `img_path`), and `split` where the set has one:
"Person Search with Natural Language Description" (Li et al. 2017, arXiv 1702.05729), "Semantically Self-Aligned Network
for Text-to-Image Part-aware Person Re-identification" (Ding et al. 2021, arXiv 2107.12666), "DSSL: Deep Surroundings-
person Separation Learning for Text-based Person Retrieval" (Zhu et al. 2021, arXiv 2109.05534), "PLIP: Language-Image
Pre-training for Person Representation Learning" (Zuo et al. 2023, arXiv 2305.08386). Images lie beside the file, or in
`imgs` or `images`.
"""

from __future__ import annotations

from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import CocoFile, Row, Table, visible
from ....core.errors import DataError, shortened
from ....core.runtime import read_json, read_start
from ..reading import PersonReading, SetFormat
from .people_tables import COLUMNS, read_people_rows

IMAGE_KEYS, IDENTITY, CAPTIONS = ("file_path", "img_path", "image"), "id", "captions"


def find(path: Path) -> Path | None:
    """A JSON file; in a folder the one that begins as such a list does."""
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    lists = [Path(entry.path) for entry in visible(path) if entry.name.lower().endswith(".json")]
    return next((file for file in sorted(lists) if file.is_file() and _begins_so(file)), None)


def _begins_so(file: Path) -> bool:
    start = read_start(file, 1 << 16).decode("utf-8-sig", "replace")
    return start.lstrip()[:1] == "[" and all(f'"{key}"' in start for key in (IDENTITY, CAPTIONS))


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures of the list; entries of one picture are one.

    Raises:
        DataError: the JSON of another set, or none of its images is there.
    """
    content = read_json(path)
    _check_kind(path, content)
    rows = []
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict) or IDENTITY not in entry or not any(entry.get(key) for key in IMAGE_KEYS):
            raise DataError(f"{path} entry {number}: not an object with {IDENTITY} and {IMAGE_KEYS[0]}; correct it")
        image = next(entry[key] for key in IMAGE_KEYS if entry.get(key))
        named = {key: entry.get(key) for key in ("camera", "time", "split", "role", CAPTIONS)}
        rows.append(Row({**named, "image": image, "identity": entry[IDENTITY]}, f"{path} entry {number}"))
    has = {key for row in rows for key, value in row.values.items() if value is not None}
    return read_people_rows(
        Table(path, tuple(COLUMNS), rows), {key: key if key in has else None for key in COLUMNS}, reading, task
    )


def _check_kind(path: Path, content) -> None:
    wanted = f"a list of objects with {IDENTITY}, {CAPTIONS} and {IMAGE_KEYS[0]} (CUHK-PEDES and its like)"
    if CocoFile.is_shape_of(content):
        raise DataError(
            f"{path}: COCO annotations, not {wanted}; to cut people out of a set by these boxes, give the "
            "file as --detections"
        )
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: not {wanted}; give such a file")
    first = content[0]
    if not isinstance(first, dict) or IDENTITY not in first or not any(key in first for key in IMAGE_KEYS):
        has = ", ".join(map(str, first)) if isinstance(first, dict) else type(first).__name__
        raise DataError(f"{path}: the JSON of another set (its entries have {shortened(has)}), not {wanted}")


CAPTION_LISTS = SetFormat(
    "a JSON list with id, captions and file_path (CUHK-PEDES, ICFG-PEDES, RSTPReid, SYNTH-PEDES)",
    ("person-search", "re-identification"),
    find,
    read,
    takes=("root",),
)
