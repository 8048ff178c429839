"""Where the pixels of pairs come from: files, byte ranges of tar files, or a generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...contracts.domain import Decoded
from ...contracts.errors import DataError
from ..images import decode_bytes, decode_image


class PairImages(Protocol):
    """How a PairSet gets at an image. Must be picklable, for the workers of a DataLoader."""

    def read(self, source: str, offset: int | None, size: int | None) -> bytes:
        """The encoded image."""

    def decode(self, source: str, offset: int | None, size: int | None) -> Decoded:
        """Its pixels, (H, W, 3)."""


@dataclass(frozen=True)
class StoredImages:
    """Images in files: whole ones, or parts of a tar file. Nothing stays open, so that workers may be forked."""

    def read(self, source: str, offset: int | None, size: int | None) -> bytes:
        try:
            with open(source, "rb") as file:
                file.seek(offset or 0)
                data = file.read() if size is None else file.read(size)
        except OSError as error:
            raise DataError(f"{source}: cannot be read ({error.strerror}); check the path") from error
        if size is not None and len(data) < size:
            raise DataError(f"{source}: cut short, byte {offset} and {size} more are not there; replace it")
        return data

    def decode(self, source: str, offset: int | None, size: int | None) -> Decoded:
        if offset is None:
            return decode_image(Path(source), {})
        return decode_bytes(self.read(source, offset, size), f"{source} at byte {offset}")
