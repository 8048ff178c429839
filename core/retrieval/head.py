"""The head of an index, `index.json`: what it is of, and which segments it consists of. It is replaced as a whole, so
that whoever opens the index sees it before a change or after it.

A folder of before (format 1) is an index of one segment, whose files stand beside the head.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ... import __version__
from ..contracts.run_info import BackboneInfo, JsonObject
from ..errors import DataError
from ..runtime.files import replacing, sync_folder
from ..runtime.reading import json_text
from .entries import ENCODING, damaged
from .kinds import KINDS, QUANTISED

HEAD, FORMAT = "index.json", 2
SEGMENTS, WORK = "segments", "work"
"""Folders of an index: of its segments, and of the tasks that write segments."""
DIGEST = "digest"
MOST_LISTED = 1000
"""Paths of which an index is made, and images that could not be read, that the head lists; it counts all."""
CHUNK_BYTES, BEGINNING = 1 << 22, 4096
KEYS = {"kind": str, "dims": int, "entries": int, "backbone": dict, "holds": str, "segments": list}
"""What a head cannot do without, and of which kind it is."""
NAME = re.compile(r"[0-9a-f]{1,64}|")
FILE = re.compile(r"[a-z0-9][a-z0-9.-]{0,80}")


@dataclass(frozen=True, eq=False)
class IndexInfo(JsonObject):
    """What index.json holds.

    Attributes:
        kind, dims, entries: how it is searched, the width of its rows, and how many are not deleted.
        holds: "images" or "texts".
        segments: their records; of one that is searched by codes also the shared quantiser's.
        about: what is known of the entries -> its values where they are few, else None.
        reading: how its images are read again.
        made_of: the first of the paths that it was made of.
        digest: of all the rest.
    """

    kind: str = ""
    dims: int = 0
    entries: int = 0
    holds: str = ""
    segments: Sequence[Mapping[str, Any]] = ()
    quantiser: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    made_of: Sequence[str] = ()
    digest: str = ""

    @cached_property
    def backbone(self) -> BackboneInfo:
        return BackboneInfo.from_json(self.json["backbone"])


def read_head(path: Path) -> IndexInfo:
    """What the head of an index says; of one of format 1 as if it were of format 2.

    Raises:
        DataError: no index there, of another format, or damaged.
    """
    file = path / HEAD
    if not path.exists():
        raise DataError(f"{path}: no such index; give a folder that `vladapt index` wrote")
    if not file.is_file():
        raise DataError(f"{path}: no {HEAD} there; give a folder that `vladapt index` wrote")
    try:
        info = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise damaged(file, "not readable as JSON") from error
    if not isinstance(info, dict):
        raise damaged(file, "holds no JSON object")
    if info.get("format") not in (1, FORMAT):
        raise DataError(
            f"{file}: of index format {info.get('format')} (vladapt {info.get('vladapt')}), vladapt {__version__} "
            f"reads formats 1 and {FORMAT}; use that version, or make the index again"
        )
    if info["format"] == 1:
        info |= {"segments": [{"name": "", "entries": info.get("entries"), "files": info.get("files")}]}
    wrong = [key for key, kind in KEYS.items() if not isinstance(info.get(key), kind)]
    checks = {
        "kind": lambda kind: kind in KINDS,
        "entries": lambda count: count > 0,
        "segments": lambda all: bool(all) and _are_segments(all),
    }
    wrong = wrong or [key for key, check in checks.items() if not check(info[key])]
    if not wrong and info["kind"] in QUANTISED and not _is_file(info.get("quantiser")):
        wrong = ["quantiser"]
    if wrong:
        name = "files" if info["format"] == 1 and wrong[0] == "segments" else wrong[0]
        raise damaged(file, f"'{name}' is not usable")
    if info["format"] == FORMAT and info.get(DIGEST) != head_digest(info):
        raise damaged(file, "not what was written")
    return IndexInfo.from_json(info)


def write_head(folder: Path, info: Mapping[str, Any]) -> None:
    """Put a head in place of the one that was there.

    Args:
        info: all that it says, but for the format, the version and the digest. Of what grows with the index only the
            first are listed.

    Raises:
        DataError: it cannot be written.
    """
    info = {name: value for name, value in info.items() if name not in (DIGEST, "files")}
    info |= {"format": FORMAT, "vladapt": __version__}
    for name in ("made_of", "skipped"):
        if len(listed := info.get(name) or ()) > MOST_LISTED:
            info[name], info[f"all_{name}"] = listed[:MOST_LISTED], info.get(f"all_{name}") or len(listed)
    info = json.loads(json_text(info))
    text = json_text({**info, DIGEST: head_digest(info)}, indent=2)
    with replacing(folder / HEAD) as partial:
        partial.write_bytes((text + "\n").encode(*ENCODING))
        synced(partial)


def head_digest(info: Mapping[str, Any]) -> str:
    """SHA-256 of what a head says, but for the digest itself."""
    rest = {name: value for name, value in info.items() if name != DIGEST}
    return hashlib.sha256(json_text(rest, sort_keys=True).encode(*ENCODING)).hexdigest()


def file_facts(path: Path) -> dict[str, int]:
    """{"bytes", "crc32", "beginning"} of a file, by which damage is found out: "beginning" is of its first bytes alone,
    which are checked whenever it is opened."""
    crc = size = beginning = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            beginning = beginning if size else zlib.crc32(chunk[:BEGINNING])
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"bytes": size, "crc32": crc, "beginning": beginning}


def check_file(path: Path, facts: Mapping[str, int], whole: bool = False) -> None:
    """Check a file against what was written: its size and its first bytes, or all of it.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        if path.stat().st_size != facts.get("bytes"):
            raise damaged(path, "not what was written")
        if whole:
            now = file_facts(path)
            right = all(now[name] == facts[name] for name in now if name in facts)
        elif "beginning" in facts:
            with path.open("rb") as file:
                right = zlib.crc32(file.read(BEGINNING)) == facts["beginning"]
        else:
            right = True
    except FileNotFoundError:
        raise DataError(f"{path}: missing; copy the whole folder, or make the index again") from None
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error
    if not right:
        raise damaged(path, "not what was written")


def synced(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    if path.is_dir():
        return sync_folder(path)
    with path.open("rb+") as handle:
        return os.fsync(handle.fileno())


def _are_segments(segments: list[Any]) -> bool:
    return all(
        isinstance(each, dict)
        and isinstance(each.get("name"), str)
        and NAME.fullmatch(each["name"]) is not None
        and isinstance(each.get("entries"), int)
        and each["entries"] > 0
        and isinstance(each.get("files"), dict)
        and all(FILE.fullmatch(name) and isinstance(facts, dict) for name, facts in each["files"].items())
        and (each.get("live") is None or _is_file(each["live"]))
        for each in segments
    )


def _is_file(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("file"), str) and bool(FILE.fullmatch(record["file"]))
