"""Lists of published sets of actions: UCF101, HMDB51, Kinetics, Something-Something, ActivityNet; and "path label".

* UCF101 (arXiv 1212.0402): `trainlist01.txt`, `testlist01.txt`, `classInd.txt`; splits 1 to 3.
* HMDB51 (ICCV 2011): `CLASS_test_split1.txt` with 1 (train), 2 (test) or 0 (neither); splits 1 to 3.
* Kinetics (arXiv 1705.06950): CSV with label, youtube_id, time_start, time_end; JSON by id.
* Something-Something (arXiv 1706.04261): JSON lists with id, label and template, `labels.json`.
* ActivityNet (CVPR 2015): JSON with `database`, whose videos have segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError, DataError, shortened
from ...core.runtime import read_json, read_text
from .annotations import Annotation, seconds, split_in, usual_split
from .clips import VIDEO_SUFFIXES

UCF_LIST = re.compile(r"^(train|test)list0?(\d)\.txt$", re.IGNORECASE)
HMDB_LIST = re.compile(r"^(.+)_test_split(\d)\.txt$", re.IGNORECASE)
UCF_SOURCE = re.compile(r"^v_(.+_g\d+)_c\d+")
UCF_INDEX = "classInd.txt"
SEPARATORS = ("\t", ",", ";", " ")
BRACKETS = re.compile(r"\[([^\]]*)\]")


def ucf_annotations(folder: Path, fold: int) -> list[Annotation]:
    """UCF101's lists of one of its three splits.

    Args:
        folder: of the lists.
        fold: 1, 2 or 3.

    Raises:
        ConfigError: there are no such lists.
    """
    lists = {(match[1].lower(), int(match[2])): path for path, match in _matching(folder, UCF_LIST)}
    _check_fold(folder, fold, {number for _, number in lists})
    annotations = []
    for split in ("train", "test"):
        if (path := lists.get((split, fold))) is None:
            raise DataError(f"{folder}: has no {split}list{fold:02d}.txt; put it beside the other list")
        for place, line in _lines(path):
            name = line.split(" ")[0] if re.search(r" \d+$", line) else line
            category, _, file = name.rpartition("/")
            if not category:
                raise DataError(
                    f"{place}: '{shortened(line)}' is not of the form CLASS/v_CLASS_g01_c01.avi; correct it"
                )
            group = UCF_SOURCE.match(file)
            annotations.append(
                Annotation(name, place, (category,), split=split, group=group[1] if group else None, names=(file,))
            )
    return annotations


def hmdb_annotations(folder: Path, fold: int) -> list[Annotation]:
    """HMDB51's lists of one of its three splits.

    Raises:
        ConfigError: there are no such lists. DataError: a line is not "NAME 0", "NAME 1" or "NAME 2".
    """
    lists = [(match[1], int(match[2]), path) for path, match in _matching(folder, HMDB_LIST)]
    _check_fold(folder, fold, {number for _, number, _ in lists})
    annotations = []
    for category, number, path in lists:
        for place, line in _lines(path) if number == fold else ():
            name, _, mark = line.rpartition(" ")
            if mark not in ("0", "1", "2") or not name:
                raise DataError(f"{place}: '{shortened(line)}' is not a file and 0, 1 or 2; correct it")
            if mark == "0":
                continue
            name = name.strip()
            source = name.split(f"_{category}_")[0] if f"_{category}_" in name else None
            where = f"{category}/{name}"
            split = "train" if mark == "1" else "test"
            annotations.append(Annotation(where, place, (category,), split=split, group=source, names=(name,)))
    return annotations


def kinetics_annotations(path: Path, content: Mapping[str, Any]) -> list[Annotation]:
    """Kinetics' and ActivityNet's JSON: id -> annotations (label, segment), subset."""
    videos = content.get("database", content)
    annotations = []
    for id_, video in videos.items():
        place, split = f"{path} {id_}", usual_split(video.get("subset", ""), f"{path} {id_}")
        listed = video.get("annotations")
        for each in listed if isinstance(listed, list) else [listed] if listed else []:
            start, end = (each.get("segment") or [None, None])[:2]
            annotations.append(
                _of_youtube(id_, place, each.get("label"), seconds(start, place), seconds(end, place), split)
            )
    return annotations


def kinetics_rows(table: Any, default_split: str) -> list[Annotation]:
    """The same of a table with youtube_id, time_start, time_end, and label where it is known."""
    names = ("label", "youtube_id", "time_start", "time_end", "split")
    label, id_, start, end, split = (table.column_of([name]) for name in names)
    return [
        _of_youtube(
            row.text(id_),
            row.place,
            row.text(label) or None,
            seconds(row.values.get(start), row.place),
            seconds(row.values.get(end), row.place),
            usual_split(row.text(split), row.place) or default_split,
        )
        for row in table.rows
    ]


def something_annotations(path: Path, content: Sequence[Mapping[str, Any]]) -> list[Annotation]:
    """Something-Something's JSON: id, label, and template where it is known; the classes are the templates."""
    split, annotations = split_in(path.stem), []
    for number, entry in enumerate(content, 1):
        place, template = f"{path} entry {number}", str(entry.get("template") or "")
        name = BRACKETS.sub(r"\1", template)
        if "id" not in entry:
            raise DataError(f"{place}: has no id; add that of its video")
        captions = (str(entry["label"]),) if entry.get("label") else ()
        annotations.append(Annotation(str(entry["id"]), place, (name,) if name else (), captions, split=split))
    return annotations


def listed_annotations(path: Path, names: Sequence[str] | None = None) -> list[Annotation]:
    """ "path label", "path frames label" and their like: one clip per line, its class last.

    Args:
        path: the list.
        names: of classes that are given by number; those of a class list beside it by default.

    Raises:
        DataError: a line has one word only, or another separator than the first.
    """
    lines = list(_lines(path))
    if not lines:
        raise DataError(f"{path}: no line names a clip; give a path and a label in each")
    separator = next((sign for sign in SEPARATORS if sign in lines[0][1]), None)
    numbered = names or _class_list(path.parent)
    annotations = []
    for place, line in lines:
        cells = [cell.strip() for cell in line.split(separator) if cell.strip()] if separator else [line]
        if len(cells) < 2:
            shown = {"\t": "a tab", " ": "a space", None: "a space"}.get(separator, f"'{separator}'")
            raise DataError(
                f"{place}: '{shortened(line)}' is not a path and a label with {shown} between them; correct it"
            )
        name, label = _path_and_label(cells)
        labels = tuple(numbered[int(one)] if _is_number(one, numbered) else one for one in label)
        annotations.append(Annotation(name, place, labels, split=split_in(path.stem)))
    return annotations


def _path_and_label(cells: list[str]) -> tuple[str, list[str]]:
    """The path, which spaces may divide, and the classes after it; of a folder first the number of its frames."""
    file = next((place for place, cell in enumerate(cells) if cell.lower().endswith(VIDEO_SUFFIXES)), None)
    path, rest = " ".join(cells[: (file or 0) + 1]), cells[(file or 0) + 1 :]
    if file is None and len(rest) > 1 and rest[0].isdigit():
        rest = rest[1:]
    return path, rest if all(cell.isdigit() for cell in rest) else [" ".join(rest)]


def _is_number(label: str, names: Sequence[str] | None) -> bool:
    return bool(names) and label.isdigit() and label not in names and int(label) < len(names)


def _class_list(folder: Path) -> list[str] | None:
    """Names of classes of a file beside a list: `classInd.txt` of UCF101 ("1 Name"), `labels.csv` (id,name) of X-CLIP
    and ActionCLIP, `classes.txt`, `label_map.txt` (a name per line)."""
    for name in (UCF_INDEX, "labels.csv", "label_map.txt", "classes.txt"):
        path = folder / name
        if path.is_file():
            lines = [line for _, line in _lines(path)]
            lines = lines[1:] if lines and lines[0].lower().replace(" ", "") == "id,name" else lines
            return [re.sub(r"^\d+[\s,]+", "", line).strip() for line in lines]
    return None


def something_names(folder: Path) -> list[str] | None:
    """The classes of Something-Something in the order of their numbers, where `labels.json` lies in the folder."""
    for path in sorted(folder.glob("*labels.json")):
        content = read_json(path)
        if isinstance(content, dict) and all(str(number).isdigit() for number in content.values()):
            return [BRACKETS.sub(r"\1", name) for name in sorted(content, key=lambda name: int(content[name]))]
    return None


def _of_youtube(id_: str, place: str, label: str | None, start: float | None, end: float | None, split: str):
    """A line about a part of a video, which may have been cut out: then the file's name says its times."""
    cut = () if start is None or end is None else (f"{id_}_{int(start):06d}_{int(end):06d}",)
    return Annotation(
        id_,
        place,
        (label,) if label else (),
        start=start,
        end=end,
        split=split,
        group=id_,
        names=(f"v_{id_}",),
        cut_names=cut,
    )


def _matching(folder: Path, pattern: re.Pattern) -> Iterator[tuple[Path, re.Match]]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := pattern.match(path.name)):
            yield path, match


def _check_fold(folder: Path, fold: int, there: set[int]) -> None:
    if fold not in there:
        listed = ", ".join(map(str, sorted(there))) or "none"
        raise ConfigError(f"--set data.fold={fold}: {folder} has the splits {listed}; give one of these")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield f"{path} line {number}", line.strip()
