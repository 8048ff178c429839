"""Features that a user brings in a file: of the names of classes, or of a target set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data import ArrayFile
from ..errors import DataError
from ..runtime.reading import check_regular

CURE = "give a .npy, .npz or .safetensors file of features by the encoder of the pairs"


def feature_rows(place: str, kinds: tuple[str, ...], encoder: str, width: int) -> np.ndarray:
    """(M, D) float32 rows of length 1.

    Args:
        place: a `.npy` file of one array, or an `.npz` or `.safetensors` file.
        kinds: names of the array in it, the first that is there.
        encoder: of the pairs.
        width: D of the pairs.

    Raises:
        DataError: no such file, no such array, rows that are not finite, or of another encoder.
    """
    path = Path(place)
    check_regular(path, CURE)
    arrays, theirs = _arrays(path, kinds)
    kind = next((each for each in kinds if each in arrays), None)
    if kind is None:
        raise DataError(f"{path}: lacks {' or '.join(kinds)}; {CURE}")
    rows = np.asarray(arrays[kind], np.float32)
    if theirs and encoder and theirs != encoder:
        raise DataError(f"{path}: features of another encoder than the pairs'; {CURE}")
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise DataError(f"{path}: {kind} has shape {rows.shape}, the pairs have {width} numbers per row; {CURE}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise DataError(f"{path}: a row of {kind} is zero or not finite; {CURE}")
    return rows / norms


def _arrays(path: Path, kinds: tuple[str, ...]) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of these names, and the encoder that the file names."""
    if path.suffix == ".npz":
        file = ArrayFile(path)
        return file.load([name for name in file.headers() if name in kinds]), ""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="np") as stored:
                arrays = {name: stored.get_tensor(name) for name in kinds if name in set(stored.keys())}
                return arrays, (stored.metadata() or {}).get("backbone", "")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: not readable ({' '.join(str(error).split())}); {CURE}") from None
    if path.suffix != ".npy":
        raise DataError(f"{path}: not a file of features; {CURE}")
    try:
        return {kinds[0]: np.load(path, allow_pickle=False)}, ""
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({' '.join(str(error).split())}); {CURE}") from None
