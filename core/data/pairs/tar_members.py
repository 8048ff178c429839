"""What a tar file holds and where, without unpacking anything: headers are read, contents are skipped over."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...errors import DataError, shortened

BLOCK = 512
LONGEST_NAME = 200
"""Of a member, in a list of what was left out."""
DRIVE = re.compile(r"[A-Za-z]:[/\\]")
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True)
class Member:
    """A file in a tar file: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass
class TarFile:
    """A tar file that is walked through once.

    Args:
        path: the file.

    Attributes:
        skipped: (name, reason) of members left out: paths that leave, links, devices, what is cut off.
        notes: sentences about the file as a whole.
    """

    path: Path
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def members(self, file: BinaryIO) -> Iterator[Member]:
        """The plain files in it that are whole, in their order. Hidden files are passed over.

        Args:
            file: the opened tar file; may be read from between two members.

        Raises:
            DataError: it is not a tar file, or a packed one.
        """
        length = os.fstat(file.fileno()).st_size
        try:
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
        except Exception as error:  # as below
            raise DataError(f"{self.path}: {_no_tar(self.path)}") from error
        cut, before = "", -1
        while not cut:
            try:
                info = archive.next()
            except Exception as error:  # of a hostile header; a long chain of them is a RecursionError
                cut = " ".join(str(error).split())
                break
            if info is None:
                cut = _end_missing(file, archive.offset)
                break
            archive.members = []  # it would keep every header
            if info.offset_data + info.size > length or archive.offset <= before:  # sizes below 0 lead back
                self.skip(info.name, "cut off where the file ends")
                cut = "it ends within a member"
            elif (member := self._plain(info)) is not None:
                yield member
            before = archive.offset
        if cut:
            self.notes.append(
                f"{self.path.name}: {cut}; it is cut short or damaged, and everything after that is lost."
            )

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append((f"{self.path.name}:{shortened(name, LONGEST_NAME)}", reason))

    def _plain(self, info: tarfile.TarInfo) -> Member | None:
        reason = why_left_out(info)
        if reason:
            self.skip(info.name, reason)
            return None
        if info.isdir() or os.path.basename(info.name).startswith("."):
            return None
        return Member(info.name, info.offset_data, info.size)


def _end_missing(file: BinaryIO, offset: int) -> str:
    """ "" where a block of zeros ends the file, as it should; tarfile takes a damaged header for the end as well."""
    file.seek(offset)
    return "" if file.read(BLOCK) == bytes(BLOCK) else f"no header and no end mark at byte {offset}"


def why_left_out(info: tarfile.TarInfo) -> str:
    """Why a member is not read, "" where it may be."""
    parts = info.name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or DRIVE.match(info.name):
        return "a path that leaves the folder, not read"
    if info.islnk() or info.issym():
        return "a link, not followed"
    if info.issparse():
        return "a sparse file, not read"
    if not info.isdir() and not info.isreg():
        return "a device, not read"
    return ""


def _no_tar(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        return "empty file (0 bytes); replace it"
    if head.startswith(PACKED):
        return "packed, so its parts cannot be read alone; unpack it to a plain .tar"
    return "not a tar file; replace it"
