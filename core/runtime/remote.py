"""Files by path or URL through fsspec, read from the first byte to the last and retried where a connection breaks.

No credential is ever shown: user and password of a URL, and what follows its "?", are left out of every message.
"""

from __future__ import annotations

import io
import re
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit

from ..errors import ConfigError, DataError, shortened
from .reading import open_regular

URL = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
SECRET = re.compile(r"(?<=://)[^/@\s'\"]+@|(?<=[^\s?])\?[^\s'\"?]*=[^\s'\"]*")
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
PACKAGES |= {"hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs"}
"""Schemes that are read -> the package that does. No other: fsspec and webdataset know some that run commands."""
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
BUFFER, BLOCK = 1 << 20, 8 << 20
TRIES = 5
FIRST_WAIT_S = 0.5
"""Before the second try; doubled before each further one."""
SILENCE_S = 60
"""After which a connection that sends nothing is broken."""
MISSING = "restore it, or leave it out of --data"
REFUSED = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")


def is_url(name: str) -> bool:
    """Whether it begins like "s3://"."""
    return URL.match(name) is not None


def is_object_store(name: str) -> bool:
    """Whether it is a URL of one store, such as s3://, and not of any host."""
    match = URL.match(name)
    return match is not None and match[1].lower() not in ("http", "https")


def printed_name(name: str) -> str:
    """A path or URL as it may be printed and kept: without user, password and query."""
    if not is_url(name):
        return name
    parts = urlsplit(name)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str) -> str:
    """A message of a library without what may be a credential in the URLs that it quotes."""
    return SECRET.sub("", text)


def filesystem(name: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        ConfigError: no such kind of URL, or the package that reads it is not installed.
        DataError: the file system cannot be opened with these credentials.
    """
    scheme = URL.match(name)[1].lower()
    if scheme not in PACKAGES:
        known = ", ".join(f"{kind}://" for kind in ("s3", "gs", "hf", "https", "http"))
        raise ConfigError(f"{printed_name(name)}: {scheme}:// is not supported; give a path, or a URL of {known}")
    try:
        import fsspec

        return fsspec.core.url_to_fs(name, **_options(scheme))
    except ImportError as error:
        package = PACKAGES[scheme]
        raise ConfigError(
            f"{printed_name(name)}: reading {scheme}:// needs {package}, which is not installed; pip install {package}"
        ) from error
    except Exception as error:  # each backend has errors of its own
        raise DataError(_refusal(name, error) or f"{printed_name(name)}: cannot be opened ({_said(error)})") from error


def read_small(name: str) -> bytes | None:
    """The whole content of a file; None where there is none, or none may be seen: object stores refuse what is missing
    to those who may not list.

    Raises:
        DataError: it cannot be read. ConfigError: see `filesystem`.
    """
    if not is_url(name):
        path = Path(name)
        return path.read_bytes() if path.is_file() else None
    try:
        with closing(open_stream(name)) as stream:
            return stream.read()
    except (MissingFile, RefusedFile):
        return None


def matching(name: str) -> list[str]:
    """The files of a URL with "*" in it, in order; of a folder, all .tar files in it.

    Raises:
        DataError: the place cannot be listed. ConfigError: see `filesystem`.
    """
    fs, path = filesystem(name)
    pattern = path if "*" in path else path.rstrip("/") + "/*.tar"
    try:
        found = sorted(fs.glob(pattern))
    except Exception as error:
        raise DataError(_refusal(name, error) or _given_up(name, error, 1)) from error
    return [fs.unstrip_protocol(each) for each in found]


def failure(name: str, error: Exception) -> DataError:
    """What a library says of a file or folder by URL, in one line, with what to do where the credentials are wrong."""
    error = _reason(error)
    return DataError(
        _refusal(name, error) or f"{printed_name(name)}: {_said(error)}; check the address and the network"
    )


class MissingFile(DataError):
    """There is no such file."""


class RefusedFile(DataError):
    """The credentials do not allow to read it, or there are none."""


def open_stream(name: str) -> BinaryIO:
    """A file from its beginning on, for reading once through.

    A connection that breaks is opened again at the same byte, up to `TRIES` times in a row.

    Raises:
        MissingFile: there is no such file. RefusedFile: the credentials are not those.
        DataError: it cannot be opened, or, while it is read, not be read any further: a host that does not answer.
        ConfigError: see `filesystem`.
    """
    if not is_url(name):
        if not Path(name).exists():
            raise MissingFile(f"{name}: no such file; {MISSING}")
        return open_regular(Path(name))
    return io.BufferedReader(_RemoteFile(name), BUFFER)


def check_plain(name: str, stream: BinaryIO) -> None:
    """Look at the first bytes of a tar file.

    Raises:
        DataError: it is empty or packed.
    """
    head = stream.peek(8)[:8]
    if not head:
        raise DataError(f"{printed_name(name)}: empty file (0 bytes); replace it")
    if head.startswith(PACKED):
        raise DataError(f"{printed_name(name)}: packed; unpack it to a plain .tar")


class _RemoteFile(io.RawIOBase):
    """A file by URL that is opened again where it broke off."""

    def __init__(self, name: str):
        self.name, self.place = name, 0
        self._file = self._again(self._open)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        content = self._again(lambda: self._file.read(len(buffer)))
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            with suppress(Exception):
                self._file.close()
        super().close()

    def _open(self) -> Any:
        fs, path = filesystem(self.name)
        if URL.match(self.name)[1].lower() not in ("http", "https"):
            file = fs.open(path, "rb", block_size=BLOCK, cache_type="readahead")
            file.seek(self.place)
            return file
        # A plain server knows no ranges; one that does is spared what was read before.
        file = fs.open(path, "rb", block_size=0, headers={"Range": f"bytes={self.place}-"} if self.place else {})
        if self.place and getattr(file.r, "status", 200) != 206:
            _pass_over(file, self.place)
        return file

    def _again(self, action) -> Any:
        """Do it, again after a pause where it fails, on a new connection."""
        for tried in range(1, TRIES + 1):
            try:
                if tried > 1 and action != self._open:
                    self._file = self._open()
                return action()
            except (DataError, ConfigError):
                raise
            except Exception as raised:
                error = _reason(raised)
                if isinstance(error, FileNotFoundError):
                    raise MissingFile(f"{printed_name(self.name)}: no such file or bucket; {MISSING}") from error
                if refusal := _refusal(self.name, error):
                    raise RefusedFile(refusal) from error
                if tried == TRIES:
                    raise DataError(_given_up(self.name, error, TRIES)) from error
                time.sleep(FIRST_WAIT_S * 2 ** (tried - 1))
        raise AssertionError("unreachable")


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    # A shard is read as slowly as its images are decoded: no limit on the whole, one on silence.
    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_S)}}


def _reason(error: Exception) -> Exception:
    """What is behind an error: over HTTP fsspec finds no file wherever it gets none."""
    cause = error.__cause__
    over_http = isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp")
    return cause if over_http and getattr(cause, "status", None) not in (404, 410) else error


def _pass_over(file: Any, count: int) -> None:
    while count:
        read = len(file.read(min(count, BUFFER)))
        if not read:
            raise OSError("the file has become shorter")
        count -= read


def _refusal(name: str, error: Exception) -> str | None:
    """A line on credentials, where these are what is wrong: trying again would change nothing."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(error, "status", None)
    if isinstance(error, PermissionError) or kinds & set(REFUSED) or status in (401, 403):
        return f"{printed_name(name)}: access is refused ({_said(error)}); check the credentials and their permissions"
    return None


def _given_up(name: str, error: Exception, tries: int) -> str:
    times = f" after {tries} tries" if tries > 1 else ""
    cure = "check the address and the network; --resume continues a training from its last checkpoint"
    return f"{printed_name(name)}: cannot be read{times} ({_said(error)}); {cure}"


def _said(error: Exception) -> str:
    return shortened(without_secrets(" ".join(f"{type(error).__name__}: {error}".split())), 200)
