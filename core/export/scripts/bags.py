"""Classify bags, the features of many parts, with the model beside this file: python predict.py BAG ... [--top 3]

A bag is a .npz, .safetensors or .h5 file with the features (T, D) of the tiles of a slide as `features`, and where they
lie (T, 2) as `coords`, if that is known. Needs onnxruntime, numpy and pillow, and h5py for .h5. Prints a JSON object
per bag, as `vladapt predict` does, and faults on stderr.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
try:
    from ..standalone import check, patient_row, row_of
except ImportError:  # a script, whose folder `python -I` leaves out
    sys.path.insert(0, str(HERE))
    from standalone import check, patient_row, row_of  # type: ignore[no-redef]

NUMBERS = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64}
"""Types of safetensors that are read."""
MOST = 5
"""Parts that are named."""


def bag(path, width):
    """(T, D) float32 features of the parts of a sample, and (T, 2) whole numbers where they lie, or None."""
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("features", "coords") if name in file}
    elif path.suffix.lower() in (".h5", ".hdf5"):
        try:
            from h5py import File
        except ImportError:
            raise ValueError("h5py reads such files; pip install h5py") from None
        with File(path) as file:
            arrays = {name: file[name][()] for name in ("features", "coords") if name in file}
    else:
        arrays = tensors(path)
    features, coords = arrays.get("features", np.zeros(0)), arrays.get("coords")
    features = features[0] if features.ndim == 3 and len(features) == 1 else features
    if features.ndim != 2 or not len(features) or features.shape[1] != width or features.dtype.kind != "f":
        raise ValueError(f"features are {features.dtype} {features.shape}; (parts, {width}) floats are needed")
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity")
    if coords is not None and (coords.shape != (len(features), 2) or coords.dtype.kind not in "iu"):
        raise ValueError(f"coords are {coords.dtype} {coords.shape}; ({len(features)}, 2) whole numbers are needed")
    return np.ascontiguousarray(features, dtype=np.float32), coords


def tensors(path):
    """The arrays of a .safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        header, arrays = json.loads(content[8:start]), {}
        for name in {"features", "coords"} & set(header):
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


if __name__ == "__main__":
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    check(facts)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bags", nargs="+", type=Path)
    parser.add_argument("--top", type=int, default=3, help="classes per bag")
    parser.add_argument("--coverage", choices=sorted(facts["coverage"]), help="share of sets with the right class")
    parser.add_argument("--coverage-per", dest="per", choices=["all", *facts.get("coverage_per", ())], default="all")
    if facts["multilabel"] or facts.get("finding") is not None:
        parser.add_argument("--threshold", type=float, help="name a finding from this probability on")
    if "per_patient" in facts:
        words = f"one answer, by the {facts['per_patient']['how']}, for the patient that all bags are of"
        parser.add_argument("--per-patient", action="store_true", help=words)
    given = vars(parser.parse_args())
    graph = onnxruntime.InferenceSession(HERE / facts["graphs"]["bag"], providers=["CPUExecutionProvider"])
    names, failed = [each.name for each in graph.get_outputs()], False
    together, of_patient = given.pop("per_patient", False), {}
    for path in given.pop("bags"):
        try:
            features, coords = bag(path, facts["width"])
            outputs = dict(zip(names, graph.run(None, {"bag": features})))
            if not np.isfinite(outputs["logits"]).all():
                raise ValueError("the model gives NaN or infinity for it")
        except (OSError, ValueError, EOFError) as error:
            print(f"{path}: {' '.join(str(error).split())}; replace it or leave it out", file=sys.stderr)
            failed = True
            continue
        logits, distance = outputs["logits"][0], outputs.get("distance", [None])[0]
        if together:
            of_patient[path] = logits
            continue
        row = row_of(path, logits, distance, facts, **given)
        print(
            json.dumps(
                row | ({"parts": deciding(logits, outputs["attention"], coords)} if "attention" in outputs else {})
            )
        )
    if of_patient:
        print(json.dumps(patient_row("patient", of_patient, np.stack([*of_patient.values()]), facts, **given)))
    sys.exit(int(failed))
