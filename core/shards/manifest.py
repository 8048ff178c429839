"""The inputs of a job: which sources, how many rows, in which order; small, however many rows there are.

A folder of loose images becomes a list in the place of the results, a file of Parquet sorted by path that is made by an
external merge sort: no list of all files is ever in memory.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..data.files import ItemCollector, is_folder, visible, why_passed_over
from ..data.images import IMAGE
from ..data.pairs.shard_list import counts_known, shards_at
from ..errors import ConfigError, DataError, SourceError, first_of, printable
from ..runtime.remote import failure, filesystem, is_url, printed_name
from .place import STATE, ShardPlace
from .sources import ParquetSource, Source, TarSource, parquet_source, version_of_source
from .task import ShardTask, Span, cut_tasks

SORTED_AT_ONCE = 200_000
"""Paths of a listing that are in memory at once."""
LISTED = {"path": "string", "id": "string", "size": "int64", "version": "string", "text_beside": "string"}
"""Column of a list of loose images -> type."""
WRITTEN_AT_ONCE = 10_000
"""Rows of a list that are in memory while it is written."""
IDS_A_BUCKET = 1 << 20
READERS = 16
"""Files that are looked at at once."""
IMAGES = tuple(IMAGE.suffixes)
TABLES = (".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class Manifest:
    """The inputs of a job.

    Args:
        sources: in the order in which their rows are numbered.
        skipped: (name, reason) of what was passed over while folders were listed.
    """

    sources: tuple[Source, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, paths: Sequence[str | Path], place: ShardPlace, cache: Path, suffixes: Sequence[str] = IMAGES
    ) -> Manifest:
        """What these paths and URLs hold.

        Args:
            paths: tars, Parquet files, folders of these, folders of loose images, names with braces, or single images.
            place: that the list of loose images is written to.
            cache: folder that the counts of tars are kept in.
            suffixes: of loose images.

        Raises:
            DataError: there is no such path, it holds nothing, or an id occurs twice. ConfigError: see `filesystem`.
        """
        named, loose = [], []
        for path in map(str, paths):
            shards = _shards(path)
            if shards:
                named.append(shards)
            else:
                loose.append(path)
        names = [name for shards in named for name in shards]
        labels = id_prefixes(names)
        counts: dict[str, int | None] = {}
        for shards in named:
            tars = [name for name in shards if _is(name, ".tar")]
            counts |= dict(zip(tars, counts_known(tars, cache))) if tars else {}

        def source(name: str) -> Source:
            if name in counts:
                return TarSource(name, labels[name], version_of_source(name), counts[name])
            return parquet_source(name, labels[name])

        with ThreadPoolExecutor(READERS) as threads:  # an object store takes its time for each
            sources = list(threads.map(source, names))
        skipped: list[tuple[str, str]] = []
        if loose:
            sources += _listed(loose, place, suffixes, skipped)
        manifest = cls(tuple(sources), tuple(skipped))
        if not manifest.sources or manifest.rows == 0:
            why = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
            raise DataError(
                f"{first_of([printed_name(str(p)) for p in paths], 3)}: no image in it{why}; check the path"
            )
        return manifest

    @property
    def rows(self) -> int | None:
        """Of all sources; None where one of them is not counted."""
        counts = [source.count for source in self.sources if source.count is not None]
        return sum(counts) if len(counts) == len(self.sources) else None

    @property
    def digest(self) -> str:
        """Of names, versions and counts: another one is another list of inputs."""
        hashed = hashlib.sha256()
        for source in self.sources:
            version = source.name.rpartition("/")[2] if _is_list(source) else source.version
            facts = [source.KIND, source.label, version, source.count]
            hashed.update(json.dumps(facts).encode(errors="surrogatepass"))
        return hashed.hexdigest()

    def plan(self, shard_size: int, part: tuple[int, int] = (0, 1)) -> Iterator[ShardTask]:
        """The tasks, lazily.

        Args:
            shard_size: rows of a task.
            part: (k, n): only tasks k, k + n, k + 2 n, ...
        """
        spans = (Span(source, 0, source.count) for source in self.sources)
        return islice(cut_tasks(spans, shard_size), part[0], None, part[1])

    def count_tasks(self, shard_size: int, part: tuple[int, int] = (0, 1)) -> int:
        """How many tasks the plan has."""
        total, rows = 0, 0
        for source in self.sources:
            if source.count is None:
                total, rows = total + -(-rows // shard_size) + 1, 0
            else:
                rows += source.count
        total += -(-rows // shard_size)
        return len(range(part[0], total, part[1]))

    def check_ids(self) -> None:
        """Raise the DataError of an id that occurs twice in the id columns of Parquet files; memory is bounded.

        Ids of loose images, and of tars, have names of files in them; those of tars are looked at shard by shard.
        """
        tables = [source for source in self.sources if isinstance(source, ParquetSource)]
        own = [source for source in tables if "id" in source.roles and not source.anywhere]
        if not own:
            return
        total = sum(source.count_rows() for source in own)

        def ids() -> Iterator[str]:
            for source in own:
                column = source.roles["id"]
                for values in source.values(0, source.count_rows(), [column]):
                    if values[column] is not None:
                        yield str(values[column])

        if (twice := first_repeated(ids, total)) is not None:
            raise DataError(
                f"{printed_name(own[0].name)}: the id {printable(twice)!r} occurs twice; make the ids unique"
            )


def names_shards(path: str | Path) -> bool:
    """Whether a path names tars or Parquet files, or a folder of these.

    Raises:
        DataError: it does not exist.
    """
    return bool(_shards(str(path)))


def id_prefixes(names: Sequence[str]) -> dict[str, str]:
    """What ids begin with: the name of the file, or all of its path where two files have one name.

    Raises:
        ConfigError: a file is named twice.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{printed_name(twice)}: given twice; give it once")
    last = [printable(printed_name(name).rpartition("/")[2].rsplit(".", 1)[0]) for name in names]
    several = {label for label in last if last.count(label) > 1} if len(set(last)) < len(last) else set()
    return {name: printable(printed_name(name)) if label in several else label for name, label in zip(names, last)}


def written_listing(
    place: ShardPlace, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], label: str = "list"
) -> list[Source]:
    """A list of samples, written to a place under a name made of its content.

    Args:
        rows: of `columns`, lazily; "path" and "id" among them.
        columns: column -> type, as pyarrow calls it.

    Returns:
        The list as a source, or none where there are no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({name: pa.type_for_alias(kind) for name, kind in columns.items()})
    hashed, count, rows = hashlib.sha256(), 0, iter(rows)
    with place.temporary() as partial:
        with place.reached():
            writer = pq.ParquetWriter(partial, schema)
        try:
            while some := list(islice(rows, WRITTEN_AT_ONCE)):
                for row in some:
                    hashed.update(json.dumps(row, sort_keys=True).encode(errors="surrogatepass"))
                with place.reached():
                    writer.write_table(pa.Table.from_pylist(some, schema))
                count += len(some)
        finally:
            with place.reached():
                writer.close()
        name = f"{STATE}/inputs/{hashed.hexdigest()[:32]}.list"
        place.publish(partial, name)
    return [parquet_source(place.path(name), label, anywhere=True)] if count else []


def first_repeated(ids: Callable[[], Iterator[str]], total: int) -> str | None:
    """An id that comes twice, or None; out of core: their hashes are sorted bucket by bucket in temporary files.

    Args:
        ids: gives all of them, each time it is called.
        total: how many there are.
    """
    buckets = max(1, -(-total // IDS_A_BUCKET))
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(buckets)]
        names = ids()
        while some := list(islice(names, 65_536)):
            hashes = np.frombuffer(b"".join(map(_hash, some)), "<u8")
            for number, file in enumerate(files):
                file.write(hashes[hashes % buckets == number].tobytes())
        repeated = {hashed for file in files for hashed in _twice(file)}
    if not repeated:
        return None
    seen = set()  # equal hashes may be of two ids
    for name in ids():
        if int.from_bytes(_hash(name), "little") in repeated:
            if name in seen:
                return name
            seen.add(name)
    return None


def _twice(file: IO[bytes]) -> list[int]:
    """Numbers of 8 bytes that a file has more than once; what is needed for that is gone before the next is read."""
    file.seek(0)
    values, counts = np.unique(np.frombuffer(file.read(), "<u8"), return_counts=True)
    return values[counts > 1].tolist()


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()


def _shards(path: str) -> list[str]:
    """The tars or Parquet files that a path names; none of a folder of loose images, or of an image."""
    if _is(path, ".tar") or ("{" in path and not os.path.exists(path)):
        return shards_at(path)
    if "*" in path and not os.path.exists(path):
        if names := _matching(path):
            return names
        raise DataError(f"{printed_name(path)}: no file matches; check the path")
    if _is(path, ".parquet"):
        return [path]
    if is_url(path):
        if _is_image(path):
            return []
        for suffix in (".tar", ".parquet"):
            if names := _matching(f"{path.rstrip('/')}/*{suffix}"):
                return names
        return []
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder; check the path")
    if not os.path.isdir(path):
        return []
    names = sorted(entry.name for entry in visible(Path(path)) if entry.is_file())
    for suffix in (".tar", ".parquet"):
        if own := [os.path.join(path, name) for name in names if _is(name, suffix)]:
            return own
    return []


def _matching(pattern: str) -> list[str]:
    if not is_url(pattern):
        import glob

        return sorted(glob.glob(pattern))
    fs, path = filesystem(pattern)
    try:
        names = sorted(fs.glob(path))
    except Exception as error:
        raise SourceError(str(failure(pattern, error))) from error
    return [fs.unstrip_protocol(name) for name in names]


def _is(name: str, suffix: str) -> bool:
    return name.partition("?")[0].lower().endswith(suffix) if is_url(name) else name.lower().endswith(suffix)


def _is_image(name: str) -> bool:
    return any(_is(name, suffix) for suffix in IMAGES)


def _is_list(source: Source) -> bool:
    return isinstance(source, ParquetSource) and source.anywhere


def _listed(
    paths: list[str], place: ShardPlace, suffixes: Sequence[str], skipped: list[tuple[str, str]]
) -> list[Source]:
    collector = ItemCollector()
    files = _merged(_files(paths, suffixes, collector))
    rows = (dict(zip(LISTED, file)) for file in files)
    sources = written_listing(place, rows, LISTED, "images")
    skipped += collector.skipped
    return sources


Listed = tuple[str, str, int, str, str]
"""(path, id, bytes, version, text file beside it or "") of a loose image."""


def _files(paths: list[str], suffixes: Sequence[str], collector: ItemCollector) -> Iterator[Listed]:
    """All files, in no order that matters."""
    for path in paths:
        if is_url(path):
            yield from _remote_files(path, suffixes)
        elif os.path.isdir(path):
            yield from _files_below(Path(path), suffixes, collector)
        elif path.lower().endswith(TABLES):
            raise DataError(f"{path}: a table is no image; give the folder of its images, tars or Parquet files")
        else:
            yield _local(Path(path), os.stat(path))


def _local(path: Path, status: os.stat_result) -> Listed:
    """An image on a disk; with another text beside it, it is another version."""
    version, beside = str(status.st_mtime_ns), os.path.abspath(path.with_suffix(".txt"))
    if os.path.isfile(beside):
        version += f" {version_of_source(beside)}"
    else:
        beside = ""
    return os.path.abspath(path), printable(path.as_posix()), status.st_size, version, beside


def _files_below(root: Path, suffixes: Sequence[str], collector: ItemCollector) -> Iterator[Listed]:
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            entries = os.scandir(folder)
        except OSError as error:
            collector.skip(folder, f"cannot be listed ({error.strerror})")
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                path = Path(entry.path)
                if (reason := why_passed_over(entry, path, root)) is not None:
                    collector.skip(path.as_posix(), reason)
                elif is_folder(entry):
                    waiting.append(entry.path)
                elif not entry.name.lower().endswith(tuple(suffixes)):
                    continue
                elif not _is_text(entry.path):
                    collector.skip(path.as_posix(), "its name is not UTF-8; rename it")
                else:
                    yield _local(path, entry.stat())


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remote_files(path: str, suffixes: Sequence[str]) -> Iterator[Listed]:
    fs, inner = filesystem(path)
    try:
        if _is_image(path):
            if printed_name(path) != path:
                raise ConfigError(
                    f"{printed_name(path)}: its address holds more, which may be a secret and would be listed in "
                    "--out; give a Parquet file of addresses, or the image as a file"
                )
            yield path, printed_name(path), int(fs.info(inner).get("size") or 0), version_of_source(path), ""
            return
        for _, _, files in fs.walk(inner, detail=True):
            for info in files.values():
                if info["name"].lower().endswith(tuple(suffixes)):
                    url = fs.unstrip_protocol(info["name"])
                    yield url, printable(printed_name(url)), int(info.get("size") or 0), str(info.get("ETag") or ""), ""
            fs.invalidate_cache()
    except (ConfigError, DataError):
        raise
    except Exception as error:
        raise SourceError(str(failure(path, error))) from error


def _merged(files: Iterator[tuple]) -> Iterator[tuple]:
    """Sorted by path, each path once: sorted runs in temporary files, merged."""
    with ExitStack() as stack:
        runs = []
        while some := sorted(islice(files, SORTED_AT_ONCE)):
            run = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            run.writelines(json.dumps(file) + "\n" for file in some)
            run.seek(0)
            runs.append(map(tuple, map(json.loads, run)))
        before = None
        for file in heapq.merge(*runs):
            if file[0] != before:
                yield file
            before = file[0]
