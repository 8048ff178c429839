"""Classify images with the model beside this file: python predict.py IMAGE ... [--top 3] [--coverage 0.9]

Needs onnxruntime, numpy and pillow. Prints a JSON object per image, as `vladapt predict` does, and faults on stderr."""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent


def decoded(path):
    """The picture, upright and in colours, transparent pixels over white; deeper than 8 bits, a list of 3 bands."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            values, full = np.asarray(image).astype(np.float64), 1.0 if image.mode == "F" else 65535.0
            low, high = values.min(), values.max()
            values = (values - low) / ((high - low) or 1.0) if low < 0 or high > full else values / full
            return [Image.fromarray(values.astype(np.float32))] * 3
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")


def pixels(image, how):
    """(1, 3, H, W) float32 as the graph takes them; `how` is "preprocessing" of export.json."""
    planes = [np.asarray(_cut(each, how), np.float32) for each in (image if isinstance(image, list) else [image])]
    planes = np.stack(planes, axis=-1).clip(0, 1) if len(planes) > 1 else planes[0] / 255  # (H, W, 3)
    planes = (planes - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(planes.transpose(2, 0, 1)[None], dtype=np.float32)


def _cut(image, how):
    size, filter = how["image_size"], Image.Resampling[how["interpolation"].upper()]
    rows, columns = (size, size) if isinstance(size, int) else size
    if how["mode"] == "squash":
        return image.resize((columns, rows), filter)
    most = 100 * min(image.size)  # of a longer strip the ends are cut off first
    image = _middle(image, min(image.width, most), min(image.height, most)) if max(image.size) > most else image
    short = how.get("resize") or min(rows, columns)
    scale = max(rows / image.height, columns / image.width) * short / min(rows, columns)
    new = max(columns, round(scale * image.width)), max(rows, round(scale * image.height))
    if isinstance(size, int):
        new = tuple(short if side == min(image.size) else int(short * side / min(image.size)) for side in image.size)
    return _middle(image if new == image.size else image.resize(new, filter), columns, rows)


def _middle(image, width, height):
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def patient_row(name, images, logits, facts, **how):
    """What is said of the patient that all images are of: `logits` (N, C) are calibrated."""
    several, of, finding = facts["multilabel"], facts["per_patient"], facts.get("finding")
    pool = np.max if of["how"] == "max" else np.mean
    shares = pool(shares_of(logits.astype(np.float64), several), 0).clip(1e-12, 1 - 1e-12)
    odds = np.log(shares) - np.log1p(-shares)
    of_finding = np.where(np.array(facts["class_names"]) == finding, odds, 0)
    pooled = (odds if several else np.log(shares) if finding is None else of_finding) / of["temperature"] + of["offset"]
    return {"id": name, "images": list(map(str, images))} | row_of(name, pooled, None, {**facts, **of}, **how)


def shares_of(logits, several):
    """Probabilities of calibrated logits (..., C)."""
    return 1 / (1 + np.exp(-logits)) if several else np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))


def row_of(name, logits, distance, facts, top=3, coverage=None, per="all", threshold=None):
    """What is said of an image: `logits` (C,) are calibrated, `distance` is that to what the model learned from."""
    finding, point = facts.get("finding"), facts.get("operating_point") or {}
    several, names = facts["multilabel"], facts["class_names"]
    shares = shares_of(logits.astype(np.float64), several)
    ranked = [{"class": names[c], "probability": float(shares[c])} for c in np.argsort(-shares, kind="stable")[:top]]
    row, threshold = {"id": str(name)}, point.get(finding) if threshold is None else threshold
    if several:
        least = np.array(facts["thresholds"]) if threshold is None else np.full(len(names), threshold)
        answered = shares >= least
        row |= {"labels": [n for n, yes in zip(names, answered) if yes], "confidences": shares[answered].tolist()}
        row |= {"thresholds": least.tolist()} if point or threshold is not None else {}
    elif threshold is None:
        answered = shares >= shares.max()
        row |= {"label": ranked[0]["class"], "confidence": ranked[0]["probability"]}
    else:
        answered = (shares[names.index(finding)] >= threshold) == (np.array(names) == finding)
        row |= {"label": names[answered.argmax()], "confidence": float(shares[answered][0]), "threshold": threshold}
    if coverage is not None:
        least = (facts["coverage"] if per == "all" else facts["coverage_per"][per])[str(coverage)]
        row["set"] = [n for n, yes in zip(names, answered | (shares >= np.array(least))) if yes]
    return {**row, **({} if distance is None else {"unlike": bool(distance > facts["unlike_beyond"])}), "top": ranked}


def facts_of(folder):
    """What export.json says, where neither it nor a file that it names is other than it was written."""
    try:
        facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {"sha256": {"export.json": "of no file"}}
    for file, digest in ((folder / name, digest) for name, digest in facts.get("sha256", {}).items()):
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            sys.exit(f"{file}: missing, damaged or replaced; copy the whole folder again, or export the run again")
    return facts


def answer_all(words, kind, graph, read, further=lambda outputs, known: {}):
    """Answer the files of the command line; `read(path, facts)` gives what the graph takes and what `further` knows."""
    facts = facts_of(HERE)
    parser = argparse.ArgumentParser(description=words.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar=kind.upper())
    parser.add_argument("--top", type=int, default=3, help=f"classes per {kind}")
    parser.add_argument("--coverage", choices=sorted(facts["coverage"]), help="share of sets with the right class")
    parser.add_argument("--coverage-per", dest="per", choices=["all", *facts.get("coverage_per", ())], default="all")
    if facts["multilabel"] or facts.get("finding") is not None:
        parser.add_argument("--threshold", type=float, help="name a finding from this probability on")
    if of := facts.get("per_patient"):
        parser.add_argument("--per-patient", action="store_true", help=f"one answer, by the {of['how']} of all {kind}s")
    how = vars(parser.parse_args())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
    session = onnxruntime.InferenceSession(HERE / facts["graphs"][graph], options, providers=["CPUExecutionProvider"])
    answered, files, together = {}, how.pop("files"), how.pop("per_patient", False)
    for path in files:
        try:
            taken, known = read(path, facts)
            inputs = taken if isinstance(taken, dict) else {graph: taken}
            outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs)))
            if not np.isfinite(outputs["logits"]).all():
                raise ValueError("the model gives NaN or infinity for it")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"{path}: {' '.join(str(error).split())}; replace it or leave it out", file=sys.stderr)
            continue
        answered[path] = outputs["logits"][0]
        if not together:
            row = row_of(path, answered[path], outputs.get("distance", [None])[0], facts, **how)
            print(json.dumps(row | further(outputs, known)))
    if together and answered:
        print(json.dumps(patient_row("patient", answered, np.stack([*answered.values()]), facts, **how)))
    sys.exit(int(not answered.keys() >= set(files)))


if __name__ == "__main__":
    answer_all(__doc__, "image", "pixels", lambda path, facts: (pixels(decoded(path), facts["preprocessing"]), None))
