"""Finding unreadable images before anything is trained: each sample is decoded once, and the verdict remembered."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, wraps
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..contracts.items import Decoded, DomainData, Item
from ..contracts.options import TOLERATED
from ..errors import REASON_CHARACTERS, CacheError, DataError, LimitError, no_memory, one_line
from ..runtime.files import cache_refused
from ..runtime.process import collecting_seldom
from ..runtime.reading import version_of
from .file_hashes import FileHashes
from .images import IMAGE, reduced_image
from .near_copies import NEIGHBOURS_UP_TO
from .thumbnails import GREY_SIDE, Thumbnails, thumbnail

PART_OF_FILE = re.compile(r"#(t=)?\d[\d.,_-]*$")
"""End of the id of a sample that is one of several of its file: a slice, a window, some seconds."""
CHUNK_BYTES = 1 << 20
AT_ONCE = 2048
LIMITS = frozenset({"max_pixels"})
"""Parts of `Item.decode` that say nothing of what an image shows."""
STRETCH = ("start", "end")
"""Keys of `Item.decode`: the seconds of its file that a sample is."""
DIGEST_DIGITS = 16
"""Of a digest: enough to tell apart more images than anyone has."""


def drop_unreadable(
    data: DomainData,
    hashes: FileHashes,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DomainData:
    """The set without samples that cannot be decoded; those are added to `skipped` with the reason.

    Of the others thumbnails are made meanwhile, by which `assign_splits` tells near copies. In a set too large to be
    checked whole, images are decoded for these alone, at a reduced size where their format allows.

    Raises:
        DataError: as `check_tolerated`, or the cache cannot be written.
    """
    thumbnails, threads = Thumbnails(hashes.root), workers or os.cpu_count() or 1
    if len(data.items) <= DomainData.VERIFIED_UP_TO:
        reasons = _Verdicts(hashes, thumbnails).of(data, threads, progress)
        bad = [(str(item.id), reason) for item, reason in zip(data.items, reasons) if reason]
        good = [item for item, reason in zip(data.items, reasons) if not reason]
        data = replace(data, items=good, skipped=[*data.skipped, *bad], thumbnails=thumbnails)
    elif len(data.items) <= NEIGHBOURS_UP_TO or find_spec("faiss") is not None:
        make_thumbnails(data, hashes, thumbnails, threads, progress)
        data = replace(data, thumbnails=thumbnails)
    if len(data.items) > NEIGHBOURS_UP_TO:
        how = "told by perceptual hashes, which mirrored images and such with cut edges do not share"
        lacking = "not looked for: that needs faiss, which is not installed"
        how = lacking if data.thumbnails is None else how
        note = f"Near copies among more than {NEIGHBOURS_UP_TO:,} images are {how}."
        data = replace(data, notes=[*data.notes, note])
    check_tolerated(data)
    return data


def check_tolerated(data: DomainData, further: Sequence[tuple[str, str]] = ()) -> None:
    """Stop if too many files of a set cannot be read. One that can be read in part counts in part.

    Args:
        further: (id, reason) of what was left out besides `data.skipped`.

    Raises:
        DataError: as `check_skipped`.
    """
    if not (skipped := dict([*data.skipped, *further])):
        return
    file_of = {name: PART_OF_FILE.sub("", name) for name in (*skipped, *(item.id for item in data.items))}
    if len(set(file_of.values())) == 1:  # of a single file its samples count
        file_of = {name: name for name in file_of}
    samples, damaged = Counter(file_of.values()), Counter(file_of[name] for name in skipped)
    lost = sum(damaged[file] / samples[file] for file in damaged)
    first = next(iter(skipped.items()))
    _check(first, len(damaged), len(samples), data.tolerate, lost, "clips" if data.kind == "clips" else "images")


def check_skipped(skipped: Sequence[tuple[str, str]], total: int, tolerate: float = TOLERATED) -> None:
    """Stop if too many of `total` samples cannot be read. One may always be, unless none is tolerated or left.

    Args:
        skipped: (name, reason) of those that cannot.
        tolerate: share of them that may.

    Raises:
        DataError: more cannot; the message names the first of them.
    """
    if skipped:
        _check(skipped[0], len(skipped), total, tolerate, len(skipped))


def _check(first: tuple[str, str], count: int, total: int, tolerate: float, lost: float, what: str = "images") -> None:
    if lost < total and (lost <= tolerate * total or (count == 1 and tolerate > 0)):
        return
    more, cure = (f", more than {100 * tolerate:g}%", ", or raise --tolerate") if lost > tolerate * total else ("", "")
    name, reason = first
    message = (
        f"{count} of {total} {what} cannot be read{more}; the first is {name} ({reason.removeprefix(f'{name}: ')})"
    )
    raise DataError(f"{message}; repair or remove them{cure if lost < total else ''}")


class _Verdicts:
    """What is known of each sample's readability, by content, in one append-only file."""

    def __init__(self, hashes: FileHashes, thumbnails: Thumbnails):
        self.hashes, self.thumbnails = hashes, thumbnails
        self.file = Path(hashes.root) / "readable.jsonl"
        self.known = self._load()

    def of(self, data: DomainData, workers: int, progress) -> list[str]:
        """ "" for a readable sample, else the reason, in the order of `data.items`."""
        reasons: list[str] = []
        fresh: dict[str, str] = {}
        try:
            with ThreadPoolExecutor(workers) as pool:
                for items, contents, without in _with_contents(data.items, self.hashes, self.thumbnails, pool):
                    for key, reason in pool.map(self._judge, repeat(data), items, contents, repeat(without)):
                        reasons.append(reason)
                        if key and key not in self.known:
                            fresh[key] = reason
                        if progress:
                            progress(len(reasons), len(data.items))
        finally:  # a stopped one is not to look at these again
            self.thumbnails.flush()
            self._append(fresh)
        return reasons

    def _judge(self, data: DomainData, item: Item, content: str | DataError, without: set[str]) -> tuple[str, str]:
        if isinstance(content, DataError):
            return "", one_line(content)
        key = hashlib.sha256(f"{content}{item.source.suffix}".encode()).hexdigest()
        reason = self.known.get(key)
        if reason or (reason == "" and content not in without):
            return key, reason
        pixels, reason, lasts = _decoded(data, item)
        if pixels is not None and content in without:
            self.thumbnails.add(content, thumbnail(pixels))
        return (key if lasts else ""), reason

    def _load(self) -> dict[str, str]:
        known: dict[str, str] = {}
        if self.file.is_file():
            for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    key, reason = json.loads(line)
                    known[str(key)] = str(reason)
                except (ValueError, TypeError):
                    continue  # a line torn by a crash: that sample is judged again
        return known

    def _append(self, fresh: dict[str, str]) -> None:
        if not fresh:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as f:
                f.write("".join("\n" + json.dumps([key, reason]) for key, reason in fresh.items()))
        except OSError as error:
            raise cache_refused(self.file, error) from error


def make_thumbnails(
    data: DomainData, hashes: FileHashes, thumbnails: Thumbnails, workers: int, progress: Callable | None = None
) -> None:
    """Thumbnails of all that can be decoded and have none."""

    def make(item: Item, content: str) -> None:
        thumbnails.add(content, _reduced(data, item))

    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for items, contents, without in _with_contents(data.items, hashes, thumbnails, pool):
            lacking = [n for n, content in enumerate(contents) if isinstance(content, str) and content in without]
            done += len(items) - len(lacking)
            if progress:
                progress(done, len(data.items))
            for _ in pool.map(make, [items[n] for n in lacking], [contents[n] for n in lacking]):
                done += 1
                if progress:
                    progress(done, len(data.items))
    thumbnails.flush()


def _reduced(data: DomainData, item: Item) -> np.ndarray | None:
    """The thumbnail of a sample; None where it cannot be decoded, which is listed where it is used."""
    with suppress(Exception):
        if item.decode.keys() <= {"max_pixels"} and str(item.source).lower().endswith(IMAGE.suffixes):
            limit = int(item.decode.get("max_pixels", Item.MAX_PIXELS))
            return thumbnail(*reduced_image(item.source, 8 * GREY_SIDE, limit))
        return thumbnail(data.load(item))
    return None


def _with_contents(
    items: Sequence[Item], hashes: FileHashes, thumbnails: Thumbnails, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[Item], list[str | DataError], set[str]]]:
    """Some items at a time, their content keys, and those of the keys that have no thumbnail."""
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        contents = contents_of(some, hashes, pool)
        yield some, contents, thumbnails.missing({each for each in contents if isinstance(each, str)})


def _decoded(data: DomainData, item: Item) -> tuple[Decoded | None, str, bool]:
    """Pixels, or why there are none, and whether that will be so another time: a limit may be another then."""
    try:
        return data.load(item), "", True
    except CacheError:
        raise
    except Exception as error:  # a decoder of any library may raise anything on a damaged file
        text = one_line(error) if no_memory(error) else str(error).strip() or type(error).__name__
        reason = text.splitlines()[0][:REASON_CHARACTERS].removeprefix(f"{item.source}: ")  # for copies elsewhere too
        return None, reason, not (isinstance(error, LimitError) or no_memory(error))


def content_key(item: Item, hashes: FileHashes) -> str:
    """Hex sha256 of what one sample shows: its file's bytes and which part of them is meant.

    `item.decode["digest"]`, where a reader gives one (a row of an array file), replaces the file's hash.

    Raises:
        DataError: the file cannot be read.
    """
    return content_of(item.decode.get("digest") or hashes.sha256(item.source), part_text(item))


def content_of(digest: str, part: str) -> str:
    """The content key of a part, as `part_text` has it, of a file with that digest."""
    return hashlib.sha256(f"{digest}\n{part}".encode()).hexdigest()


@collecting_seldom()
def contents_of(items: Sequence[Item], hashes: FileHashes, pool: ThreadPoolExecutor) -> list[str | DataError]:
    """The content key of each item, or why it has none. Only files that are not remembered are read, in threads.

    Raises:
        CacheError: the memory cannot be written.
    """
    contents: list[str | DataError | None] = [None] * len(items)
    for n, item in enumerate(items):
        if (digest := item.decode.get("digest") or hashes.remembered(item.source)) is not None:
            contents[n] = content_of(digest, part_text(item))
    unknown = [n for n, content in enumerate(contents) if content is None]
    for n, content in zip(unknown, pool.map(_content, [items[n] for n in unknown], repeat(hashes))):
        contents[n] = content
    return contents


def _content(item: Item, hashes: FileHashes) -> str | DataError:
    try:
        return content_key(item, hashes)
    except CacheError:
        raise  # not the image's fault: the hashes cannot be stored
    except DataError as error:
        return error
    except OSError as error:
        return DataError(str(error))


def part_text(item: Item) -> str:
    """Which part of its file an item is, as canonical JSON."""
    if not item.decode:
        return "{}"
    return _as_json({key: value for key, value in item.decode.items() if key != "digest"})


_as_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


T = TypeVar("T")


def remember_by_file(size: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator of `f(path, *args)`: the `size` latest results are kept, each until its file is another version."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @lru_cache(maxsize=size)
        def cached(path: Path, version: tuple[int, ...], *args) -> T:
            return function(path, *args)

        @wraps(function)
        def wrapped(path: Path, *args) -> T:
            return cached(Path(path), version_of(os.stat(path)), *args)

        return wrapped

    return decorate


def image_digest(item: Item, hashes: FileHashes) -> str:
    """16 hex digits of what an image shows, wherever it lies, whatever it is called and however large it may be.

    A row of a file counts by its content, not by its place.

    Raises:
        DataError: its file cannot be read.
    """
    if digest := item.decode.get("digest"):
        return str(digest)[:DIGEST_DIGITS]
    shown = {key: value for key, value in item.decode.items() if key not in LIMITS}
    return content_key(item.with_(decode=shown), hashes)[:DIGEST_DIGITS]


def digest_of_set(data: DomainData) -> str:
    """Of classes, ids, splits and annotations, wherever the files lie; images are not read."""

    def plain(value: Any) -> Any:
        return value.name if isinstance(value, Path) else getattr(value, "__dict__", str(value))

    listed = [(item.id, item.split, item.target) for item in data.items]
    return hashlib.sha256(json.dumps([data.class_names, listed], default=plain).encode()).hexdigest()


def digests_of(items: Iterable[Item]) -> list[str]:
    """Of each item its digest, and of a stretch of a file "DIGEST WHOLE START END", with the digest of all of it; ""
    where it is no file that can be read."""
    hashes = FileHashes()

    def digest(item: Item) -> str:
        start, end = (item.decode.get(side) for side in STRETCH)
        try:
            own = image_digest(item, hashes)
            if start is None and end is None:
                return own
            whole = item.with_(decode={key: value for key, value in item.decode.items() if key not in STRETCH})
            return f"{own} {image_digest(whole, hashes)} {start or 0} {math.inf if end is None else end}"
        except DataError:
            return ""

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        return list(threads.map(digest, items))


def count_shown_before(digests: Iterable[str], before: Iterable[str]) -> int:
    """How many of some samples show what others showed, or a moment of it.

    Args:
        digests, before: of `digests_of`.
    """
    whole_ones, stretches = set(), defaultdict(list)
    for text in before:
        own, whole, start, end = _stretch_of(text)
        whole_ones.add(own)
        stretches[whole].append((start, end))

    def is_shown(text: str) -> bool:
        own, whole, start, end = _stretch_of(text)
        return own in whole_ones or any(
            start < other_end and other_start < end for other_start, other_end in stretches.get(whole, ())
        )

    return sum(map(is_shown, digests))


def _stretch_of(text: str) -> tuple[str, str, float, float]:
    """A digest of `digests_of` -> the sample's own, its file's, and the seconds of it from and to."""
    try:
        own, whole, start, end = text.split(" ")
        return own, whole, float(start), float(end)
    except ValueError:  # no stretch
        return text, text, 0.0, math.inf
