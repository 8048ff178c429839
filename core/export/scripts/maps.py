"""A class for every pixel, by the model beside this file: python predict.py IMAGE ... [--out FOLDER] [--masks]

Needs onnxruntime, numpy and pillow. Prints a JSON object per image, and faults on stderr.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
try:
    from .pictures import asked, decoded, encoded, enlarged, facts_of, pixels
except ImportError:  # a script, whose folder `python -I` leaves out
    sys.path.insert(0, str(HERE))
    from pictures import asked, decoded, encoded, enlarged, facts_of, pixels  # type: ignore[no-redef]

TRACE = 0.005
"""Classes with a smaller share of an image are left out of its summary."""


def map_of(logits, size, whole, threshold):
    """(H, W) numbers of classes; `logits` (C, h, w) are those of a picture that has `size` in them."""
    logits = enlarged(logits[:, : size[0], : size[1]].transpose(1, 2, 0), *whole)
    return logits.argmax(axis=2) if logits.shape[2] > 1 else (1 / (1 + np.exp(-logits[..., 0])) > threshold).astype(int)


def summary_of(shares):
    """ "road 61%, car 4%"."""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= TRACE)


def row_of(name, classes, class_names, masks=False):
    """What is said of an image: which share of it each class has, and where."""
    shares = np.bincount(classes.ravel(), minlength=len(class_names)) / classes.size
    ranked = [each for each in np.argsort(-shares, kind="stable") if shares[each]]
    row = {"id": str(name), "shares": {class_names[each]: round(float(shares[each]), 5) for each in ranked}}
    where = {"masks": {class_names[each]: encoded(classes == each) for each in sorted(ranked)}} if masks else {}
    return {**row, **where, "summary": summary_of(row["shares"])}


def free_file(folder, stem):
    """Where a map is written: under the name of its image, numbered where a file has that already."""
    place, number = folder / f"{stem}.png", 1
    while place.exists():
        number += 1
        place = folder / f"{stem}-{number}.png"
    return place


if __name__ == "__main__":
    facts = facts_of(HERE)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="folder for maps: PNG, grey values are classes; none replaces a file")
    parser.add_argument("--masks", action="store_true", help="print where each class is, as COCO's compressed runs")
    given = parser.parse_args()
    ask = asked(HERE, facts)
    failed = False
    for path in given.images:
        try:
            picture = decoded(path)
            planes, size = pixels(picture, facts["preprocessing"])
            logits = ask({"pixels": planes})["logits"][0]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"{path}: {' '.join(str(error).split())}; replace or remove it", file=sys.stderr)
            failed = True
            continue
        classes = map_of(logits, size, picture.shape[:2], facts["threshold"])
        row = row_of(path, classes, facts["class_names"], given.masks)
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            row["map"] = str(free_file(given.out, path.stem))
            Image.fromarray(classes.astype(np.uint8 if classes.max() < 256 else np.uint16)).save(row["map"])
        print(json.dumps(row))
    sys.exit(int(failed))
