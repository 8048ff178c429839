"""File formats a reader can meet: how one is recognised, expanded into samples, and decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.domain import Decoded
from ..contracts.errors import DataError


def _one_sample(path: Path) -> list[dict[str, Any]]:
    return [{}]


def _no_group(path: Path) -> str | None:
    return None


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        name: for messages ("image", "DICOM", "NIfTI").
        suffixes: lower-case endings ("." included; several dots allowed, ".nii.gz").
        load: (file, decode) -> (H, W, 3); raises DataError with the reason where the file cannot be read.
        expand: file -> one JSON-able `decode` dict a sample (frames of a file, slices of a volume).
        group: file -> what must not straddle splits (a hashed patient id, a volume), or None.
        recognise: tells a file without a known suffix by its first bytes.
    """

    name: str
    suffixes: tuple[str, ...]
    load: Callable[[Path, dict[str, Any]], Decoded]
    expand: Callable[[Path], list[dict[str, Any]]] = _one_sample
    group: Callable[[Path], str | None] = _no_group
    recognise: Callable[[Path], bool] = lambda path: False

    def matches(self, path: Path) -> bool:
        # names that are dotted numbers (DICOM UIDs, "1.2.840.5") have no suffix but a last part
        bare = not path.suffix or path.suffix[1:].isdigit()
        return path.name.lower().endswith(self.suffixes) or (bare and self.recognise(path))


def format_of(path: Path, formats: Sequence[Format]) -> Format | None:
    """The first format that takes the file, or None."""
    return next((f for f in formats if f.matches(path)), None)


def loader(formats: Sequence[Format]) -> Callable[[Any], Decoded]:
    """The `DomainData.load` of a set whose files are of these formats."""

    def load(item) -> Decoded:
        found = format_of(Path(item.source), formats)
        if found is None:
            known = " ".join(s for f in formats for s in f.suffixes)
            raise DataError(f"{item.source}: no reader for this kind of file; known: {known}")
        return found.load(Path(item.source), dict(item.decode))

    return load
