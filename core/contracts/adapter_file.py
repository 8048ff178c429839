"""Reading a fitted adapter from its file (`Adapter.save`): what is damaged, or of another kind, is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import DataError, shortened
from ..runtime.files import kind_of, read_tensors
from .adapter import FORMAT

HEADER: dict[str, Any] = {
    "adapter": str,
    "options": dict,
    "scalars": dict,
    "dicts": list,
    "tensors": dict,
    "class_names": list,
    "backbone": (str, type(None)),
    "dim": (int, type(None)),
    "multilabel": bool,
}
"""Of which kind each part of a header is."""
WIDEST = 1_000_000
"""Numbers of a feature."""


def read_adapter_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of an adapter file.

    Raises:
        DataError: no such file, damaged, not an adapter file, of a format this version does not read, or a tensor that
            is another one than was written, or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such adapter file; give the adapter.safetensors of a run")
    header, tensors = read_tensors(path, cure="fit again or copy it again")
    if not isinstance(header, dict) or "adapter" not in header:
        raise DataError(
            f"{path}: a safetensors file, but not one that an adapter wrote; give a run's adapter.safetensors"
        )
    if header.get("format") != FORMAT:
        raise DataError(f"{path}: written in format {header.get('format')}, this version reads {FORMAT}; fit again")
    _check_header(header, path)
    _check_tensors(tensors, header.get("tensors"), path)
    return header, tensors


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


def _check_header(header: dict[str, Any], path: Path) -> None:
    wrong = [key for key, kind in HEADER.items() if key in header and not isinstance(header[key], kind)]
    names = header.get("class_names", [])
    if wrong or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: its header is damaged at '{wrong[0] if wrong else 'class_names'}'; fit again")
    for name, value in header.get("scalars", {}).items():
        for number in _floats_in(value):
            if not math.isfinite(number):
                raise DataError(f"{path}: '{name}' in its header is {number}; fit again or copy it again")
    if header.get("dim") is not None and not 0 < header["dim"] <= WIDEST:
        raise DataError(f"{path}: its header is damaged at 'dim', {shortened(header['dim'])}; fit again")


def _floats_in(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _floats_in(inner)


def _check_tensors(tensors: dict[str, Tensor], written: dict[str, Any] | None, path: Path) -> None:
    """Each of the kind and shape that its header says, where it says any, and finite."""
    for name, tensor in tensors.items():
        kind = kind_of(tensor)
        if written is not None and written.get(name) != kind:
            expected = " ".join(map(str, written[name])) if name in written else "no such tensor"
            raise DataError(
                f"{path}: {name} is {kind[0]} {kind[1]}, the fit wrote {expected}; fit again or copy it again"
            )
        if unusable := not_finite(tensor):
            raise DataError(f"{path}: {name} holds {unusable}; fit again or copy it again")
    if lacking := [name for name in written or () if name not in tensors]:
        raise DataError(f"{path}: lacks {lacking[0]}, which the fit wrote; fit again or copy it again")
