"""What a set costs before anything is computed: shards, files, requests, bytes moved, GPU hours, with the formulas.

    python benchmarks/reckon.py --images 1e10 --rate 1500 --gpus 64
    python benchmarks/reckon.py --images 5e6 --rate 900 --side 336 --width 768 --shard-size 5000

Nothing is measured here: `--rate`, the images that one GPU encodes per second, is yours (`vladapt embed` shows it). The
image's bytes are those given, or two bits per pixel, as JPEG of quality 85 to 90 has. Tars on an object store are one
shard each, so that `--shard-size` is then the number of images per tar. The numbers of files, requests and segments are
those of the code: per shard a file and a marker; before, a look for both, at the tar's version and its size; then
ranges of the tar. The index is one of `ivf-pq` on one machine: beyond some 10^8 images make several, by their shards.

The shuffle (group-by, join) is none that a command makes: it is what one would have to do with rows that no machine
sorts. A task that wrote a file per bucket for each shard would write four billion files of two rows (10^6 shards, 4,096
buckets). So a task reads several shards, and where that would be more than 64, rows go through groups of buckets first.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

from vladapt.core.retrieval.kinds import DIMS_A_BYTE, cells_of, sampled_rows
from vladapt.core.retrieval.writing import SEGMENT_ROWS
from vladapt.core.runtime.remote import BLOCK

ID_BYTES, CODE_ID_BYTES = 40, 8
"""Of an id in a shard, and of a row's number beside its code."""
SOURCE_BYTES, NAME_BYTES = 350, 100
"""That the driver holds of a tar, and of a shard that is done."""
NAMES_PER_LISTING = 1000
MOST_FILES, FEWEST_ROWS, SHARDS_TOGETHER = 10**6, 1000, 64
"""Of a shuffle: files of a level, rows of a file on average, shards that a task reads where there is one level."""
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True)
class Set:
    """Numbers of a user's own.

    Args:
        images: N.
        rate: images per second and GPU.
        gpus: G.
        side: of the stored image, in pixels; `image_bytes` is what it takes.
        width: D of the features, 2 bytes each.
        shard_size: S.
        buckets: B that a shuffle by key (near copies, clusters) is to have; `key_bytes` of a row go through it.
    """

    images: int
    rate: float
    gpus: int = 8
    side: int = 256
    image_bytes: float = 0.0
    width: int = 512
    shard_size: int = 10_000
    buckets: int = 4096
    key_bytes: int = 64

    @property
    def bytes_per_image(self) -> float:
        return self.image_bytes or self.side**2 / 4


@dataclass(frozen=True)
class Shuffle:
    """How rows of shards are brought together by key.

    Args:
        buckets: that come out, one file each.
        groups: of buckets, which the first of two levels writes; 1 where there is one level.
        together: shards that a task of the first level reads.
        tasks: of each level: the first reads shards, the second the files of a group.
        files: that each level writes; of one level, those of a bucket are read together.
    """

    buckets: int
    groups: int
    together: int
    tasks: tuple[int, ...]
    files: tuple[int, ...]


def shuffled(rows: int, shards: int, buckets: int) -> Shuffle:
    """A shuffle of at most a million files per level, of a thousand rows or more each; fewer buckets where they would
    have less."""
    most = max(1, min(MOST_FILES, rows // FEWEST_ROWS))
    buckets, groups = min(buckets, most), 1

    def together(parts: int) -> int:
        return -(-shards // (most // parts))

    read = together(buckets)
    if read > SHARDS_TOGETHER and buckets > 1:
        groups = math.isqrt(buckets - 1) + 1
        read = together(groups)
    tasks = -(-shards // read)
    if groups == 1:
        return Shuffle(buckets, 1, read, (tasks,), (tasks * buckets,))
    return Shuffle(buckets, groups, read, (tasks, groups), (tasks * groups, buckets))


def reckoned(given: Set) -> Iterator[tuple[str, str, str]]:
    """(what, formula, number) of each row."""
    count, shards = given.images, -(-given.images // given.shard_size)
    seconds = count / given.rate
    yield "shards", "ceil(N / S)", f"{shards:,}"
    yield "files of `embed`", "2 * shards", f"{2 * shards:,}"
    listings = -(-shards // NAMES_PER_LISTING)
    yield "requests of a start", "shards (version of each tar)", f"{shards:,}"
    again = f"shards done, and 2 * ceil(shards / {NAMES_PER_LISTING})"
    yield "requests of a start again, at most", again, f"{shards + 2 * listings:,}"
    ranges = math.ceil(given.shard_size * given.bytes_per_image / BLOCK)
    reads = f"shards * (4 + ceil(S * bytes per image / {BLOCK >> 20} MiB))"
    yield "requests that read", reads, f"{shards * (4 + ranges):,}"
    yield "requests that write", "2 * shards (file, marker)", f"{2 * shards:,}"
    held = shards * (SOURCE_BYTES + NAME_BYTES)
    yield "memory of the driver", f"shards * ({SOURCE_BYTES} + {NAME_BYTES})", _size(held)
    yield "bytes read", "N * bytes per image", _size(count * given.bytes_per_image)
    yield "bytes written", f"N * (2 D + {ID_BYTES})", _size(count * (2 * given.width + ID_BYTES))
    yield "GPU hours", "N / rate / 3600", f"{seconds / 3600:,.0f}"
    yield "days on G GPUs", "N / rate / G / 86400", f"{seconds / given.gpus / 86400:,.1f}"
    yield "minutes per shard", "S / rate / 60", f"{given.shard_size / given.rate / 60:.1f}"
    reading = given.bytes_per_image * given.rate * given.gpus
    yield "bytes read per second, of all", "bytes per image * rate * G", _size(reading)
    yield "`ivf-pq`: segments", f"ceil(N / {SEGMENT_ROWS:,})", f"{math.ceil(count / SEGMENT_ROWS):,}"
    code = given.width / DIMS_A_BYTE + CODE_ID_BYTES
    yield "`ivf-pq`: searched", f"N * (D / {DIMS_A_BYTE} + {CODE_ID_BYTES})", _size(count * code)
    yield "`ivf-pq`: on disk besides", "2 N D", _size(2 * count * given.width)
    yield "`ivf-pq`: cells", "4 * sqrt(N)", f"{cells_of(count):,}"
    yield "`ivf-pq`: rows trained on", "64 * cells", f"{sampled_rows(count):,}"
    plan = shuffled(count, shards, given.buckets)
    each = ", then ".join
    yield "shuffle: tasks", f"{plan.together} shards per task", each(f"{tasks:,}" for tasks in plan.tasks)
    yield "shuffle: files", "at most 1,000,000 per level", each(f"{files:,}" for files in plan.files)
    yield "shuffle: rows per file", "N / files, at least 1,000", each(f"{count / files:,.0f}" for files in plan.files)
    moved = 2 * len(plan.files) * count * given.key_bytes
    yield "shuffle: bytes moved", "2 * levels * N * bytes of a row", _size(moved)


def _size(count: float) -> str:
    power = min(int(math.log10(max(count, 1))) // 3, len(UNITS) - 1)
    return f"{count / 1000**power:.3g} {UNITS[power]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=lambda text: int(float(text)), required=True, help="N, such as 1e10")
    parser.add_argument("--rate", type=float, required=True, help="images per second that one GPU encodes")
    parser.add_argument("--gpus", type=int, default=Set.gpus, help="G")
    parser.add_argument("--side", type=int, default=Set.side, help="of the stored image, in pixels")
    parser.add_argument("--image-bytes", type=float, default=0.0, help="of a stored image; by default side * side / 4")
    parser.add_argument("--width", type=int, default=Set.width, help="D, of the features")
    parser.add_argument("--shard-size", type=int, default=Set.shard_size, help="S, images per shard")
    parser.add_argument("--buckets", type=int, default=Set.buckets, help="of a shuffle")
    parser.add_argument("--key-bytes", type=int, default=Set.key_bytes, help="of a row that is shuffled")
    given = parser.parse_args()
    if low := [name for name, value in vars(given).items() if value <= 0 and name != "image_bytes"]:
        parser.error(f"--{low[0].replace('_', '-')}: give a number above 0")
    print("| what | formula | number |\n|---|---|---:|")
    for row in reckoned(Set(**vars(given))):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
