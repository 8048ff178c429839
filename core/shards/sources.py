"""Where rows come from: WebDataset tars and Parquet files, on disks and object stores, read by ranges of rows.

A tar on a disk is counted by its headers, so that it can be cut into ranges; one by URL is a shard as it is, since
counting would move all of its bytes twice. A Parquet file says how many rows it has.
"""

from __future__ import annotations

import os
import posixpath
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Any, ClassVar

from ..data.pairs.shard_index import IMAGE_EXTENSIONS, TEXT_EXTENSIONS
from ..data.pairs.shard_reader import count_samples, samples_of
from ..errors import DataError, SourceError, printable
from ..runtime.reading import check_regular, read_start
from ..runtime.remote import (
    FIRST_WAIT_S,
    TRIES,
    MissingFile,
    RefusedFile,
    failure,
    filesystem,
    is_object_store,
    is_url,
    open_stream,
    printed_name,
    without_secrets,
)

ROWS_AT_ONCE = 64
"""Of a Parquet file that are in memory at once; they may hold images."""
LISTED_AT_ONCE = 8192
"""The same without images."""
IDS = ("id", "key", "image_id", "uid", "__key__")
BYTES = ("image", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp")
PATHS = ("path", "file_name", "file", "filename", "filepath", "image_path", "image")
BESIDE = ("text_beside",)
"""In lists that were made here: the text file beside an image."""
URLS = ("url", "image_url", "path", "image")
TEXTS = ("text", "caption", "txt")
"""Names of columns, in the order in which they are looked for."""
VERSIONS = ("ETag", "etag", "generation", "VersionId", "md5Hash", "LastModified", "mtime")
"""What object stores call a version of a file, the best first."""


@dataclass(frozen=True)
class ShardRow:
    """One sample, not yet decoded.

    Args:
        id: unique among all inputs.
        path: file or URL that holds the image, "" where `content` has it.
        content: the encoded image.
        text: a caption, or None.
        columns: what else the source says of it, for the columns that the stage reads.
        lost: why nothing can be read of it, "" where it can.
        text_lost: why its text cannot be read as it is, "" where it can.
    """

    id: str
    path: str = ""
    content: bytes | None = None
    text: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    lost: str = ""
    text_lost: str = ""

    @property
    def has_image(self) -> bool:
        return bool(self.path) or self.content is not None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            DataError: it cannot be read, or there is none. SourceError: an object store does not answer, or refuses.
        """
        if self.lost:
            raise DataError(self.lost)
        if self.content is not None:
            return self.content
        if not self.path:
            raise DataError(f"{self.id}: no image")
        if not is_url(self.path):
            check_regular(Path(self.path))
        try:
            with closing(open_stream(self.path)) as stream:
                return stream.read()
        except MissingFile as error:
            raise DataError(f"{printed_name(self.path)}: no such file") from error
        except DataError as error:
            if is_object_store(self.path):  # one that is out of reach, or refuses, does so to all images
                raise SourceError(str(error)) from error
            raise


@dataclass(frozen=True)
class Source(ABC):
    """A file of rows.

    Args:
        name: path or URL.
        label: what the ids of its rows begin with, where they do not have their own.
        version: of its content, which must be the same when it is read.
        count: of its rows; None where that is not known without reading all of it.
    """

    KIND: ClassVar[str] = ""

    name: str
    label: str
    version: str
    count: int | None

    def read(self, start: int, stop: int | None, columns: tuple[str, ...] = ()) -> Iterator[ShardRow]:
        """Rows [start, stop), or to the end; bounded memory.

        Raises:
            SourceError: it cannot be read, or has changed since it was listed.
        """
        self.check_version()
        return self._rows(start, stop, columns)

    def check_version(self) -> None:
        """Raise the SourceError of a file that has changed since it was listed."""
        if version_of_source(self.name) != self.version:
            raise SourceError(
                f"{printed_name(self.name)}: changed since it was listed; restore it, or start again with another --out"
            )

    @property
    def has_images(self) -> bool:
        return True

    def count_rows(self) -> int:
        return self.count if self.count is not None else self._counted()

    @abstractmethod
    def _rows(self, start: int, stop: int | None, columns: tuple[str, ...]) -> Iterator[ShardRow]: ...

    def _counted(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class TarSource(Source):
    """A tar of samples in the layout of WebDataset: members that share a name up to the first dot."""

    KIND: ClassVar[str] = "tar"

    def _rows(self, start: int, stop: int | None, columns: tuple[str, ...]) -> Iterator[ShardRow]:
        number = start
        with closing(samples_of(self.name, start)) as samples:
            for sample in samples:
                if stop is not None and number >= stop:
                    return
                members, key = sample.members, sample.name.partition(":")[2]
                image = next((content for name, content in members.items() if name in IMAGE_EXTENSIONS), None)
                bytes_ = next((content for name, content in members.items() if name in TEXT_EXTENSIONS), None)
                text, text_lost = (None, "") if bytes_ is None else _decoded(bytes_)
                yield ShardRow(
                    f"{self.label}:{key}",
                    content=image or None,
                    text=text,
                    columns={name: members[name].decode("utf-8", "replace") for name in columns if name in members},
                    lost=sample.lost or ("" if image or bytes_ else f"{self.label}:{key}: no image and no text"),
                    text_lost=text_lost,
                )
                number += 1
                if sample.lost and stop is None:  # of a tar that is cut short nobody knows how many follow
                    return

    def _counted(self) -> int:
        return count_samples(self.name)


@dataclass(frozen=True)
class ParquetSource(Source):
    """A Parquet file whose rows are images: bytes, paths below its folder, or URLs; and texts.

    Args:
        roles: "id", "bytes", "path", "url", "text" and "beside" -> name of the column, of those that there are.
        anywhere: whether paths may lead anywhere: in lists that were made here.
    """

    KIND: ClassVar[str] = "parquet"

    roles: Mapping[str, str] = field(default_factory=dict)
    anywhere: bool = False

    def _rows(self, start: int, stop: int | None, columns: tuple[str, ...]) -> Iterator[ShardRow]:
        stop = self.count_rows() if stop is None else stop
        names = sorted({*self.roles.values(), *columns} & set(self.columns()))
        for number, values in enumerate(self.values(start, stop, names), start):
            yield self._row(number, values, columns)

    def listed(self, wanted: Callable[[list[str]], Iterable[bool]]) -> Iterator[tuple[int, ShardRow]]:
        """(number, row) of some rows, without the bytes of their images, which are not read.

        Args:
            wanted: some ids -> which of them.

        Raises:
            SourceError: as of `read`.
        """
        self.check_version()
        names, count = sorted({name for role, name in self.roles.items() if role != "bytes"}), self.count_rows()
        rows = enumerate(self.values(0, count, names) if names else repeat({}, count))
        while block := list(islice(rows, LISTED_AT_ONCE)):
            own = [values.get(self.roles.get("id", "")) for _, values in block]
            ids = [
                self._row(*each, ()).id if id_ is None else printable(str(id_))  # the others need not be resolved
                for each, id_ in zip(block, own)
            ]
            for each, chosen in zip(block, wanted(ids)):
                if chosen:
                    yield each[0], self._row(*each, ())

    @property
    def has_images(self) -> bool:
        return bool({"bytes", "path", "url"} & set(self.roles))

    def columns(self) -> list[str]:
        return self.schema().names

    def schema(self) -> Any:
        """Of the file, as Arrow has it."""
        with closing(OpenedParquet(self.name)) as opened:
            return opened.file.schema_arrow

    def values(self, start: int, stop: int, names: list[str]) -> Iterator[dict[str, Any]]:
        """Some columns of rows [start, stop); read again from where a connection broke."""
        tried = 0
        while start < stop:
            try:
                with closing(OpenedParquet(self.name)) as opened:
                    for values in opened.values(start, stop, names):
                        yield values
                        start, tried = start + 1, 0
                    return
            except GeneratorExit:
                raise
            except Exception as error:
                tried += 1
                if not is_url(self.name) or tried == TRIES:
                    raise _source_error(self.name, error) from error
                time.sleep(FIRST_WAIT_S * 2 ** (tried - 1))

    def _row(self, number: int, values: Mapping[str, Any], columns: tuple[str, ...]) -> ShardRow:
        own: dict[str, Any] = {role: values.get(column) for role, column in self.roles.items()}
        content, path, lost = own.get("bytes"), own.get("url") or own.get("path") or "", ""
        if isinstance(content, dict):  # as the datasets library writes images
            content, path = content["bytes"], content.get("path") or ""
        id_ = own.get("id")
        if id_ is None:
            named = path and content is None and printed_name(str(path)) == str(path)  # no part of a URL is left out
            id_ = f"{self.label}:{number}" if not named else str(path) if self.anywhere else f"{self.label}:{path}"
        id_ = printable(str(id_))
        if content is None and path:
            try:
                path = self._resolved(str(path))
            except DataError as error:
                path, lost = "", str(error)
        text, text_lost = own.get("text"), ""
        if text is None and own.get("beside"):
            text, text_lost = _text_beside(str(own["beside"]))
        if content is None and not path and text is None and not lost:
            lost = f"{id_}: no image and no text"
        rest = {name: values[name] for name in columns if name in values}
        return ShardRow(id_, "" if content is not None else path, content, text, rest, lost, text_lost)

    def _resolved(self, path: str) -> str:
        if self.anywhere or is_url(path):
            return path
        if is_url(self.name):
            below = posixpath.normpath(path)
            joined = f"{self.name.partition('?')[0].rpartition('/')[0]}/{below}"
            inside = not below.startswith(("/", ".."))
        else:
            folder = os.path.realpath(os.path.dirname(self.name) or ".")
            joined = os.path.realpath(os.path.join(folder, path))
            inside = joined.startswith(folder.rstrip(os.sep) + os.sep)
        if not inside:
            raise DataError(
                f"{printable(path)}: leaves the folder of {printed_name(self.name)}; put the list above its files"
            )
        return joined


class OpenedParquet:
    """A Parquet file by path or URL."""

    def __init__(self, name: str):
        import pyarrow.parquet as pq

        self.stream = _random_access(name)
        try:
            self.file = pq.ParquetFile(self.stream, pre_buffer=False)  # which would hold all that was read
        except BaseException:
            self.stream.close()
            raise

    def values(self, start: int, stop: int, names: list[str]) -> Iterator[dict[str, Any]]:
        first, origin = 0, 0
        groups: list[int] = []
        for group in range(self.file.num_row_groups):
            rows = self.file.metadata.row_group(group).num_rows
            if first + rows > start and first < stop:
                origin = origin if groups else first
                groups.append(group)
            first += rows
        if not groups:
            return
        number = origin
        for batch in self.file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=names, use_threads=False):
            low, high = max(start - number, 0), min(stop - number, len(batch))
            if low < high:
                yield from batch.slice(low, high - low).to_pylist()
            number += len(batch)
            if number >= stop:
                return

    def close(self) -> None:
        self.file.close()
        self.stream.close()


def parquet_source(name: str, label: str, anywhere: bool = False) -> ParquetSource:
    """A Parquet file, whose footer is read.

    Raises:
        SourceError: it cannot be read, or none of its columns is an image or a text.
    """
    version = version_of_source(name)
    try:
        with closing(OpenedParquet(name)) as opened:
            schema, rows = opened.file.schema_arrow, opened.file.metadata.num_rows
    except Exception as error:
        raise _source_error(name, error) from error
    roles = _roles(schema)
    if not anywhere:
        roles.pop("beside", None)
    if not roles.keys() - {"id"}:
        named = ", ".join(schema.names[:8])
        raise SourceError(
            f"{printed_name(name)}: no column is an image or a text ({named}); name one path, url, image (bytes) or "
            "text"
        )
    return ParquetSource(name, label, version, rows, roles, anywhere)


def version_of_source(name: str) -> str:
    """What changes when the content of a file does: size and time on a disk, size and ETag or version elsewhere.

    Raises:
        SourceError: it is not there, or cannot be looked at.
    """
    try:
        if not is_url(name):
            status = os.stat(name)
            return f"{status.st_size}-{status.st_mtime_ns}"
        fs, path = filesystem(name)
        fs.invalidate_cache()
        info = fs.info(path)
    except FileNotFoundError as error:
        raise SourceError(f"{printed_name(name)}: no such file; restore it, or leave it out") from error
    except DataError:
        raise
    except Exception as error:
        raise _source_error(name, error) from error
    return f"{info.get('size')}-{next((str(info[key]) for key in VERSIONS if info.get(key)), '')}"


def _roles(schema: Any) -> dict[str, str]:
    import pyarrow.types as types

    def text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    def binary(kind: Any) -> bool:
        packed = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        return types.is_binary(kind) or types.is_large_binary(kind) or packed

    def first(names: tuple[str, ...], fits: Callable[[Any], bool]) -> str | None:
        return next((name for name in names if name in schema.names and fits(schema.field(name).type)), None)

    wanted = {
        "id": first(IDS, lambda kind: text(kind) or types.is_integer(kind)),
        "bytes": first(BYTES, binary),
        "text": first(TEXTS, text),
        "beside": first(BESIDE, text),
    }
    if wanted["bytes"] is None:
        wanted["path"] = first(PATHS, text)
        if wanted["path"] is None:
            wanted["url"] = first(URLS, text)
    return {role: name for role, name in wanted.items() if name is not None}


def _decoded(text: bytes) -> tuple[str, str]:
    """A text, and why it is not as it was stored."""
    try:
        return text.decode().strip(), ""
    except UnicodeDecodeError:
        reason = "its text is in no known encoding; store it as UTF-8, or leave it out"
        return text.decode("utf-8", "replace").strip(), reason


def _text_beside(file: str) -> tuple[str | None, str]:
    """The captions of a file, a line each, and why they cannot be read."""
    from ..data.pairs.text_beside import captions_beside

    captions, reason = captions_beside(Path(file))
    empty = not captions and reason.endswith("is empty")
    return "\n".join(captions) if captions else None, "" if empty else reason


def _random_access(name: str) -> Any:
    if not is_url(name):
        check_regular(Path(name))
        read_start(Path(name), 1)
        return open(name, "rb")
    fs, path = filesystem(name)
    return fs.open(path, "rb", cache_type="readahead", block_size=1 << 20)


def _source_error(name: str, error: Exception) -> SourceError:
    if isinstance(error, (SourceError, MissingFile, RefusedFile)):
        return error if isinstance(error, SourceError) else SourceError(str(error))
    if is_url(name) and not type(error).__module__.startswith("pyarrow"):
        return SourceError(str(failure(name, error)))
    reason = without_secrets(" ".join(str(error).split()))
    return SourceError(f"{printed_name(name)}: not a readable Parquet file ({reason}); replace it")
