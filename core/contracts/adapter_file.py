"""A fitted adapter as one safetensors file: tensors in the body, everything else as JSON in the header. No pickle.

A dict of tensors lies in the body as "<attribute>/<key>".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from .adapter import Adapter
from ..errors import DataError, shortened
from ..runtime.files import replacing

FORMAT = 1
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


def write_adapter(adapter: Adapter, path: Path) -> Path:
    """Write atomically: a reader sees the old file or the whole new one."""
    if not getattr(adapter, "fitted_", False):
        raise DataError(f"adapter '{adapter.name}' is not fitted; there is nothing to save")
    values = {name: getattr(adapter, name) for name in adapter.state}
    dicts = [name for name, value in values.items() if _holds_tensors(value)]
    tensors = {k: v.detach().cpu().contiguous() for k, v in values.items() if isinstance(v, Tensor)}
    for name in dicts:
        # Cloned: tensors that share memory, as tied weights do, could not be written.
        tensors.update({f"{name}/{k}": v.detach().cpu().contiguous().clone() for k, v in values[name].items()})
    header = {
        "format": FORMAT,
        "adapter": adapter.name,
        "options": adapter.options,
        "scalars": {k: v for k, v in values.items() if not isinstance(v, Tensor) and k not in dicts},
        "dicts": dicts,
        "tensors": {name: _kind(tensor) for name, tensor in tensors.items()},
        "class_names": list(adapter.class_names_),
        "backbone": adapter.backbone_,
        "dim": adapter.dim_,
        "multilabel": adapter.multilabel_,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(tensors, str(partial), metadata={"vladapt": json.dumps(header)})
    return path


def read_adapter_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of an adapter file.

    Raises:
        DataError: no such file, damaged, not an adapter file, of a format this version does not read, or a tensor that
            is another one than was written, or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such adapter file; give the adapter.safetensors of a run")
    try:
        with safe_open(str(path), framework="pt") as f:
            header = json.loads((f.metadata() or {}).get("vladapt", "null"))
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (safe_open is not a mapping)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error}); fit again or copy it again") from None
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
        kind = _kind(tensor)
        if written is not None and written.get(name) != kind:
            expected = " ".join(map(str, written[name])) if name in written else "no such tensor"
            raise DataError(
                f"{path}: {name} is {kind[0]} {kind[1]}, the fit wrote {expected}; fit again or copy it again"
            )
        if unusable := not_finite(tensor):
            raise DataError(f"{path}: {name} holds {unusable}; fit again or copy it again")
    if lacking := [name for name in written or () if name not in tensors]:
        raise DataError(f"{path}: lacks {lacking[0]}, which the fit wrote; fit again or copy it again")


def _kind(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def restore_state(adapter: Adapter, header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Adapter:
    """Put a file's content into a newly built adapter."""
    lacking = [key for key in ("scalars", "class_names", "backbone", "dim", "multilabel") if key not in header]
    if lacking:
        raise DataError(f"{path}: its header lacks {', '.join(lacking)}; fit again")
    values = {**adapter.later_state, **header["scalars"], **tensors}
    for name in header.get("dicts", ()):
        values[name] = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}
    missing = [name for name in adapter.state if name not in values]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)} of adapter '{adapter.name}'; fit again")
    for name in adapter.state:
        setattr(adapter, name, values[name])
    adapter.class_names_ = tuple(header["class_names"])
    adapter.backbone_ = header["backbone"]
    adapter.dim_ = header["dim"]
    adapter.multilabel_ = header["multilabel"]
    adapter.fitted_ = True
    return adapter


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a dict of tensors. An empty dict is one: nothing of a model was changed."""
    return isinstance(value, dict) and all(isinstance(inner, Tensor) for inner in value.values())
