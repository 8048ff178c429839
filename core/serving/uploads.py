"""The files of a request: read up to a limit, and kept in a folder of their own until they are decoded.

What the client calls a file is never the name of anything here. It comes back in the answer alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, LimitError, printable

ENDING = re.compile(r"(\.[A-Za-z0-9]{1,11}){1,2}$")
"""Of a name, by which formats are told: ".nii.gz", ".safetensors"."""
LONGEST_NAME = 255
FIELDS = 16
"""Form fields that are no files; they are refused, but read first."""
FORM_BYTES = 65536
"""What a form may have besides files."""


@dataclass(frozen=True)
class Limits:
    """What a server takes at once.

    Args:
        request_bytes: of a whole request.
        files: of a request.
        waiting: images of all requests that are not yet answered; a volume has many.
        waiting_bytes: the same in bytes.
        seconds: for a request to arrive, and for its answer to be taken.
        head_bytes: of headers, and of all else besides bodies, of the requests of a connection that are not answered.
        head_seconds: for headers to arrive.
        connections: of a process; a further one takes the place of the oldest for which nothing is being done.
    """

    request_bytes: int = 64 << 20
    files: int = 64
    waiting: int = 256
    waiting_bytes: int = 512 << 20
    seconds: float = 60.0
    head_bytes: int = 16 << 10
    head_seconds: float = 10.0
    connections: int = 512


class TooSlow(Exception):
    """A request did not arrive in time."""


class NoForm(Exception):
    """A request holds no form with files."""


@dataclass(frozen=True)
class Upload:
    """A file of a request: what the client calls it, and its content."""

    name: str
    content: bytes


async def read_uploads(request: Any, limits: Limits) -> list[Upload]:
    """The files of a form.

    Raises:
        LimitError: too large, or too many files. ConfigError: no file, or something else in the form.
        NoForm: the request is no form. TooSlow: it did not arrive in time.
    """
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise NoForm
    most = limits.request_bytes
    if int(request.headers.get("content-length") or 0) > most:
        raise _too_large(most)
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        if read > most:
            raise _too_large(most)
        return message

    bounded = Request(request.scope, receive)
    try:
        form = await asyncio.wait_for(
            bounded.form(max_files=limits.files, max_fields=FIELDS, max_part_size=FORM_BYTES), limits.seconds
        )
    except asyncio.TimeoutError:
        raise TooSlow from None
    except HTTPException as error:
        if str(error.detail).startswith("Too many files"):
            raise LimitError(f"more than {limits.files} files in a request; send fewer at once") from None
        raise ConfigError(f"the form cannot be read ({error.detail}); send pictures as multipart/form-data") from None
    try:
        uploads = []
        for field, value in form.multi_items():
            if isinstance(value, str):
                raise ConfigError(
                    f"form field '{printable(field[:40])}' is not a file; options are part of the address"
                )
            uploads.append(Upload(printable((value.filename or "image")[:LONGEST_NAME]), await value.read()))
    finally:
        await form.close()
    if not uploads:
        raise ConfigError("the form holds no files; send pictures as multipart/form-data")
    return uploads


def _too_large(most: int) -> LimitError:
    return LimitError(f"the request is larger than {most >> 20} MB; send fewer or smaller files, or raise --max-mb")


class Shelf:
    """A folder of this process, in which each file has a folder of its own.

    Args:
        parent: that holds the folders of all processes; those of dead ones are removed.

    Attributes:
        dead: the processes of those.
    """

    def __init__(self, parent: Path):
        folders = {folder: int(folder.name) for folder in parent.iterdir() if folder.name.isdigit()}
        self.dead = [process for process in folders.values() if not _is_running(process)]
        for folder, process in folders.items():
            if process in self.dead:
                shutil.rmtree(folder, ignore_errors=True)
        self.path = parent / str(os.getpid())
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._numbers = itertools.count()

    @contextmanager
    def holding(self, uploads: Sequence[Upload]) -> Iterator[dict[Path, str]]:
        """Files in a context -> what the client calls them."""
        folders = [self.path / str(next(self._numbers)) for _ in uploads]
        try:
            files = {}
            for folder, upload in zip(folders, uploads):
                folder.mkdir(mode=0o700)
                ending = ENDING.search(upload.name)
                file = folder / f"image{ending[0] if ending else ''}"
                file.write_bytes(upload.content)
                files[file] = upload.name
            yield files
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # to ask there would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
