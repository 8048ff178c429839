"""Files that are there whole or not at all; tensors of a run are the body of a safetensors file, JSON its header."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CacheError, ConfigError, DataError
from .distributed import is_main, run_on_all
from .process import keeps
from .progress import Reporter

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

STALE_AFTER_S, ABANDONED_AFTER_S = 3600.0, 24 * 3600.0
NEW_FOR_S = 1.0
"""A file may be there for less than this before its process has claimed it."""
OTHER_OUT, OTHER_CACHE = "give another --out", "set VLADAPT_CACHE to another folder"
"""What to do where nothing can be written."""
PARTIAL = ".partial-"
PLACE = ".resume"
MARKER = ".at-work"
"""In a folder whose process has not ended."""
CHECKPOINTS = ("*.pt", "*.pth", "step-*/index.json")
HEADER = "vladapt"
STEM_BYTES = 200
KEPT_DAYS = 7
"""How long checkpoints of a killed training wait for a `--resume` while others end well beside them."""


def sync_folder(folder: Path) -> None:
    """Have the system write the names in a folder to the disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def replacing(path: Path, cure: str = OTHER_OUT) -> Iterator[Path]:
    """A path to write to in the block, which then takes the place of `path`: a reader sees the old file or the whole
    new one, and a failure leaves nothing. A link stays, what it points to is replaced.

    There is no fsync: where a power cut may matter, a digest beside the file tells.

    Args:
        cure: what to do where nothing can be written, for the message.

    Raises:
        DataError: a device, a pipe or a folder is there; no space left, no permission, or another refusal of the file
            system.
    """
    target = place_of(path)
    partial = target.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        yield partial
        os.replace(partial, target)
    except BaseException as error:
        with suppress(OSError):  # the folder itself may be the trouble; the error says so
            partial.unlink()
        if isinstance(error, (OSError, SafetensorError)):
            raise DataError.unwritable(target.parent, error, cure) from error
        raise


@contextmanager
def writing_to(place: object, cure: str = OTHER_OUT) -> Iterator[None]:
    """A block that writes to a place.

    Args:
        cure: what to do where nothing can be written, for the message.

    Raises:
        DataError: the file system refuses.
    """
    try:
        yield
    except OSError as error:
        raise DataError.unwritable(place, error, cure) from error


def place_of(path: Path, what: str = "") -> Path:
    """The file that a path names, through links.

    Args:
        what: the option that names it, for the message.

    Raises:
        DataError: something else than a file is there.
    """
    path = Path(path)
    try:
        target = path.resolve() if path.is_symlink() else path
        if target.is_symlink():  # in a circle, of which Python 3.13 says nothing
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not target.exists() or target.is_file():
            return target
        kind = "a folder" if target.is_dir() else "a device or a pipe"
    except (OSError, RuntimeError) as error:
        raise DataError.unwritable(path, error) from error
    raise DataError(f"{what and what + ' '}{path}: {kind}, not a file; give the name of a file")


def write_whole(path: Path, content: str | bytes, cure: str = OTHER_OUT) -> None:
    """Write `content` as `replacing` does.

    Args:
        content: text is written as UTF-8.
        cure: what to do where nothing can be written, for the message.

    Raises:
        DataError: as for `replacing`.
    """
    with replacing(path, cure) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write as `replacing` does. Returns the path."""
    with replacing(path) as partial:
        body = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(body, str(partial), metadata={HEADER: json.dumps(dict(header))})
    return path


def read_tensors(path: Path, cure: str = "copy the run again") -> tuple[Any, dict[str, Tensor]]:
    """What the header says, which may be anything, and the tensors by name.

    Args:
        cure: of a damaged file, for the message.

    Raises:
        DataError: not such a file, or a damaged one.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not a mapping)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error}); {cure}") from None


def file_stem(name: str) -> str:
    """A name with room for an ending, since systems allow 255 bytes in all: the end of a longer one."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= STEM_BYTES else encoded[-STEM_BYTES:].decode(errors="ignore")


def kind_of(tensor: Tensor) -> list[Any]:
    """What a header says of a tensor: its dtype and its shape."""
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def not_finite(tensor: Tensor, built: Tensor | None = None) -> str:
    """What a tensor holds in place of numbers, "NaN" or "infinity"; "" where it holds numbers alone.

    Args:
        built: the same tensor as a new model has it: where that holds infinity, as masks do, infinity is none.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    if tensor.sum().isfinite():  # one pass; a sum that overflows is looked at again
        return ""
    wrong = ~tensor.isfinite()
    if built is not None and built.shape == tensor.shape:
        wrong &= built.to(tensor.device).isfinite()
    if not wrong.any():
        return ""
    return "NaN" if tensor[wrong].isnan().any() else "infinity"


def write_cached(path: Path, content: str | bytes) -> None:
    """Write a file of the cache whole; its folder is made.

    Raises:
        CacheError: nothing can be written there.
    """
    cached_folder(path.parent)
    try:
        write_whole(path, content, OTHER_CACHE)
    except DataError as error:
        raise CacheError(str(error)) from error


@contextmanager
def caching(path: Path) -> Iterator[IO[bytes]]:
    """A file of the cache, to be written in the block; its folder is made.

    Raises:
        CacheError: nothing can be written there. What else the block raises passes.
    """
    cached_folder(path.parent)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        try:
            with partial.open("wb") as handle:
                yield handle
        except OSError as error:
            raise cache_refused(path.parent, error) from error
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def cached_folder(folder: Path) -> Path:
    """A folder of the cache, made where it is not there.

    Raises:
        CacheError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_refused(folder, error) from error
    return folder


def filled_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled at the first call: beside its place and then moved there, so that a stop leaves no
    half of it. Of several processes the first one's stays.

    Args:
        fill: writes into the empty folder that it is given.

    Raises:
        CacheError: the cache cannot be written.
    """
    if folder.is_dir():
        return folder
    cached_folder(folder.parent)
    try:
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise cache_refused(folder.parent, error) from error
    try:
        fill(partial)
        os.replace(partial, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def cache_refused(folder: Path, error: Exception) -> CacheError:
    """The one line of a cache that cannot be written, which is no fault of what was to be stored in it."""
    return CacheError.unwritable(f"the cache {folder}", error, OTHER_CACHE)


def remove_stale_partials(folder: Path) -> None:
    """Remove what killed processes left half-written, long enough ago that none can still be writing it."""
    _remove_partials(folder, STALE_AFTER_S)


def remove_abandoned_partials(folder: Path) -> None:
    """Remove what killed processes left half-written, where all claim what they write (`claimed`)."""
    _remove_partials(folder, NEW_FOR_S, is_abandoned)


def _remove_partials(folder: Path, age: float, left: Callable[[Path], bool] = lambda path: True) -> None:
    for path in folder.glob(f"{PARTIAL}*"):
        try:
            if time.time() - path.stat().st_mtime > age and left(path):
                path.unlink()
        except FileNotFoundError:
            continue  # another process was quicker


_claims: WeakSet[IO[bytes]] = WeakSet()


def _leave_claims_to_the_parent() -> None:
    """Processes that load samples may outlive a killed one by seconds: they hold no claim of it."""
    for handle in list(_claims):
        handle.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_claims_to_the_parent)


def claimed(file: Path) -> IO[bytes]:
    """A marker file, made, that says that this process is at work as long as the handle is open.

    Raises:
        BlockingIOError: another process is. OSError: it cannot be made.
    """
    handle = file.open("ab")
    if _locks(handle) is False:
        handle.close()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(file))
    _claims.add(handle)
    return handle


def _locks(handle: IO[bytes]) -> bool | None:
    """Whether a file could be locked, and now is; None where its system has no locks, and its age has to tell."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def is_abandoned(file: Path) -> bool:
    """Whether the process whose marker this is has ended without taking it away. Where no lock can tell, whether the
    marker, or its folder where it has none, is too old for a process at work."""
    try:
        if file.is_file():
            with file.open("ab") as handle:
                _claims.add(handle)
                if (locked := _locks(handle)) is not None:
                    return locked
        return time.time() - (file if file.exists() else file.parent).stat().st_mtime > ABANDONED_AFTER_S
    except OSError:  # at work, or gone meanwhile
        return False


def remove_abandoned(folders: Iterable[Path], marker: str) -> None:
    """Remove those folders whose processes were killed."""
    for folder in folders:
        if is_abandoned(folder / marker):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def all_or_none(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Make a folder for files to be written in the block; if that fails, take away what was not there before.

    Args:
        folder: made, with its parents, if it is not there.
        names: of the files that the block writes.

    Raises:
        DataError: nothing can be written there (no space left, no permission, a file in place of a folder).
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    new = [folder / name for name in names if not (folder / name).exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in new:
            with suppress(OSError):  # not written yet, or the folder itself is the trouble; the error says so
                path.unlink()
        _remove_empty(made)
        if isinstance(error, (OSError, SafetensorError)):
            raise DataError.unwritable(f"--out {folder}", error) from error
        raise


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, but for those in which others have put something meanwhile."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@dataclass(frozen=True)
class WorkFolder:
    """A folder of work under way: a killed process leaves it, and the same command goes on from it.

    Args:
        path: of the folder.
    """

    path: Path

    @classmethod
    def of(cls, place: Path, key: str) -> WorkFolder:
        """`<place>/.resume/<key>`.

        Args:
            place: where the result is to stand.
            key: says what is worked on.
        """
        return cls(place / PLACE / key)

    def claimed(self, doing: str) -> IO[bytes]:
        """Make the folder; it is this process's own as long as the handle is open.

        Args:
            doing: "making this map", for the message.

        Raises:
            ConfigError: another process is at work in it. DataError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return claimed(self.path / MARKER)
        except BlockingIOError:
            raise ConfigError(f"{self.path}: another process is {doing}; wait for it, or give another --out") from None
        except OSError as error:
            raise DataError.unwritable(self.path, error) from error

    def keeps(self, what: str) -> None:
        """As `keeps` of `process.py`, of this folder."""
        keeps(what, self.path)

    def files(self) -> list[Path]:
        """What lies in it, but for the marker of a process at work."""
        return [file for file in self.path.iterdir() if not file.name.startswith(MARKER)]

    def is_forgotten(self) -> bool:
        """Whether a killed process left it and nobody has gone on with it for `KEPT_DAYS`."""
        old = time.time() - KEPT_DAYS * 86400
        return self.path.stat().st_mtime < old and is_abandoned(self.path / MARKER)


class CheckpointsKept(KeyboardInterrupt):
    """A signal ended a training from whose checkpoints --resume goes on."""


@contextmanager
def kept_checkpoints(
    runs: Path, key: str, resume: bool, reporter: Reporter, newest: Callable[[Path], str]
) -> Iterator[Path]:
    """`<runs>/.resume/<key>`, removed where the block ends well.

    Args:
        runs: the folder that holds runs.
        key: says what is trained on what.
        resume: go on from what is there.
        newest: folder -> what its newest checkpoint is called ("step 12"), "" where it holds none.

    Raises:
        ConfigError: an unfinished training is there and it is not to be resumed. CheckpointsKept: a signal stopped it.
    """
    work = WorkFolder.of(runs, key)
    folder = work.path
    run_on_all(lambda: _refuse_unfinished(folder, resume, newest))
    claim: list[IO[bytes]] = []
    made = [parent for parent in folder.parents if not parent.exists()]
    run_on_all(lambda: claim.append(work.claimed("running this fit")) if is_main() else None)
    try:
        yield folder
    except BaseException as error:
        if is_main():
            if done := newest(folder):
                if isinstance(error, KeyboardInterrupt):
                    keeps(done, folder)
                    raise CheckpointsKept from error
                done = done[0].upper() + done[1:]
                reporter.info(f"{done} is kept in {folder}; the same command with --resume continues from it")
            else:
                shutil.rmtree(folder, ignore_errors=True)
                _remove_empty(made)
        raise
    else:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
            remove_abandoned(_without_use(folder.parent), MARKER)
            _remove_empty([folder.parent])
    finally:
        for handle in claim:
            handle.close()


def _without_use(place: Path) -> list[Path]:
    """Trainings that nobody can go on with, having no checkpoint, or has gone on with for long."""
    folders = [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
    old = time.time() - KEPT_DAYS * 86400
    kept = ((folder, [file for suffix in CHECKPOINTS for file in folder.rglob(suffix)]) for folder in folders)
    return [folder for folder, checkpoints in kept if all(file.stat().st_mtime < old for file in checkpoints)]


def _refuse_unfinished(folder: Path, resume: bool, newest: Callable[[Path], str]) -> None:
    if not resume and (done := newest(folder)):
        raise ConfigError(
            f"{folder}: this fit was stopped after {done}; add --resume to continue it, or remove that folder to start "
            "again"
        )
