"""Boxes of things, by the model beside this file: python predict.py IMAGE ... [--score 0.3]

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
    from .pictures import asked, decoded, pixels
except ImportError:  # a script, whose folder `python -I` leaves out
    sys.path.insert(0, str(HERE))
    from pictures import asked, decoded, pixels  # type: ignore[no-redef]

UNSURE = 0.3
"""Boxes scored below this are not counted in a summary."""


def overlaps(box, others):
    """(4,) and (n, 4) -> (n,) intersection over union."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = shared.clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return shared / np.maximum((box[2:] - box[:2]).prod() + areas - shared, 1e-9)


def boxes_of(outputs, size, whole, rule):
    """Boxes (n, 4) in the pixels of a picture of `whole` (height, width) that has `size` in the graph's input, scores
    and numbers of classes (n,), the surest first; `rule` is "boxes" of export.json."""
    parts = []
    for level in range(sum(name.startswith("scores") for name in outputs)):
        scores, boxes = outputs[f"scores_{level}"][0], outputs[f"boxes_{level}"][0]
        rows, labels = np.nonzero(scores > rule["score_thr"])
        order = np.argsort(-scores[rows, labels], kind="stable")[: rule["nms_pre"]]
        sure = scores[rows, labels][order]
        if f"factors_{level}" in outputs:  # how near the middle of its thing each place is
            sure = sure * outputs[f"factors_{level}"][0][rows[order]]
        parts.append((boxes[rows[order]], sure, labels[order]))
    boxes, scores, labels = map(np.concatenate, zip(*parts))
    boxes = boxes.clip(0, np.float32([size[1], size[0]] * 2)) / np.float32([size[1] / whole[1], size[0] / whole[0]] * 2)
    left, kept = np.argsort(-scores, kind="stable"), []
    left = left[(boxes[left, 2:] - boxes[left, :2] > rule["min_bbox_size"]).all(axis=1)]
    while len(left) and len(kept) < rule["max_per_img"]:
        first, left = left[0], left[1:]
        kept.append(first)
        near = overlaps(boxes[first], boxes[left]) > rule["iou_threshold"]
        left = left[(labels[left] != labels[first]) | ~near]
    sure, together = [], np.array(rule["learned_together"])
    for each in kept:  # of names that were not learned together one thing has the surest alone
        rivals = [other for other in sure if labels[other] != labels[each]]
        rivals = [other for other in rivals if not (together[labels[other]] and together[labels[each]])]
        if not (overlaps(boxes[each], boxes[rivals]) >= 0.5).any():
            sure.append(each)
    return boxes[sure], scores[sure], labels[sure]


def summary_of(scores, labels, class_names):
    """ "2 raccoon (0.97), 1 cat (0.41)": how many of each class, the surest first, and the best score."""
    sure = scores >= UNSURE
    if not sure.any():
        best = f"; the best has {scores.max():.2f}" if len(scores) else ""
        return f"nothing scored {UNSURE} or more{best}"
    numbers, counts = np.unique(labels[sure], return_counts=True)
    rows = [(scores[sure & (labels == each)].max(), count, class_names[each]) for each, count in zip(numbers, counts)]
    return ", ".join(f"{count} {name} ({best:.2f})" for best, count, name in sorted(rows, key=lambda row: -row[0]))


def row_of(name, found, class_names, least):
    """What is said of an image: boxes x0, y0, x1, y1 in its own pixels, the surest first."""
    boxes, scores, labels = found[0], found[1].astype(float).round(5), found[2]
    sure = scores >= least
    return {
        "id": str(name),
        "boxes": boxes[sure].astype(float).round(2).tolist(),
        "scores": scores[sure].tolist(),
        "labels": [class_names[each] for each in labels[sure]],
        "summary": summary_of(scores[sure], labels[sure], class_names),
    }


if __name__ == "__main__":
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--score", type=float, default=0.0, help="score from which on a box is written")
    given = parser.parse_args()
    ask = asked(HERE, facts)
    failed = False
    for path in given.images:
        try:
            picture = decoded(path)
            planes, size = pixels(picture, facts["preprocessing"])
            outputs = ask({"pixels": planes})
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"{path}: {' '.join(str(error).split())}; replace or remove it", file=sys.stderr)
            failed = True
            continue
        found = boxes_of(outputs, size, picture.shape[:2], facts["boxes"])
        print(json.dumps(row_of(path, found, facts["class_names"], given.score)))
    sys.exit(int(failed))
