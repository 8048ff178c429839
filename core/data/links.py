"""Which items must stay on one side of a split: one patient's, one file's, and exact copies."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from ..contracts.domain import Item
from .identity import FileHashes, part_text


@dataclass(frozen=True)
class Links:
    """Positions of items, in lists.

    Args:
        parts: every position once; the items of a part share a group, a source or its copy, also by way of others.
        copies: items that show exactly the same, two or more in each list.
    """

    parts: list[list[int]]
    copies: list[list[int]]


def link_items(items: Sequence[Item], hashes: FileHashes) -> Links:
    """What belongs together, told from groups and from the bytes of the files."""
    sources = _source_keys(items, hashes)
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    by_content: dict[Hashable, list[int]] = defaultdict(list)
    for position, (item, source) in enumerate(zip(items, sources, strict=True)):
        by_key["source", source].append(position)
        by_content[source, part_text(item)].append(position)
        if item.group is not None:
            by_key["group", item.group].append(position)
    copies = [positions for positions in by_content.values() if len(positions) > 1]
    return Links(_connected(len(items), by_key.values()), copies)


def _source_keys(items: Sequence[Item], hashes: FileHashes) -> list[str]:
    """One key an item, equal for equal bytes. A file of a size that no other has cannot have a copy: not read."""
    paths = {str(item.source) for item in items if "digest" not in item.decode}
    sizes = {path: _size(path) for path in paths}
    of_size = Counter(sizes.values())
    keys = {path: hashes.sha256(path) if of_size[size] > 1 and size >= 0 else path for path, size in sizes.items()}
    return [item.decode.get("digest") or keys[str(item.source)] for item in items]


def _size(path: str) -> int:
    """Bytes of a file, -1 where it cannot be read: decoding will list it as unreadable, here it is just no copy."""
    return os.path.getsize(path) if os.path.isfile(path) and os.access(path, os.R_OK) else -1


def _connected(count: int, chains: Iterable[list[int]]) -> list[list[int]]:
    """Connected components of positions 0..count-1, where the members of a chain hang together."""
    parent = list(range(count))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for first, *others in chains:
        for other in others:
            parent[root(other)] = root(first)
    parts: dict[int, list[int]] = defaultdict(list)
    for position in range(count):
        parts[root(position)].append(position)
    return list(parts.values())
