"""OpenAI's weights as a bare file: recognised, and read from their TorchScript archive without running it.

OpenAI trained CLIP (arXiv 2103.00020) with QuickGELU, x * sigmoid(1.702 x), and open_clip's plain spelling of an
architecture has GELU, so that a bare file would silently give other features. Its archives hold three facts among
their tensors; files that were made of them keep the facts, or are known by their sha256.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import DataError

FACTS = ("input_resolution", "context_length", "vocab_size")
"""Names of tensors that OpenAI's archives hold besides weights."""
SHA256 = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")
SHORT_SHA = re.compile(r"-([0-9a-f]{8})\.\w+$")
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
DEEPEST = 64
MARK = object()


def needs_quick_gelu(weights: Path, digest: str) -> bool:
    """Whether a file of weights is known to be made for QuickGELU; never told by the type of its numbers.

    Args:
        digest: the file's sha256, in hex.
    """
    return digest in _released() or digest[:8] in _released() or set(FACTS) <= set(_names_in(weights))


def is_released(digest: str, url: str) -> bool:
    """Whether a file of this sha256 is the one of a URL that names its sha256, or the first 8 digits of it."""
    return any(digest.startswith(named) for named in SHA256.findall(url) or SHORT_SHA.findall(url))


@lru_cache(maxsize=1)
def _released() -> frozenset[str]:
    """sha256 of the released files that open_clip knows as QuickGELU's, whole or their first 8 digits."""
    import open_clip

    tags: set[str] = set()
    for name, tag in open_clip.list_pretrained():
        entry = open_clip.get_pretrained_cfg(name, tag)
        if entry.get("quick_gelu"):
            url = entry.get("url") or ""
            tags.update(SHA256.findall(url) or SHORT_SHA.findall(url))
    return frozenset(tags)


def _names_in(weights: Path) -> list[str]:
    """The names of the tensors in a file; none where it cannot be read, which is said when it is loaded."""
    try:
        if weights.suffix == ".safetensors":
            with safe_open(str(weights), framework="pt") as f:
                return list(f.keys())
        if is_archive_of_code(weights):
            return [name for name, _ in _tensors(_module_of(weights))]
        content = torch.load(weights, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(weights))
    except (SafetensorError, DataError, OSError, ValueError):
        return []
    except Exception:  # torch raises errors of many kinds for a damaged file; `read_checkpoint` words them
        return []
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return [str(name) for name in content] if isinstance(content, dict) else []


def is_archive_of_code(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_archive(path: Path) -> dict[str, Tensor] | None:
    """Name -> tensor of OpenAI's TorchScript archive, facts included; None for an archive of another model.

    The archive's code is left alone, and its pickle is walked as data: no class is looked up and nothing is called.

    Raises:
        DataError: damaged, or larger inside than the file.
    """
    tensors = dict(_tensors(_module_of(path)))
    if not set(FACTS) <= set(tensors):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            storages = _storages(archive, path)
            return {name: _tensor(call.arguments, storages, path) for name, call in tensors.items()}
    except (OSError, zipfile.BadZipFile, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise _damaged(path) from error


@dataclass(eq=False)
class _Name:
    """A class or function that the pickle names."""

    path: str


@dataclass(eq=False)
class _Call:
    """What a name makes of arguments, and its attributes."""

    name: Any
    arguments: Any
    state: Any = None


@dataclass(eq=False)
class _Storage:
    """The numbers behind tensors: ("storage", type, key, device, count)."""

    facts: tuple


def _module_of(path: Path) -> _Call:
    """The archive's module, as data."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return _Machine(path).run(archive.read(name))
    except (OSError, zipfile.BadZipFile, StopIteration, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path) from error


def _tensors(module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, _Call]]:
    """(qualified name, call that makes the tensor) of a module and those inside it."""
    if not isinstance(module, _Call) or not isinstance(module.state, dict) or depth > DEEPEST:
        return
    for name, value in module.state.items():
        if not isinstance(value, _Call) or not isinstance(name, str):
            continue
        if isinstance(value.name, _Name) and value.name.path == "torch._utils._rebuild_tensor_v2":
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)


def _storages(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    """Key -> bytes of each storage. They are kept as they are, so that no more is read than the file holds."""
    storages = {}
    for entry in archive.infolist():
        folder, _, key = entry.filename.rpartition("/")
        if folder.rpartition("/")[2] == "data":
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _damaged(path)
            storages[key] = archive.read(entry)
    return storages


def _tensor(arguments: Any, storages: dict[str, bytes], path: Path) -> Tensor:
    storage, offset, size, stride = arguments[:4]
    _, kind, key, _, _ = storage.facts
    dtype = STORAGES.get(kind.path.rpartition(".")[2])
    if dtype is None or key not in storages:
        raise _damaged(path)
    if not storages[key]:
        return torch.empty(size, dtype=dtype)
    flat = torch.frombuffer(bytearray(storages[key]), dtype=dtype)
    return flat.as_strided(size, stride, offset).clone()


class _Machine:
    """Walks the pickle of an archive. Names stay names, and what they would make is written down as a `_Call`."""

    def __init__(self, path: Path):
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            step = getattr(self, f"_{opcode.name.lower()}", None)
            if opcode.name == "STOP":
                return self.stack.pop()
            if step is not None:
                step(argument)
            elif opcode.name in VALUES:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name])
            elif opcode.name not in SKIPPED:
                raise _damaged(self.path)
        raise _damaged(self.path)

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(MARK)
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken

    def _mark(self, _) -> None:
        self.stack.append(MARK)

    def _global(self, argument: str) -> None:
        self.stack.append(_Name(argument.replace(" ", ".")))

    def _empty_dict(self, _) -> None:
        self.stack.append({})

    def _empty_list(self, _) -> None:
        self.stack.append([])

    def _tuple(self, _) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _tuple2(self, _) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _tuple3(self, _) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _binput(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    _long_binput = _binput

    def _memoize(self, _) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _binget(self, key: int) -> None:
        self.stack.append(self.memo[key])

    _long_binget = _binget

    def _binpersid(self, _) -> None:
        self.stack.append(_Storage(tuple(self.stack.pop())))

    def _reduce(self, _) -> None:
        arguments = self.stack.pop()
        self.stack.append(_Call(self.stack.pop(), arguments))

    _newobj = _reduce

    def _build(self, _) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Call):
            raise _damaged(self.path)
        self.stack[-1].state = state

    def _setitem(self, _) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def _setitems(self, _) -> None:
        self._put(self._since_mark())

    def _put(self, pairs: list[Any]) -> None:
        holder = self.stack[-1]
        if isinstance(holder, dict):  # what is said of other objects holds no weights
            holder.update((key, value) for key, value in zip(pairs[::2], pairs[1::2]) if isinstance(key, (str, int)))

    def _append(self, _) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self, _) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)


VALUES = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"}
    | {"SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
SKIPPED = frozenset({"PROTO", "FRAME"})


def _damaged(path: Path) -> DataError:
    return DataError(f"{path}: a TorchScript archive that is truncated or damaged; copy or download it again")
