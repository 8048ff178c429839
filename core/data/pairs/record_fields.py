"""What the columns of a list of pairs are usually called, and what their values mean."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError, did_you_mean, shortened
from ..class_folders import Layout
from ..tables import Table

SPLITS_BY_NAME = {**Layout.SPLITS, "restval": "train"}  # Karpathy's: images of COCO's val set that train
COLUMNS: dict[str, tuple[str, ...]] = {
    "image": (
        *("image", "image_path", "img_path", "filepath", "file_path", "file_name", "filename", "image_name"),
        *("image_file", "img", "path", "file"),
    ),
    "caption": (
        *("caption", "captions", "title", "text", "texts", "sentence", "sentences", "report", "description"),
        *("comment", "raw"),
    ),
    "synthetic": (
        *("synthetic", "synthetic_caption", "synthetic_captions", "rewrite", "rewrites", "rewritten_caption"),
        *("generated_caption", "generated_captions", "llm_caption", "blip_caption", "recaption"),
    ),
    "negative": (
        *("negative", "negatives", "negative_caption", "negative_captions", "neg_caption", "neg_captions"),
        *("hard_negative", "hard_negatives"),
    ),
    "short": ("short", "short_caption", "short_captions"),
    "negative_image": ("negative_image", "negative_image_path", "neg_image_path"),
    "label": ("label", "labels", "class", "class_name", "category", "identity", "person_id", "pid"),
    "split": Table.SPLIT,
}
"""Field -> names of its column in lower case, "_" for blanks; the first that a table has counts."""
LONGEST_LIST = 100_000
"""Characters of a cell that may be a list."""
ONE_TEXT = frozenset({"caption", "title", "text", "sentence", "report", "description", "comment"})
"""Columns whose cells are never lists, whatever they look like."""


class BrokenRow(Exception):
    """A row that cannot be used; the reader lists it with this reason and goes on."""


class RecordColumns:
    """Which column of a table holds which field.

    Args:
        names: all columns.
        image, caption: names of columns that the user gave.
        further: columns that are kept in addition to the usual ones -> what they hold: "text", "numbers" or "image".

    Attributes:
        of: field -> column, for fields that have one.
    """

    def __init__(
        self,
        names: Iterable[str],
        image: str | None = None,
        caption: str | None = None,
        further: Mapping[str, str] | None = None,
    ):
        names = list(names)
        by_name = {_normal(name): name for name in reversed(names)}
        self.of = {
            field: by_name[usual_name]
            for field, usual in COLUMNS.items()
            if (usual_name := next((name for name in usual if name in by_name), None)) is not None
        }
        for field, given in (("image", image), ("caption", caption)):
            if given is not None:
                self.of.pop(field, None)
                if (column := by_name.get(_normal(given))) is not None:
                    self.of[field] = column
        self._further = {
            wanted: (kind, by_name[_normal(wanted)])
            for wanted, kind in (further or {}).items()
            if _normal(wanted) in by_name
        }

    def texts(self, record: Mapping[str, Any], field: str) -> list[str]:
        """The texts of a field, none of them empty.

        Raises:
            BrokenRow: a value that is not a text.
        """
        column = self.of.get(field)
        if column is None:
            return []
        return texts_of(record.get(column), field, lists=_normal(column) not in ONE_TEXT)

    def further_texts(self, record: Mapping[str, Any]) -> dict[str, list[str]]:
        """Texts of the fields "synthetic", "negative" and "short" that the row has, and of further columns."""
        fields = ("synthetic", "negative", "short")
        texts = {field: self.texts(record, field) for field in fields}
        texts |= {name: texts_of(value, name) for name, value in self._values(record, "text")}
        return {field: some for field, some in texts.items() if some}

    def further_numbers(self, record: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
        """Numbers of further columns that the row has.

        Raises:
            BrokenRow: a value that is neither a number nor a list of them.
        """
        numbers = {name: numbers_of(value, name) for name, value in self._values(record, "numbers")}
        return {name: some for name, some in numbers.items() if some}

    def further_images(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Names of files in further columns that the row has.

        Raises:
            BrokenRow: a value that is not a single text.
        """
        files = {name: word_of(value, name) for name, value in self._values(record, "image")}
        return {name: file for name, file in files.items() if file}

    def _values(self, record: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
        for name, (held, column) in self._further.items():
            if held == kind:
                yield name, record.get(column)

    def word(self, record: Mapping[str, Any], field: str) -> str:
        """The value of a field as one stripped text, "" where there is none.

        Raises:
            BrokenRow: it is a list of several, or an object.
        """
        column = self.of.get(field)
        if column is None:
            return ""
        return word_of(record.get(column), column)

    def split(self, record: Mapping[str, Any], place: str | Path) -> str:
        """The split that a row names, or "".

        Raises:
            DataError: an unknown one.
        """
        return split_named(self.word(record, "split"), place)


def _normal(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def texts_of(value: Any, what: str, lists: bool = True) -> list[str]:
    """A value as texts without blanks around them; empty ones are left out.

    Args:
        value: text, number, None, or a list of these; a text that is a JSON or Python list counts as one.
        what: name of the field, for the message.
        lists: whether a text may be a list.

    Raises:
        BrokenRow: anything else.
    """
    if isinstance(value, str):
        listed = _listed(value) if lists and value.lstrip().startswith("[") else None
        return list(filter(None, [cleaned(value)])) if listed is None else texts_of(listed, what, lists=False)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, list):
        return [text for part in value for text in texts_of(part, what, lists=False)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [str(value)]
    raise BrokenRow(f"{what} is not a text: {json.dumps(value, default=str)[:60]}")


def numbers_of(value: Any, what: str) -> tuple[float, ...]:
    """A value as finite numbers, none where it is empty.

    Args:
        value: number, list of numbers, or a text of them with commas or blanks between, in brackets or not.
        what: name of the column, for the message.

    Raises:
        BrokenRow: anything else.
    """
    if isinstance(value, str):
        value = value.strip().strip("[]()").replace(",", " ").split()
    listed = value if isinstance(value, list) else [] if value is None else [value]
    try:
        numbers = tuple(float(number) for number in listed)
    except (TypeError, ValueError, OverflowError):
        raise BrokenRow(f"{what} is not a number: {json.dumps(value, default=str)[:60]}") from None
    if all(math.isnan(number) for number in numbers):
        return ()
    if not all(math.isfinite(number) for number in numbers):
        raise BrokenRow(f"{what} is not finite: {json.dumps(value, default=str)[:60]}")
    return numbers


def _listed(text: str) -> list[str] | None:
    """The texts of a list written as text, or None if it is none."""
    if len(text) > LONGEST_LIST:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return value
    return None


def cleaned(text: str) -> str:
    """Without blanks around it, NULs, and halves of characters that no tokenizer takes."""
    text = text.replace("\0", "").strip()
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def word_of(value: Any, what: str) -> str:
    """A value as one text, or "" for none.

    Raises:
        BrokenRow: there are several, or it is not a text.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        value = int(value)
    words = texts_of(value, what, lists=False)
    if len(words) > 1:
        raise BrokenRow(f"{what} has {len(words)} values; give one")
    return words[0] if words else ""


def split_named(name: str, place: str | Path) -> str:
    """ "train", "val" or "test" for the many names they have, "" for none.

    Raises:
        DataError: another name.
    """
    if not name:
        return ""
    split = SPLITS_BY_NAME.get(name.lower())
    if split is None:
        raise DataError(f"{place}: split '{shortened(name)}'; {did_you_mean(name, ('train', 'val', 'test'))}")
    return split
