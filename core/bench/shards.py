"""Samples of tar files that belong to a set: where their images lie, and the small files beside them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..contracts.items import Decoded, DomainData, Item
from ..data.images import decode_image
from ..data.pairs.shard_index import KEY
from ..data.pairs.tar_members import Member, TarFile
from ..errors import DataError

MOST_BYTES = 1 << 20
"""Of a file beside an image."""


@dataclass(eq=False)
class ShardSamples:
    """N samples, none of them decoded.

    Attributes:
        items: one per image, its place in a tar file.
        beside: N contents of the file beside each image.
    """

    items: list[Item] = field(default_factory=list)
    beside: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, shards: Sequence[Path], images: Collection[str], beside: str) -> ShardSamples:
        """The samples of some tars, by their headers; images are not read.

        Args:
            images: endings of images, without a dot.
            beside: ending of the file that belongs to each image.

        Raises:
            DataError: a tar is missing, cut short or packed, or an image has no such file.
        """
        samples = cls()
        for shard in shards:
            if not shard.is_file():
                raise DataError(f"{shard}: missing; fetch the set again, with all its shards")
            samples._add(shard, images, beside)
        if not samples.items:
            raise DataError(f"{shards[0].parent}: its tars hold no image ({', '.join(sorted(images))})")
        return samples

    def data(self, title: str) -> DomainData:
        """The images as a data set."""
        return DomainData(self.items, (), _decoded, name=title)

    def _add(self, shard: Path, images: Collection[str], beside: str) -> None:
        tar, members = TarFile(shard), {}
        contents: dict[str, bytes] = {}
        with shard.open("rb") as file:
            for member in tar.members(file):
                match = KEY.match(member.name)
                key, ending = (match.group(1), match.group(2).lower()) if match else (member.name, "")
                if ending in images:
                    members[key] = member
                elif ending == beside:
                    contents[key] = _content(shard, member, file)
        if tar.notes:
            raise DataError(f"{shard}: {tar.notes[0].removeprefix(f'{shard.name}: ')} Fetch it again.")
        for key, member in members.items():
            if key not in contents:
                raise DataError(f"{shard}: image {member.name} has no {key}.{beside}; fetch the set again")
            where = {"offset": member.offset, "size": member.size}
            self.items.append(Item(f"{shard.name}:{key}", shard, where))
            self.beside.append(contents[key])


def _content(shard: Path, member: Member, file) -> bytes:
    if member.size > MOST_BYTES:
        raise DataError(f"{shard}: {member.name} has {member.size} bytes, {MOST_BYTES} at most are read; correct it")
    file.seek(member.offset)
    return file.read(member.size)


def _decoded(item: Item) -> Decoded:
    return decode_image(item.source, dict(item.decode))
