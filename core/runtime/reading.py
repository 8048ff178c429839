"""Files that others made, read without trust: regular files only, of a bounded size, as text, JSON or YAML.

A device or a pipe would be read without end, a JSON file may nest without end, a YAML file may stand for a billion
values in ten lines: each is refused in one line before it costs anything. JSON that others read is made here too.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import re
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError, shortened

CHECK = "check the path and its permissions"
MOST_BYTES = 2 << 30
"""Of a file that is read whole as text."""
CHUNK_BYTES = 1 << 20
MOST_YAML_BYTES = 1 << 20
MOST_YAML_NODES = 200_000
"""Of the values that a YAML file stands for, those counted anew that are named again."""
MOST_DIGITS = 40
"""Of a whole number."""
LONGEST_LINE = 64 << 20
"""Characters of one line of a file that is read line by line."""
SETTLED_NS = 2_000_000_000
"""After which a further change of a file shows in its times on every file system: FAT counts in two seconds."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
FIRST_HALF, SECOND_HALF = r"u[dD][89abAB][\da-fA-F]{2}", r"u[dD][c-fC-F][\da-fA-F]{2}"
ESCAPES = re.compile(rf"\\(?:{FIRST_HALF}\\{SECOND_HALF}|{FIRST_HALF}|{SECOND_HALF}|.)", re.S)
HALF = re.compile(rf"\\(?:{FIRST_HALF}|{SECOND_HALF})")


def check_regular(path: Path, cure: str = CHECK) -> int:
    """The size of a file, in bytes, that may be opened: devices, pipes, sockets and folders may not.

    Raises:
        DataError: no such file, or not a regular one.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)}); {cure}") from None
    if (reason := why_not_regular(status)) is not None:
        raise DataError(f"{path}: cannot be read ({reason}); {cure}")
    return status.st_size


def why_not_regular(status: os.stat_result) -> str | None:
    """ "a pipe, not a file" and its like, None of a regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    return f"{KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file"


def open_regular(path: Path, cure: str = CHECK) -> BinaryIO:
    """The file, opened for its bytes.

    Raises:
        DataError: as `check_regular`, or it may not be read.
    """
    check_regular(path, cure)
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)}); {cure}") from None


def read_start(path: Path, size: int, cure: str = CHECK) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: no such file, not a regular one, or it may not be read.
    """
    with open_regular(path, cure) as file:
        try:
            return file.read(size)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({_reason(error)}); {cure}") from None


def version_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """Size, time of the last write, inode, and time of the last change of that, of a file: another file in its place
    has another inode, and one that is written over has another last time, which no program can set."""
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def is_settled(status: os.stat_result) -> bool:
    """Whether each later change of a file will show in its `version_of`. Not so within the step of its clock, where the
    file system has no inodes, and on Windows, whose `st_ctime` is when the file was made."""
    return os.name != "nt" and status.st_ino != 0 and time.time_ns() - status.st_ctime_ns > SETTLED_NS


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file's content, read a part at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_in(folder: Path, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """Name of a file in a folder -> its `sha256_of`; hidden ones, and what lies deeper, are left out."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path.name: sha256_of(path) for path in files if path.name not in leave_out}


def check_unchanged(folder: Path, digests: Mapping[str, str], cure: str) -> None:
    """Refuse a folder in which files are not as they were written.

    Args:
        digests: of `sha256_in`; what lies elsewhere is not looked at.
        cure: what to do, for messages.

    Raises:
        DataError: one of them is missing, cannot be read, or holds something else.
    """
    for name, digest in digests.items():
        path = folder / name
        if path.name != name:
            continue
        if not path.is_file():
            raise DataError(f"{path}: {'not a file' if path.exists() else 'missing'}; {cure}")
        try:
            unchanged = sha256_of(path) == digest
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({_reason(error)}); {CHECK}") from None
        if not unchanged:
            raise DataError(f"{path}: damaged or replaced, its sha256 is not that of what was written; {cure}")


def read_bytes(path: Path, cure: str = CHECK, most: int = MOST_BYTES) -> bytes:
    """All bytes of a file.

    Args:
        cure: what to do, for messages.
        most: a larger file is refused.

    Raises:
        DataError: no such file, not a regular one, larger than that, or it may not be read.
    """
    content = read_start(path, most + 1, cure)
    if len(content) > most:
        raise DataError(f"{path}: larger than {most:,} bytes, too large to be read at once; divide it")
    return content


def read_text(path: Path, cure: str = CHECK, most: int = MOST_BYTES, lenient: bool = False) -> str:
    """A file as text: UTF-8, with or without a byte order mark, its line ends as "\\n"; a .gz file unpacked.

    Args:
        most: bytes, packed and unpacked.
        lenient: put "\\ufffd" for what is not UTF-8.

    Raises:
        DataError: as `read_bytes`, or it is not UTF-8.
    """
    content = read_bytes(path, cure, most)
    content = _unpacked(content, path, most) if path.suffix == ".gz" else content
    text = content.decode("utf-8-sig", "replace") if lenient else _decoded(content, path, cure)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unpacked(content: bytes, path: Path, most: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); get the file again") from None
    if len(unpacked) > most:
        raise DataError(f"{path}: holds over {most:,} bytes, too large to be read whole; divide it")
    return unpacked


def _decoded(content: bytes, path: Path, cure: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        other = OTHER_ENCODINGS.get(content[:2])
        where = f"but {other}" if other else f"byte {error.start}"
        cure = "save it as UTF-8" if cure == CHECK else cure
        raise DataError(f"{path}: cannot be read (it is not UTF-8 text, {where}); {cure}") from None


def text_lines(path: Path, cure: str = CHECK) -> Iterator[str]:
    """The lines of a UTF-8 file, with or without a byte order mark, as they end in it; never the whole file at once.

    Raises:
        DataError: as `check_regular`; a line is not text, or longer than `LONGEST_LINE`.
    """
    check_regular(path, cure)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{path} line {number}: longer than {LONGEST_LINE:,} characters; divide it")
                yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{path} line {_undecodable_line(path)}: is not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)}); {cure}") from error


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not a usable path"


# JSON ---------------------------------------------------------------------------------------------------------------


def read_json(path: Path, cure: str = "") -> Any:
    """The content of a JSON file.

    Raises:
        DataError: as `read_text`, or it is not JSON.
    """
    return parse_json(path, read_text(path, cure or CHECK), cure or "correct it")


def parse_json(place: str | Path, text: str, cure: str = "correct it") -> Any:
    """JSON as Python values, as `json_values` reads it.

    Raises:
        DataError: it cannot; the message begins with `place`.
    """
    try:
        return json_values(text)
    except ValueError as error:
        raise DataError(f"{place}: not valid JSON ({error}); {cure}") from None


def json_values(text: str) -> Any:
    """JSON as Python values. Halves of characters, which no encoding can write, become "?".

    Raises:
        ValueError: not JSON, nested without end, a number of more than 40 digits, or a key that an object has twice.
    """
    if HALF.search(text):
        text = ESCAPES.sub(_whole_character, text)
    try:
        return json.loads(text, parse_int=_whole_number, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole_character(match: re.Match) -> str:
    is_half = len(match[0]) == len("\\ud800")
    return "?" if is_half else match[0]


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"the number {shortened(digits, 20)} of {len(digits)} digits")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key '{shortened(twice)}' occurs twice in one object")
    return values


# YAML ---------------------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: plain values only.

    Raises:
        DataError: as `read_text`; not YAML, a tag that would build an object, or names (`*x`) that stand for more than
            `MOST_YAML_NODES` values, or for themselves.
    """
    import yaml

    text = read_text(path, most=MOST_YAML_BYTES)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _count_nodes(node, {})
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise DataError(f"{path}: cannot be read (nested too deep); correct it") from None
    except Exception as error:  # values that a tag promises and that are none make the parser raise nearly anything
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        raise DataError(f"{path}: cannot be read ({reason}); correct it") from None


def _count_nodes(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for, written out.

    Raises:
        ValueError: more than `MOST_YAML_NODES`, or it holds itself.
    """
    if node is None or isinstance(node.value, str):
        if node is not None and len(node.value) > MOST_DIGITS and node.tag.endswith((":int", ":float")):
            raise ValueError(f"the number {shortened(node.value, 20)} of {len(node.value)} digits")
        return 1
    if id(node) in known:
        if known[id(node)] < 0:
            raise ValueError("a value that holds itself")
        return known[id(node)]
    known[id(node)] = -1
    parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
    count = 1
    for part in parts:
        count += _count_nodes(part, known)
        if count > MOST_YAML_NODES:
            raise ValueError(f"stands for more than {MOST_YAML_NODES:,} values; write it without *names")
    known[id(node)] = count
    return count


def json_plain(value: Any) -> Any:
    """`value` as JSON can hold it, which has neither NaN nor infinity: null stands for them."""
    if value is None or isinstance(value, (str, int)):  # most values are these, so they are told first
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_plain(inner) for key, inner in value.items()}
    if isinstance(value, Path):
        return str(value)
    if getattr(value, "ndim", None) == 0:  # a numpy or torch scalar
        return json_plain(value.item())
    if isinstance(value, Iterable):
        return [json_plain(inner) for inner in value]
    return value


def json_text(value: Any, **how: Any) -> str:
    """A value as `json_plain` JSON; whatever writes JSON for others writes it by this.

    Args:
        how: further arguments of `json.dumps`.
    """
    return json.dumps(json_plain(value), **{"ensure_ascii": False, "allow_nan": False, **how})
