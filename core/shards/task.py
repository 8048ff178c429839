"""A shard task: rows of the inputs that become one file, whoever runs it and however often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sources import Source

FORMAT = 1
"""Of the files that tasks write: another one is another hash of settings."""


@dataclass(frozen=True)
class Span:
    """Rows of one source that lie one after the other.

    Args:
        source: where they are.
        start, stop: from 0; `stop` is None for all that there are.
    """

    source: Source
    start: int
    stop: int | None

    def __len__(self) -> int:
        return (self.source.count_rows() if self.stop is None else self.stop) - self.start


@dataclass(frozen=True)
class ShardTask:
    """One file to be made.

    Args:
        number: of the shard, from 0.
        spans: its rows, in order.
        skip: positions among its rows that are not read, and are listed as unreadable: they killed their worker.
        probe: positions [first, last) that are run to see whether they kill their worker; nothing is written.
    """

    number: int
    spans: tuple[Span, ...]
    skip: frozenset[int] = frozenset()
    probe: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"part-{self.number:08d}"

    def __len__(self) -> int:
        return sum(map(len, self.spans))


def cut_tasks(spans: Iterator[Span], shard_size: int) -> Iterator[ShardTask]:
    """Tasks of `shard_size` rows, lazily; a span of unknown length is a task of its own.

    Args:
        spans: whole sources, in order.
    """
    taken: list[Span] = []
    number, room = 0, shard_size
    for span in spans:
        if span.stop is None:
            if taken:
                yield ShardTask(number, tuple(taken))
                number, taken, room = number + 1, [], shard_size
            yield ShardTask(number, (span,))
            number += 1
            continue
        start = span.start
        while start < span.stop:
            stop = min(span.stop, start + room)
            taken.append(Span(span.source, start, stop))
            start, room = stop, room - (stop - start)
            if not room:
                yield ShardTask(number, tuple(taken))
                number, taken, room = number + 1, [], shard_size
    if taken:
        yield ShardTask(number, tuple(taken))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The name of the folder that holds what was made with these settings: 16 hexadecimal digits."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
