"""How rows of many shards are brought together by key, in files: a shuffle, planned before anything is written.

A task that writes a file per bucket for each shard does not scale: a million shards and 4,096 buckets are four billion
files of two rows. So a task reads several shards that lie one after the other, and where even that would be too many
files, or too few tasks, rows go through groups of buckets first: two levels, each of about the root of the number of
files, as in the multi-pass radix partitioning of "Database Architecture Optimized for the New Bottleneck: Memory
Access" (Boncz, Manegold and Kersten 1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from ..errors import ConfigError

MOST_FILES = 10**6
FEWEST_ROWS = 1000
"""Of a file, on average: keys are hashed, so that buckets fill alike."""
SHARDS_TOGETHER = 64
"""Shards that one task may read where there is one level: more would leave too few tasks."""


@dataclass(frozen=True)
class Exchange:
    """What is written and read.

    Args:
        rows, shards: that come in.
        buckets: that come out, one file each.
        groups: of buckets, which the first of two levels writes; 1 where there is one level.
        together: shards that a task of the first level reads.
    """

    rows: int
    shards: int
    buckets: int
    groups: int
    together: int

    @property
    def levels(self) -> int:
        return 1 if self.groups == 1 else 2

    @property
    def tasks(self) -> tuple[int, ...]:
        """Of each level: the first reads shards, the second the files of a group."""
        writers = -(-self.shards // self.together)
        return (writers,) if self.levels == 1 else (writers, self.groups)

    @property
    def files(self) -> tuple[int, ...]:
        """That each level writes. Of one level, those of a bucket are read together."""
        writers = self.tasks[0]
        return (writers * self.buckets,) if self.levels == 1 else (writers * self.groups, self.buckets)

    @property
    def rows_per_file(self) -> tuple[float, ...]:
        return tuple(self.rows / files for files in self.files)

    def shards_of(self, task: int) -> range:
        """That a task of the first level reads."""
        return range(task * self.together, min(self.shards, (task + 1) * self.together))

    def buckets_of(self, group: int) -> range:
        """That the task of a group writes."""
        return range(-(-group * self.buckets // self.groups), -(-(group + 1) * self.buckets // self.groups))

    def bucket_of(self, hashed: int) -> int:
        """Of a key, by its hash: a number from 0."""
        return hashed % self.buckets

    def group_of(self, bucket: int) -> int:
        return bucket * self.groups // self.buckets


def exchange_plan(rows: int, shards: int, buckets: int) -> Exchange:
    """The plan of a shuffle that writes at most a million files per level, each of a thousand rows or more.

    Args:
        rows, shards: that come in.
        buckets: wanted; fewer come out where they would have less than a thousand rows each.

    Raises:
        ConfigError: a number below 1.
    """
    for name, value in (("rows", rows), ("shards", shards), ("buckets", buckets)):
        if value < 1:
            raise ConfigError(f"{name} {value}: give 1 or more")
    most = max(1, min(MOST_FILES, rows // FEWEST_ROWS))
    buckets = min(buckets, most)
    together = _together(shards, buckets, most)
    if together <= SHARDS_TOGETHER or buckets == 1:
        return Exchange(rows, shards, buckets, 1, together)
    groups = max(2, min(isqrt(buckets - 1) + 1, most))
    return Exchange(rows, shards, buckets, groups, _together(shards, groups, most))


def _together(shards: int, parts: int, most: int) -> int:
    """The fewest shards that a task reads so that `parts` files of each task are at most `most`."""
    return -(-shards // max(1, most // parts))
