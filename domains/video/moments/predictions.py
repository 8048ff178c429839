"""What sentences find in new videos: rows with times, and files of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from ....core.contracts import Use
from ....core.data import csv_text
from ....core.errors import CapabilityError, ConfigError
from ....core.runtime import json_text, read_text, write_whole
from ..long_videos import clock_time
from .scoring import Found

COLUMNS = ("id", "sentence", "rank", "start", "end", "score")
NO_SENTENCE = 'no sentence to look for; give --classes "what happens there", or a text file with one per line'


@dataclass
class PredictedMoments:
    """What sentences find in new videos.

    Attributes:
        found: (id of the video, `Found`).
        skipped: (id, reason) of videos that could not be read.
        files: written on demand.
        notes: sentences for the user.
    """

    found: list[tuple[str, Found]]
    skipped: list[tuple[str, str]]
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write a file of rows: .csv or .jsonl.

        Raises:
            DataError: nothing can be written there.
        """
        if path.suffix.lower() == ".csv":
            text = csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in self.rows()))
        else:
            text = "".join(json_text(row) + "\n" for row in self.rows())
        write_whole(path, text)
        self.files.append(path)

    def rows(self, top: int | None = None) -> list[dict[str, Any]]:
        """One dict per window: id of the video, sentence, rank, start and end in seconds, score."""
        return [
            {"id": id_, "sentence": found.query.text, "rank": rank, "start": start, "end": end, "score": score}
            for id_, found in self.found
            for rank, ((start, end), score) in enumerate(zip(found.spans.tolist(), found.scores.tolist()), start=1)
            if top is None or rank <= top
        ]


def found_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per window that was found, for a terminal."""
    table = Table()
    for name in ("video", *COLUMNS[1:]):
        table.add_column(name, justify="left" if name in ("video", "sentence") else "right", overflow="fold")
    for row in rows:
        times = clock_time(row["start"]), clock_time(row["end"])
        table.add_row(row["id"], row["sentence"], str(row["rank"]), *times, f"{row['score']:.4f}")
    return table


def asked_sentences(use: Use) -> list[str]:
    """What `--classes` asks for: a list, a text, or a text file with one per line.

    Raises:
        CapabilityError: no sentence is given. ConfigError: less than one window is asked for.
    """
    given = use.classes
    if isinstance(given, str):
        given = read_text(Path(given)).splitlines() if given.endswith(".txt") else [given]
    sentences = list(dict.fromkeys(text.strip() for text in map(str, given or ()) if text.strip()))
    if not sentences:
        raise CapabilityError(f"{use.run.shown}: {NO_SENTENCE}")
    if use.top is not None and use.top < 1:
        raise ConfigError(f"--top {use.top}: give a number of windows, 1 or more")
    return sentences
