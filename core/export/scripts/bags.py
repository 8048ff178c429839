"""Classify bags, the features of many parts, with the model beside this file: python predict.py BAG ... [--top 3]

A bag is a .npz, .safetensors or .h5 file with the features (T, D) of the tiles of a slide as `features`, and where they
lie (T, 2) as `coords`, if that is known; a model of two magnifications takes the features of the lower one as `coarse`.
Needs onnxruntime, numpy and pillow, and h5py for .h5. Prints a JSON object per bag, as `vladapt predict` does, and
faults on stderr.
"""

import json
import sys
from pathlib import Path

import numpy as np

try:
    from ..standalone import answer_all
except ImportError:  # a script, whose folder `python -I` leaves out
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from standalone import answer_all  # type: ignore[no-redef]

NUMBERS = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64}
"""Types of safetensors that are read."""
ARRAYS = ("features", "coords", "coarse")
MOST = 5
"""Parts that are named."""


def bag(path, facts):
    """Inputs of the graph: (T, D) float32 features of the parts of a sample, and of two magnifications of the lower.
    Beside them (T, 2) whole numbers, where the first lie, or None."""
    try:
        arrays = arrays_of(path)
    except (OSError, ValueError):
        raise
    except Exception as error:  # damaged files make zipfile, zlib, numpy and h5py raise many types
        raise ValueError(f"not a readable file of arrays ({error or type(error).__name__})") from None
    inputs = {"bag": floats(arrays, "features", facts["width"])}
    if facts.get("magnifications", 1) > 1:
        inputs["coarse"] = floats(arrays, "coarse", facts["width"])
    coords, count = arrays.get("coords"), len(inputs["bag"])
    if coords is not None and (coords.shape != (count, 2) or coords.dtype.kind not in "iu"):
        raise ValueError(f"coords are {coords.dtype} {coords.shape}; ({count}, 2) whole numbers are needed")
    return inputs, coords


def floats(arrays, name, width):
    """An array of features (T, D) as float32."""
    features = arrays.get(name, np.zeros(0))
    features = features[0] if features.ndim == 3 and len(features) == 1 else features
    if features.ndim != 2 or not len(features) or features.shape[1] != width or features.dtype.kind != "f":
        raise ValueError(f"{name} are {features.dtype} {features.shape}; (parts, {width}) floats are needed")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} hold NaN or infinity")
    return np.ascontiguousarray(features, dtype=np.float32)


def arrays_of(path):
    """Those of the arrays of a bag that a file holds."""
    ending = path.suffix.lower()
    if ending == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ARRAYS if name in file}
    if ending not in (".h5", ".hdf5"):
        return tensors(path)
    try:
        from h5py import File
    except ImportError:
        raise ValueError("h5py reads such files; pip install h5py") from None
    with File(path) as file:
        return {name: file[name][()] for name in ARRAYS if name in file}


def tensors(path):
    """The arrays of a .safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        header, arrays = json.loads(content[8:start]), {}
        for name in set(ARRAYS) & set(header):
            (first, last), kind = header[name]["data_offsets"], NUMBERS[header[name]["dtype"]]
            arrays[name] = np.frombuffer(content[start + first : start + last], kind).reshape(header[name]["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a .safetensors file of float16 or float32 ({error})") from None
    return arrays


def deciding(logits, attention, coords=None):
    """The parts that weigh most for the likeliest class: `logits` (C,), `attention` (K, T), K = C or 1."""
    weights = attention[int(logits.argmax()) if len(attention) > 1 else 0]
    rows = [{"part": int(t), "weight": round(float(weights[t]), 6)} for t in np.argsort(-weights, kind="stable")[:MOST]]
    return [{**row, **({} if coords is None else dict(zip("xy", coords[row["part"]].tolist())))} for row in rows]


def parts_of(outputs, coords):
    """What is said of the parts, where the method weighs them."""
    if "attention" not in outputs:
        return {}
    return {"parts": deciding(outputs["logits"][0], outputs["attention"], coords)}


if __name__ == "__main__":
    answer_all(__doc__, "bag", "bag", bag, parts_of)
