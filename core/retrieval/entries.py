"""What is known of each row of an index, on disk: one JSON object per line, found by its offset.

Neither writing nor reading holds more than a few entries, so memory does not grow with their number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.items import Captions, Item
from ..data.group_columns import hashed
from ..errors import DataError
from ..runtime.reading import json_plain, json_text

ENTRIES, OFFSETS = "entries.jsonl", "entries.offsets"
OFFSET = np.dtype("<u8")
ENCODING = ("utf-8", "surrogatepass")
"""Names of files may hold bytes that are no text; `json.loads` reads them so too."""
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, default=json_plain).encode


@dataclass(frozen=True)
class Entry:
    """One row of an index.

    Args:
        id: what a user knows it by: the path as given, or the line of a text file.
        source: the file an image's bytes come from; None for a text.
        decode: which part of that file, as `Item.decode`.
        captions: of an image, or the indexed text itself.
        about: what else is known of an image, by name: its camera, its time.
        group: what stands for the patient, the video or whatever else it belongs to, as a hash; "" where nobody knows.
    """

    id: str
    source: str | None = None
    decode: dict[str, Any] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    about: dict[str, str] = field(default_factory=dict)
    group: str = ""

    @classmethod
    def of(cls, item: Item) -> Entry:
        """The entry of an image. Its file is named in full, so that it is found from any folder."""
        about = {} if item.target is None else dict(item.target.about())
        place, group = str(Path(item.source).absolute()), hashed(item.group) or ""
        return cls(item.id, place, dict(item.decode), tuple(item.captions()), about, group)

    def item(self) -> Item:
        """The image again, for a domain's `load`."""
        return Item(self.id, Path(self.source or ""), self.decode, Captions(self.captions) if self.captions else None)

    @classmethod
    def from_line(cls, text: str) -> Entry:
        """The entry of a line of JSON.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is none.
        """
        entry = json.loads(text)
        about = {str(name): str(value) for name, value in (entry.get("about") or {}).items()}
        group = str(entry.get("group") or "")
        return cls(entry["id"], entry["source"], entry["decode"], tuple(entry["captions"]), about, group)

    def line(self) -> str:
        """The entry as JSON."""
        values = {
            "id": self.id,
            "source": self.source,
            "decode": self.decode,
            "captions": self.captions,
            "about": self.about,
            **({"group": self.group} if self.group else {}),
        }
        try:
            return _encode(values)
        except ValueError:  # NaN, or infinity
            return json_text(values)

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same as another: its file and the part of it; of a text, the text."""
        if self.source is None:
            return "", self.captions[0] if self.captions else ""
        return self.source, json_text(self.decode, sort_keys=True) if self.decode else ""


class EntryWriter:
    """Appends entries to a folder, and an offset of 8 bytes each."""

    def __init__(self, folder: Path):
        self._lines = (folder / ENTRIES).open("wb")
        self._offsets = (folder / OFFSETS).open("wb")
        self._end = self.count = 0

    def add(self, entries: Sequence[Entry]) -> None:
        lines = [entry.line().encode(*ENCODING) + b"\n" for entry in entries]
        ends = self._end + np.cumsum([len(line) for line in lines], dtype=np.int64)  # (n,)
        self._offsets.write(np.concatenate([[self._end], ends[:-1]]).astype(OFFSET).tobytes() if lines else b"")
        self._lines.write(b"".join(lines))
        self._end, self.count = int(ends[-1]) if lines else self._end, self.count + len(lines)

    def close(self) -> None:
        try:
            self._lines.close()
        finally:
            self._offsets.close()


class Entries:
    """Entries of a folder, each read from disk when asked for.

    Raises:
        DataError: as many offsets as `count` are not there.
    """

    def __init__(self, folder: Path, count: int):
        self.path = folder / ENTRIES
        if (folder / OFFSETS).stat().st_size != count * OFFSET.itemsize:
            raise damaged(folder / OFFSETS, f"does not hold the places of {count} entries")
        if not self.path.stat().st_size:
            raise damaged(self.path, "empty")
        self._offsets = mapped_array(folder / OFFSETS, OFFSET, (count,))
        self._text = mapped_array(self.path, np.dtype(np.uint8))  # a file that is replaced meanwhile is still read

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, position: int) -> Entry:
        start = int(self._offsets[position])
        end = int(self._offsets[position + 1]) if position + 1 < len(self) else len(self._text)
        try:
            return Entry.from_line(self._text[start:end].tobytes().decode(*ENCODING))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(self.path, f"entry {position} cannot be read") from error


def mapped_array(path: Path, kind: np.dtype, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """What a file holds, read where it is looked at; a plain array, whose elements are looked up faster."""
    return np.memmap(path, kind, "r", shape=shape).view(np.ndarray)


def damaged(path: Path, why: str) -> DataError:
    """The error of an index file that is not what was written."""
    return DataError(f"{path}: damaged, {why}; copy the index again, or make it again with `vladapt index`")
