"""Tables with a clip per row: its file or id, times, label or caption, split, person; narrations with verbs and nouns.

Columns are known by their usual names, in any case and with any separators. What belongs together is told as everywhere
(`core/data/group_columns.py`). Tables of EPIC-KITCHENS (arXiv 2006.13256) and Ego4D (arXiv 2110.07058) name verbs and
nouns by numbers: the class of a clip is its verb, its noun, or both.
"""

from __future__ import annotations

from pathlib import Path

from ...core.data import Row, Table, group_rows, read_table
from ...core.errors import DataError
from .annotations import Annotation, item_id, seconds, split_in, usual_split

CLIPS = (
    *("clip", "video", "file", "path", "filename", "file_name", "video_path", "clip_path", "video_file"),
    *("video_id", "clip_id", "video_uid", "clip_uid", "youtube_id", "id", "name"),
)
STARTS = (
    *("start", "start_time", "time_start", "start_timestamp", "start_sec", "clip_start", "t_start", "begin"),
    "timestamp_sec",
)
ENDS = ("end", "end_time", "time_end", "stop_timestamp", "end_sec", "clip_end", "t_end", "stop", "finish", "stop_sec")
LABELS = ("label", "labels", "class", "class_name", "category", "action", "activity", "word", "verb")
CAPTIONS = ("caption", "captions", "sentence", "sentences", "description", "text", "narration", "query")
SPLITS = ("split", "set", "subset", "partition")
LANGUAGES, ENGLISH = ("language",), "english"
VERB, VERB_ID, NOUN, NOUN_ID = ("verb",), ("verb_class", "verb_id"), ("noun",), ("noun_class", "noun_id")
TARGETS = ("action", "verb", "noun")
CLASS_NAMES = "*{}_classes*.csv"


def table_annotations(
    path: Path, *, label_column: str | None, group_column: str, target: str
) -> tuple[list[Annotation], tuple[str, ...], dict[str, int], set[str]]:
    """The rows of a table, sentences on what groups them, id of a clip -> position of its row, and the columns that
    hold the clip or its label.

    Args:
        label_column: of the label; by default one of the usual names.
        group_column: of what belongs together; "auto" to find it, "none" for no groups.
        target: of verbs and nouns: what is the class.

    Raises:
        DataError: no column of the clip, or none of a label or caption. UnknownNameError: no column of a given name.
    """
    table = read_table(path)
    columns = {
        "clip": table.column_of(CLIPS),
        "start": table.column_of(STARTS),
        "end": table.column_of(ENDS),
        "caption": table.column_of(CAPTIONS),
        "split": table.column_of(SPLITS),
        "language": table.column_of(LANGUAGES),
        "verb": table.column_of(VERB_ID),
        "noun": table.column_of(NOUN_ID),
    }
    narrated = label_column is None and columns["verb"] is not None and columns["noun"] is not None
    if label_column is not None:
        columns["label"] = table.column_named(label_column, "label_column")
    else:
        columns["label"] = None if narrated else table.column_of(LABELS)
    if columns["clip"] is None or not (narrated or columns["label"] or columns["caption"]):
        what = "clip (clip, video, file, ...)" if columns["clip"] is None else "label or caption (label, caption, ...)"
        cure = "" if columns["clip"] is None else "; name it by --label-column"
        raise DataError(f"{path}: no column of the {what}; it has: {', '.join(map(str, table.columns))}{cure}")
    numbers = [
        number
        for number, row in enumerate(table.rows)
        if not columns["language"] or row.text(columns["language"]).lower() == ENGLISH
    ]
    rows = [table.rows[number] for number in numbers]
    table = Table(table.path, table.columns, rows)
    named = _narrated_names(table, columns, target) if narrated else None
    labels = [named[place] if named else _cells(row, columns["label"]) for place, row in enumerate(rows)]
    clips = [row.text(columns["clip"]) for row in rows]
    taken = [column for key, column in columns.items() if key not in ("clip",)]
    grouping = group_rows(table, clips, labels, taken=[*taken, *_ids(table)], named=group_column)
    annotations = [
        _annotation(row, columns, clips[place], labels[place], grouping.groups[place], path)
        for place, row in enumerate(rows)
    ]

    row_of = {item_id(each): number for each, number in zip(annotations, numbers, strict=True)}
    holding = {column for key in ("clip", "label", "verb", "noun") if (column := columns.get(key)) is not None}
    return annotations, () if grouping.column is None else grouping.notes, row_of, holding


def _annotation(
    row: Row, columns: dict, clip: str, labels: tuple[str, ...], group: str | None, path: Path
) -> Annotation:
    start, end = (seconds(row.values.get(columns[side]), row.place) for side in ("start", "end"))
    if not clip:
        raise DataError(f"{row.place}: no clip in column '{columns['clip']}'; fill it in or remove the line")
    if start is not None and end is not None and start >= end:
        raise DataError(f"{row.place}: begins at {start:g} seconds and ends at {end:g}; correct the times")
    numbers = {
        name: float(row.text(columns[name]))
        for name in ("verb", "noun")
        if columns[name] is not None and row.text(columns[name]).lstrip("-").isdigit()
    }
    return Annotation(
        clip,
        row.place,
        labels,
        _cells(row, columns["caption"], separated=False),
        start,
        end,
        usual_split(row.text(columns["split"]), row.place) or split_in(path.stem),
        group,
        numbers or None,
        cut_names=_cut_names(clip, start, end),
    )


def _cut_names(clip: str, start: float | None, end: float | None) -> tuple[str, ...]:
    """Of a stretch of a video that was cut out: "ID_000010_000020", "ID_10_20"."""
    if start is None or end is None:
        return ()
    return (f"{clip}_{int(start):06d}_{int(end):06d}", f"{clip}_{int(start)}_{int(end)}")


def _cells(row: Row, column: str | None, separated: bool = True) -> tuple[str, ...]:
    """Texts of a cell: a list, or labels with "|" or ";" between them."""
    value = row.values.get(column) if column is not None else None
    if isinstance(value, list):
        return tuple(str(each).strip() for each in value if str(each).strip())
    text = "" if value is None else str(value).strip()
    if separated and ("|" in text or ";" in text):
        return tuple(part.strip() for part in text.replace(";", "|").split("|") if part.strip())
    return (text,) if text else ()


def _ids(table: Table) -> list[str]:
    """Columns that number the rows, whatever they are called."""
    return [column for column in table.columns if str(column).lower() in ("narration_id", "annotation_uid", "uid")]


def _narrated_names(table: Table, columns: dict[str, str | None], target: str) -> list[tuple[str, ...]]:
    """The class of each row: the name of its verb, of its noun, or of both."""
    words = {"verb": table.column_of(VERB), "noun": table.column_of(NOUN)}
    kinds = ("verb", "noun") if target == "action" else (target,)
    names = {kind: _names(table, columns[kind], words[kind], kind) for kind in kinds}
    return [
        (" ".join(names[kind][row.text(columns[kind])] for kind in kinds),)
        if all(row.text(columns[kind]) for kind in kinds)
        else ()
        for row in table.rows
    ]


def _names(table: Table, number: str, word: str | None, kind: str) -> dict[str, str]:
    """Number -> name: of the list of classes beside the table, else the word that stands with it most often."""
    listed = _class_names(table.path.parent, kind)
    counts: dict[str, dict[str, int]] = {}
    for row in table.rows:
        of_number = counts.setdefault(row.text(number), {})
        text = row.text(word) if word else ""
        of_number[text] = of_number.get(text, 0) + 1
    return {
        key: listed.get(key) or max(words, key=lambda text: words[text]) or f"{kind} {key}"
        for key, words in counts.items()
    }


def _class_names(folder: Path, kind: str) -> dict[str, str]:
    for path in sorted(folder.glob(CLASS_NAMES.format(kind))):
        table = read_table(path)
        number, name = table.column_of(["id"]), table.column_of(["key", "name", "class_key"])
        if number is not None and name is not None:
            return {row.text(number): row.text(name) for row in table.rows}
    return {}
