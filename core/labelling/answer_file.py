"""The file of labels while it is being written: whole after every answer, by one page at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from ..contracts.recipe import SAMPLE
from ..data.label_files import ANSWERS, Answer, TableSource, Todo, labels_text, read_answers
from ..errors import ConfigError, DataError, did_you_mean, shortened
from ..runtime.files import claimed, place_of, write_whole
from ..runtime.process import keeps


class AnswerFile:
    """Answers of one person to a list of images, kept in a CSV file with those of earlier rounds.

    Args:
        path: the file; one that is there is gone on with.
        todo: the images.
        source: where they are, relative to `table`'s folder.
        table: the file that lists them.
        labeller: who answers.
        several: whether an image may have several labels.

    Raises:
        ConfigError: another process writes the file, or it is the list itself. DataError: it holds something else,
        labels of other images, or labels that are no class.
    """

    def __init__(
        self, path: Path, todo: Sequence[Todo], source: TableSource, table: Path, labeller: str, several: bool = False
    ):
        if path.suffix.lower() != ".csv":
            raise ConfigError(f"--out {path}: labels are written as .csv; give a name that ends in .csv")
        if path.resolve() == table.resolve():
            raise ConfigError(f"--out {path}: that is the list of images; give another file")
        place_of(path, "--out")
        self.path, self.todo, self.labeller, self.several = path, list(todo), labeller, several
        self.source = _relative_to(source, table, path)
        self._of_id = {row.id: row for row in self.todo}
        self._lock = threading.Lock()
        self._claim_file = path.with_name(f".{path.name}.at-work")
        self._claim = self._claimed()
        try:
            self._rows = self._read()
        except BaseException:
            self.close()
            raise
        if self._rows:
            keeps("labels", path)

    def answers(self) -> list[Answer | None]:
        """One per image of the list, None where there is none yet."""
        with self._lock:
            return [self._rows.get(row.id) for row in self.todo]

    def count(self) -> int:
        """How many images of the list have an answer."""
        return sum(row is not None for row in self.answers())

    def answer(self, image: int, labels: Sequence[str], answer: str = "") -> None:
        """Write what was said of an image, in place of what was said before.

        Raises:
            ConfigError: no such image or class, no answer, or several labels where one is wanted. DataError: the file
            cannot be written; what was written before stays.
        """
        if not 0 <= image < len(self.todo):
            raise ConfigError(f"image {image}: there are {len(self.todo)}")
        for name in labels:
            if name not in self.source.classes:
                raise ConfigError(f"label '{shortened(name)}': {did_you_mean(str(name), self.source.classes)}")
        if answer not in ANSWERS or bool(labels) == bool(answer) or (len(labels) > 1 and not self.several):
            raise ConfigError("give one label, 'not sure' or 'none of these'")
        row = self.todo[image]
        time = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        ordered = tuple(name for name in self.source.classes if name in labels)
        made = Answer(row.id, ordered, answer, self.labeller, time, row.drawn, row.round)
        with self._lock:
            rows = {id_: each for id_, each in self._rows.items() if id_ != row.id}
            self._write({**rows, row.id: made})

    def undo(self) -> int | None:
        """Take back the latest answer to an image of the list; returns which, None where there is none."""
        with self._lock:
            latest = next((id_ for id_ in reversed(self._rows) if id_ in self._of_id), None)
            if latest is None:
                return None
            self._write({id_: row for id_, row in self._rows.items() if id_ != latest})
        return next(place for place, row in enumerate(self.todo) if row.id == latest)

    def close(self) -> None:
        """Let others write the file."""
        self._claim_file.unlink(missing_ok=True)
        self._claim.close()

    def _claimed(self):
        try:
            return claimed(self._claim_file)
        except BlockingIOError:
            cure = "close it or give another --out"
            raise ConfigError(f"--out {self.path}: another page is writing to it; {cure}") from None
        except OSError as error:
            raise DataError.unwritable(self.path.parent, error) from error

    def _read(self) -> dict[str, Answer]:
        if not self.path.exists():
            return {}
        if not self.path.read_bytes().strip():
            raise DataError(f"--out {self.path}: empty file, no labels; remove it or give another --out")
        rows, source = read_answers(self.path)
        there, here = ((each.labelled, each.domain, _place(each, self.path)) for each in (source, self.source))
        if there != here:
            raise DataError(f"--out {self.path}: holds labels of other images ({source.data}); give another --out")
        for name in (name for row in rows for name in row.labels):
            if name not in self.source.classes:
                near = did_you_mean(name, self.source.classes)
                raise DataError(f"--out {self.path}: label '{shortened(name)}' is not a class of the list; {near}")
        if not self.several and any(len(row.labels) > 1 for row in rows):
            raise ConfigError(f"--out {self.path}: has images with several labels; add --several")
        return {row.id: row for row in rows}

    def _write(self, rows: dict[str, Answer]) -> None:
        if rows:
            write_whole(self.path, labels_text(rows.values(), self.source))
        else:
            self.path.unlink(missing_ok=True)
        self._rows = rows


def _relative_to(source: TableSource, table: Path, path: Path) -> TableSource:
    """The source as seen from another file's folder."""
    if source.data == SAMPLE:
        return source
    data = (table.resolve().parent / source.data).resolve()
    return replace(source, data=Path(os.path.relpath(data, path.resolve().parent)).as_posix())


def _place(source: TableSource, path: Path) -> str:
    return source.data if source.data == SAMPLE else str((path.resolve().parent / source.data).resolve())
