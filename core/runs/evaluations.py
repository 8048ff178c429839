"""What `eval` writes beside a run, and which of the images it scores were in the fit."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contracts.items import Item
from ..data.verify import FileHashes, content_key
from ..errors import DataError
from ..runtime.files import write_whole
from .folder import plain

EVALUATIONS = "evaluations"
METRICS = "metrics.json"
LIMITS = frozenset({"max_pixels"})
"""Parts of `Item.decode` that say nothing of what an image shows."""
MOST_DIGESTS = 200_000
"""Images of a fit that its run remembers."""
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
        raise DataError.unwritable(folder, error) from error


def image_digest(item: Item, hashes: FileHashes) -> str:
    """16 hex digits of what an image shows, wherever it lies, whatever it is called and however large it may be.

    A row of a file counts by its content, not by its place.

    Raises:
        DataError: its file cannot be read.
    """
    if digest := item.decode.get("digest"):
        return str(digest)[:DIGITS]
    shown = {key: value for key, value in item.decode.items() if key not in LIMITS}
    return content_key(item.with_(decode=shown), hashes)[:DIGITS]


def digests_of(items: Iterable[Item]) -> list[str]:
    """Of each item its digest; "" where it is no file that can be read."""
    hashes = FileHashes()

    def digest(item: Item) -> str:
        try:
            return image_digest(item, hashes)
        except DataError:
            return ""

    return [digest(item) for item in items]


def kept_digests(parts: Mapping[str, Sequence[Any]], digests: Callable[[Any], list[str]]) -> dict[str, Any]:
    """What run.json keeps of the images of a fit: their digests by what they did there ("train", "val"), or their
    number alone where they are too many.

    Args:
        parts: what each part holds.
        digests: a part -> digests of its images.
    """
    count = sum(map(len, parts.values()))
    return {"too_many": count} if count > MOST_DIGESTS else {name: digests(part) for name, part in parts.items()}


def in_the_fit(info: Mapping[str, Any], digests: Callable[[], Sequence[str]]) -> dict[str, Any]:
    """How many images of an evaluation show what an image of the fit showed.

    Args:
        info: run.json.
        digests: makes those of the images that are scored; called where the run says what was in its fit.

    Returns:
        "in_fit": their number, or None where the run does not say; "in_fit_words": the sentence on it, which an
        evaluation begins with.
    """
    known = info.get("digests")
    if info.get("published"):
        why = "it was published without a record of its images"
    elif not isinstance(known, Mapping):
        why = "the run was made by an older version"
    elif "too_many" in known:
        why = f"it had {known['too_many']:,} images, and a run remembers at most {MOST_DIGESTS:,}"
    elif any(digest == "" for side in known.values() for digest in side):
        why = "some of its images were not files"
    else:
        of_fit, scored = {digest for side in known.values() for digest in side}, digests()
        count = sum(digest in of_fit for digest in scored)
        return {"in_fit": count, "in_fit_words": _words(count, len(scored), scored.count(""))}
    return {"in_fit": None, "in_fit_words": f"Whether some of these images were in the fit is not known: {why}."}


def _words(count: int, images: int, unknown: int) -> str:
    were = "was" if count == 1 else "were"
    text = f"{count or 'None'} of the {images} images {were} in the fit."
    text += " The scores are too high, because the model learned from them." if count else ""
    return text if not unknown else f"{text} {unknown} of them are not files, so they cannot be compared."
