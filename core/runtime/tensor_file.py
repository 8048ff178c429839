"""A file of a run: tensors in the body of safetensors, JSON in its header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import DataError
from .files import write_whole

HEADER = "vladapt"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write atomically: a reader sees the old file or the whole new one. Returns the path."""
    body = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(body, metadata={HEADER: json.dumps(dict(header))}))
    return path


def read_tensors(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """What the header says, which may be anything, and the tensors by name.

    Raises:
        DataError: not such a file, or a damaged one.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not a mapping)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error}); copy the run again") from None
