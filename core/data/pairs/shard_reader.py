"""Samples of WebDataset shards read in a row, by the webdataset library, from a disk or through fsspec.

That library decodes nothing here, since its decoders unpickle: what comes out are the bytes of images and texts, and
other members are passed over unread.

The order of samples is a function of (seed, epoch) and of how many streams read them. An epoch puts the shards in a new
order and lays their samples end to end. Each stream reads a stretch of its own, equally long, from front to back, in
blocks that are shuffled in memory. So every stream has equally many samples, none is read twice in an epoch, and what
comes at any place is known without reading what is before it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import tarfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO

import numpy as np
from PIL import Image

from ...contracts.items import Decoded, Item
from ...errors import ConfigError, DataError, printable, shortened
from ...runtime.remote import check_plain, open_stream, printed_name
from ..images import decode_picture
from .pair_set import Pair
from .record_fields import BrokenRow
from .shard_index import IMAGE_EXTENSIONS, LONGEST_TEXT, TEXT_EXTENSIONS, SampleTexts, texts_of_sample
from .tar_members import why_left_out

FIRST_BLOCK = 64
"""Samples of the first block of a stream, so that a training need not wait for a whole one."""


@dataclass(frozen=True)
class ShardRun:
    """Samples that lie one after the other in a shard.

    Args:
        shard: number of the shard.
        first: the first of them, counted in the shard.
        count: how many.
    """

    shard: int
    first: int
    count: int


@dataclass(frozen=True)
class ShardOrder:
    """The order of all epochs.

    Args:
        firsts: (S,) int64, the first sample of each shard that is used.
        counts: (S,) int64, how many of it are used from there.
        seed: fixes every epoch.
        block: samples that are shuffled among themselves.
    """

    firsts: np.ndarray
    counts: np.ndarray
    seed: int
    block: int

    def __len__(self) -> int:
        return int(self.counts.sum())

    def blocks(self, epoch: int, begin: int, end: int, start: int = 0) -> Iterator[tuple[list[ShardRun], np.ndarray]]:
        """A stream's stretch, block by block: what is to be read, and in which order (n,) it is used.

        Args:
            epoch: from 0.
            begin, end: the stretch of the epoch's samples.
            start: how many of the stretch are passed over; of the first block only what comes later is in the order.
        """
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        ends = self.counts[shards].cumsum()
        place = begin
        while place < end:
            size = min(min(FIRST_BLOCK, self.block) if place == begin else self.block, end - place)
            done = max(0, begin + start - place)
            if done < size:
                order = np.random.default_rng([self.seed, epoch, place]).permutation(size)
                yield list(self._runs(shards, ends, place, size)), order[done:]
            place += size

    def _runs(self, shards: np.ndarray, ends: np.ndarray, place: int, size: int) -> Iterator[ShardRun]:
        stop = place + size
        at = int(ends.searchsorted(place, side="right"))
        while place < stop:
            shard, end = int(shards[at]), int(ends[at])
            inside = place - (end - int(self.counts[shard]))
            count = min(stop, end) - place
            if count:
                yield ShardRun(shard, int(self.firsts[shard]) + inside, count)
            place, at = place + count, at + 1


TEXTS = frozenset({*TEXT_EXTENSIONS, "json", "cls"})
"""Extensions of the texts that are read."""


@dataclass(frozen=True)
class ShardSample:
    """The members of a sample, as bytes by extension.

    Args:
        name: "SHARD:KEY", printable.
        members: extension in lower case -> content.
        lost: why there are none, where there should be some.
    """

    name: str
    members: Mapping[str, bytes] = field(default_factory=dict)
    lost: str = ""

    @property
    def key(self) -> str:
        """What the names of its members share."""
        return self.name.partition(":")[2]

    @property
    def image(self) -> bytes | None:
        """The encoded image; of several the first."""
        return next((content for name, content in self.members.items() if name in IMAGE_EXTENSIONS), None)

    def texts(self, columns: Mapping[str, str]) -> SampleTexts:
        """What its texts say.

        Args:
            columns: keys of the `.json` that are kept in addition to the usual ones -> what they hold.

        Raises:
            DataError: it was lost, lacks an image or a caption, or a text cannot be read.
        """
        if self.lost:
            raise DataError(self.lost)
        image = self.image
        contents = {name: content for name, content in self.members.items() if name not in IMAGE_EXTENSIONS}
        try:
            return texts_of_sample(None if image is None else len(image), contents, self.name, columns)
        except BrokenRow as error:
            raise DataError(f"{self.name}: {error}") from error


@dataclass(frozen=True, eq=False)
class ChosenKeys:
    """Which samples of a shard count, and how often each comes.

    Args:
        digests: (n,) "S16", ascending, of their keys.
        times: (n,) uint8, 1 and more.
    """

    digests: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, times: Mapping[str, int]) -> ChosenKeys:
        """Of keys that come so often, at most 255 times."""
        digests = np.array([_digest(key) for key in times], "S16")
        order = np.argsort(digests)
        return cls(digests[order], np.array([*times.values()], np.uint8)[order])

    def __len__(self) -> int:
        return int(self.times.sum(dtype=np.int64))

    def part(self, first: int, last: int | None = None) -> ChosenKeys:
        """Those from the `first` to before the `last`, counted without repetition."""
        return ChosenKeys(self.digests[first:last], self.times[first:last])

    def once(self) -> ChosenKeys:
        """The same without repetition."""
        return ChosenKeys(self.digests, np.ones_like(self.times))

    def __getitem__(self, key: str) -> int:
        """How often a sample comes, 0 for not at all."""
        digest = np.array(_digest(key), "S16")
        at = int(np.searchsorted(self.digests, digest))
        return int(self.times[at]) if at < len(self.digests) and self.digests[at] == digest else 0


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()


class ShardReader:
    """Reads runs of samples; one shard is open at a time, and stays open between runs that follow each other.

    Args:
        shards: paths and URLs.
        chosen: of each shard, which of its samples count, in whose order they are numbered; None for all.
    """

    def __init__(self, shards: Sequence[str], chosen: Sequence[ChosenKeys] | None = None):
        self.shards, self.chosen = shards, chosen
        self._shard, self._place = -1, 0
        self._samples: Iterator[ShardSample] = iter(())

    def read(self, run: ShardRun) -> Iterator[ShardSample]:
        """The samples of a run, exactly so many: in place of those that a shard lacks come lost ones.

        Raises:
            DataError: the shard is missing, packed, or cannot be reached. ConfigError: a package is not installed.
        """
        if run.shard != self._shard or run.first < self._place:
            self._shard, self._place = run.shard, run.first
            self._samples = self._of(run.shard, run.first)
        name = printed_name(self.shards[run.shard]).rpartition("/")[2]
        for number in range(self._place, run.first + run.count):
            sample = next(self._samples, None)
            if sample is None:
                sample = ShardSample(f"{name}:sample {number}", lost=f"{name}: ends before sample {number}")
            if number >= run.first:
                yield sample
            self._place = number + 1

    def _of(self, shard: int, first: int) -> Iterator[ShardSample]:
        """The samples that count, from the `first` on."""
        if self.chosen is None:
            return samples_of(self.shards[shard], first)
        chosen = self.chosen[shard]
        samples = samples_of(self.shards[shard], wanted=lambda key: chosen[key] > 0)
        each = (itertools.repeat(sample, 1 if sample.lost else chosen[sample.key]) for sample in samples)
        return itertools.islice(itertools.chain.from_iterable(each), first, None)


def samples_of(
    shard: str, first: int = 0, wanted: Callable[[str], bool] = lambda key: True
) -> Generator[ShardSample, None, None]:
    """The samples of a shard from the `first` on; after a place where it is damaged or cut off, lost ones without end.

    Args:
        wanted: key -> whether the sample is read.

    Raises:
        DataError: see `open_stream`. ConfigError: webdataset is not installed.
    """
    library = _library()
    name = printed_name(shard)
    short = printable(name.rpartition("/")[2])
    with closing(open_stream(shard)) as stream:
        check_plain(shard, stream)
        files = _members(stream, name, first, library.base_plus_ext, wanted)
        try:
            # Of two members of one name the first counts.
            for members in library.group_by_keys(files, handler=lambda error: True):
                key = printable(members.pop("__key__"))
                members.pop("__url__")
                yield ShardSample(f"{short}:{key}", members)
            return
        except tarfile.TarError as error:
            reason = f"{name}: cut short or damaged ({error}), and everything after that is lost; replace the file"
    for number in itertools.count():
        yield ShardSample(f"{short}:lost {number}", lost=reason)


def members_of(shard: str) -> Generator[tuple[str, tarfile.TarInfo, IO[bytes]], None, None]:
    """(key of the sample, header, content) of all members of a shard in their order, whatever they are; each is read
    before the next is asked for.

    Raises:
        DataError: see `open_stream`; the shard is cut off or damaged. ConfigError: webdataset is not installed.
    """
    library, name = _library(), printed_name(shard)
    with closing(open_stream(shard)) as stream:
        check_plain(shard, stream)
        archive = _opened(stream, name)
        try:
            for info in _headers(stream, name, archive):
                key = library.base_plus_ext(info.name)[0]
                content = archive.extractfile(info)
                if key is not None and content is not None:
                    yield printable(key), info, content
        except tarfile.TarError as error:
            raise DataError(f"{name}: cut short or damaged ({error}); replace the file") from error


def count_samples(shard: str) -> int:
    """How many samples a shard holds, by its headers; of one that is cut short, those that begin before its end.

    Raises:
        DataError: it cannot be read.
    """
    library = _library()
    with closing(open_stream(shard)) as stream:
        check_plain(shard, stream)
        count, newest = 0, None
        with suppress(tarfile.TarError):  # the reader says which samples are lost
            for member in _headers(stream, printed_name(shard)):
                key = library.base_plus_ext(member.name)[0]
                if key is not None:
                    count, newest = count + (key != newest), key
        return count


def _members(
    stream: BinaryIO, name: str, first: int, parts: Callable, wanted: Callable[[str], bool]
) -> Iterator[dict[str, Any]]:
    """Members as webdataset groups them, whose own reader would unfold a sparse file of any size in memory."""
    number, newest, counts = -1, None, False
    archive = _opened(stream, name)
    for info in _headers(stream, name, archive):
        key, extension = parts(info.name)
        if key is None:
            continue
        if key != newest:
            number, newest, counts = number + 1, key, number + 1 >= first and wanted(printable(key))
        if not counts:
            continue
        kind = extension.lower()
        if kind in IMAGE_EXTENSIONS or (kind in TEXTS and info.size <= LONGEST_TEXT):
            yield {"fname": info.name, "data": archive.extractfile(info).read(), "__url__": name}
        else:  # counts, though nothing of it is read
            yield {"fname": f"{key}.", "data": b"", "__url__": name}


def _opened(stream: BinaryIO, name: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:" if stream.seekable() else "r|")
    except tarfile.TarError as error:
        raise DataError(f"{name}: not a tar file; replace it") from error


def _headers(stream: BinaryIO, name: str, archive: tarfile.TarFile | None = None) -> Iterator[tarfile.TarInfo]:
    """Those of plain files that are not hidden.

    Raises:
        tarfile.TarError: it is cut off, or a header is damaged. DataError: it is not a tar file.
    """
    archive = archive or _opened(stream, name)
    before = -1
    while True:
        try:
            info = archive.next()
        except (DataError, ConfigError, tarfile.TarError):
            raise
        except Exception as error:  # of a hostile header; a long chain of them is a RecursionError
            raise tarfile.ReadError(shortened(error, 120)) from error
        if info is None:
            return
        archive.members = []  # it would keep every header
        if archive.offset <= before:  # sizes below 0 lead back
            raise tarfile.ReadError("a header leads back")
        before = archive.offset
        if not why_left_out(info) and not info.isdir() and not info.name.rpartition("/")[2].startswith("."):
            yield info


def _library():
    try:
        from webdataset import tariterators
    except ImportError as error:
        raise ConfigError(
            "reading shards in a row needs webdataset, which is not installed; pip install 'vladapt[shards]'"
        ) from error
    return tariterators


class ShardBlock:
    """Samples in memory as a set of pairs, by row: what `PairSource` asks of a `PairSet`.

    Args:
        samples: row -> sample.
        fields: of the whole set.
        further_columns: of the whole set.
        widths: further column of numbers -> how many a sample has.
        columns: keys of the `.json` that are kept in addition to the usual ones -> what they hold.
        max_pixels: a larger image is refused.
    """

    def __init__(
        self,
        samples: Mapping[int, ShardSample],
        fields: frozenset[str],
        further_columns: Mapping[str, str],
        widths: Mapping[str, int],
        columns: Mapping[str, str],
        max_pixels: int = Item.MAX_PIXELS,
    ):
        self.samples, self.fields, self.further_columns = samples, fields, further_columns
        self.widths, self.columns, self.max_pixels = widths, columns, max_pixels
        self._newest: tuple[int, SampleTexts] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> Pair:
        texts = self._texts(row)
        return Pair(self.id(row), "", None, None, tuple(texts.captions), texts=texts.texts, image=row)

    def id(self, row: int) -> str:
        """The name of a sample, whether or not it can be read."""
        return self.samples[row].name

    def load_image(self, row: int) -> Image.Image | Decoded:
        """Its pixels, as `decode_picture` has them.

        Raises:
            DataError: it was lost, has no image, or it cannot be decoded.
        """
        sample = self.samples[row]
        if sample.lost:
            raise DataError(sample.lost)
        if not sample.image:
            raise DataError(f"{sample.name}: no image")
        return decode_picture(sample.image, sample.name, self.max_pixels)

    def numbers(self, row: int, column: str) -> Sequence[float]:
        """What a further column holds, NaN where the sample has none.

        Raises:
            DataError: it has another number of them.
        """
        width = self.widths[column]
        numbers = self._texts(row).numbers.get(column) or (math.nan,) * width
        if len(numbers) != width:
            raise DataError(f"{self.id(row)}: {column} has {len(numbers)} numbers, samples before it {width}")
        return numbers

    def _texts(self, row: int) -> SampleTexts:
        if self._newest is None or self._newest[0] != row:  # several are asked of one sample in turn
            self._newest = row, self.samples[row].texts(self.columns)
        return self._newest[1]
