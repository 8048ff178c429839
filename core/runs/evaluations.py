"""What `eval` writes beside a run, and which of the images it scores were in the fit."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contracts.domain import Item
from ..data.verify import FileHashes, content_key
from ..runtime.files import refused, write_whole
from .folder import plain

EVALUATIONS = "evaluations"
METRICS = "metrics.json"
DIGITS = 16
"""Of a digest: enough to tell apart more images than anyone has."""


def evaluation_folder(run: Path, source: str) -> Path:
    """A new name for an evaluation inside a run folder: `evaluations/<time>-<source>`.

    Args:
        source: the data, or the split of the run's own.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem) or "data"
    parent, name = run / EVALUATIONS, f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{safe}"
    taken = len(list(parent.glob(f"{name}*"))) if parent.is_dir() else 0
    return parent / (f"{name}-{taken + 1}" if taken else name)


def write_metrics(folder: Path, result: Mapping[str, Any]) -> Path:
    """The result of an evaluation as metrics.json; makes the folder.

    Raises:
        DataError: nothing can be written there.
    """
    make_folder(folder)
    write_whole(folder / METRICS, json.dumps(plain(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return folder / METRICS


def make_folder(folder: Path) -> None:
    """A folder and its parents.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error


def image_digest(item: Item, hashes: FileHashes) -> str:
    """16 hex digits of what an image shows, wherever it lies and whatever it is called.

    A row of a file counts by its content, not by its place.

    Raises:
        DataError: its file cannot be read.
    """
    return str(item.decode.get("digest") or content_key(item, hashes))[:DIGITS]


def digests_of(items: Iterable[Item]) -> list[str]:
    """Of each item its digest."""
    hashes = FileHashes()
    return [image_digest(item, hashes) for item in items]


def in_the_fit(info: Mapping[str, Any], items: Sequence[Item]) -> int | None:
    """How many items show what an image of the fit showed; None where an older run does not say.

    Args:
        info: run.json.
    """
    known = info.get("digests")
    if not isinstance(known, Mapping):
        return None
    of_fit = {digest for side in known.values() for digest in side}
    return sum(digest in of_fit for digest in digests_of(items))


def in_the_fit_words(count: int | None, images: int) -> str:
    """The sentence on it, which an evaluation begins with."""
    if count is None:
        return "Whether images were in the fit is not known: the run was made by an older version."
    were = "was" if count == 1 else "were"
    text = f"{count or 'None'} of the {images} images {were} in the fit."
    return text if not count else f"{text} The scores are too good by what it learned of them."
