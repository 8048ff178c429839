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
    from .pictures import asked, decoded, encoded, enlarged, facts_of, pixels
except ImportError:  # a script, whose folder `python -I` leaves out
    sys.path.insert(0, str(HERE))
    from pictures import asked, decoded, encoded, enlarged, facts_of, pixels  # type: ignore[no-redef]

UNSURE = 0.3
"""Boxes scored below this are not counted in a summary, unless another score is asked for."""


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
    sure = without_rivals(kept, boxes, labels, rule["learned_together"])
    return boxes[sure], scores[sure], labels[sure]


def without_rivals(places, boxes, labels, together):
    """Of some boxes, the surest first, those that stay: of names that were not learned together one thing has one."""
    sure, together = [], np.array(together)
    for each in places:
        rivals = [other for other in sure if labels[other] != labels[each]]
        rivals = [other for other in rivals if not (together[labels[other]] and together[labels[each]])]
        if not (overlaps(boxes[each], boxes[rivals]) >= 0.5).any():
            sure.append(each)
    return sure


def boxes_of_queries(outputs, whole, rule):
    """Boxes, scores, numbers of classes as of `boxes_of`, and masks: an array of encoded ones, or None without any;
    `rule` is "queries" of export.json."""
    logits = outputs["logits"][0]  # (Q, C)
    if rule["softmax"]:  # the last class is no object
        shares = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[:, :-1]
    else:
        shares = 1 / (1 + np.exp(-logits))
    shares = shares if rule["rows"] is None else shares[:, rule["rows"]]
    if rule["per_query"]:
        queries, labels = np.arange(len(shares)), shares.argmax(axis=1)
    else:
        places = np.argsort(-shares.ravel(), kind="stable")[: rule["most"] or len(shares)]
        queries, labels = np.divmod(places, shares.shape[1])
    scores = shares[queries, labels]
    height, width = whole
    if "boxes" in outputs:
        centres, sizes = np.split(outputs["boxes"][0][queries], 2, axis=1)
        boxes = np.hstack([centres - sizes / 2, centres + sizes / 2]) * np.float32([width, height, width, height])
        seen = np.full(len(scores), True)
    else:  # those of the masks, which tell how sure they are too, never surer than the score says
        likely = scores >= rule["score_thr"]
        queries, labels, scores = queries[likely], labels[likely], scores[likely]
        outlines = {query: outlined(outputs["masks"][0, query], whole, rule) for query in np.unique(queries)}
        edges = {query: edges_of(mask) for query, (mask, _) in outlines.items()}
        boxes = np.float32([edges[query] for query in queries]).reshape(-1, 4)
        scores = scores * np.float32([outlines[query][1] for query in queries])
        seen = boxes[:, 2] > boxes[:, 0]
    order = np.argsort(-scores, kind="stable")
    order = order[seen[order] & (scores[order] >= rule["score_thr"])]
    sure = without_rivals(order, boxes, labels, rule["learned_together"])
    masks = None
    if "masks" in outputs:
        masks = np.empty(len(sure), object)
        for place, each in enumerate(sure):
            mask = outputs["masks"][0, queries[each]]
            mask = enlarged(mask[..., None], *whole)[..., 0] > 0 if "boxes" in outputs else outlines[queries[each]][0]
            masks[place] = encoded(mask)
    return boxes[sure], scores[sure], labels[sure], masks


def outlined(logits, whole, rule):
    """A mask (H, W) of `whole` of logits (h, w), cut in the raster or at the size of the image, and its mean
    probability there."""
    for size in (rule["raster"], whole if rule.get("cut_at_image") else None):
        logits = logits if size is None else enlarged(logits[..., None], *size)[..., 0]
    inside = logits > 0
    sureness = (inside / (1 + np.exp(-logits))).sum() / (inside.sum() + 1e-6)
    rows, columns = (
        (np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(int).clip(0, old - 1)
        for old, new in zip(inside.shape, whole)
    )
    return inside[rows][:, columns], sureness


def edges_of(mask):
    """x0, y0, x1, y1 of the pixels that a mask covers; zeros where it covers none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)


def answer_of(outputs, size, whole, facts):
    """What the outputs for a picture say; see `boxes_of` and `boxes_of_queries`."""
    if "queries" in facts:
        return boxes_of_queries(outputs, whole, facts["queries"])
    return *boxes_of(outputs, size, whole, facts["boxes"]), None


def summary_of(scores, labels, class_names, least=UNSURE):
    """ "2 raccoon (0.97), 1 cat (0.41)": how many of each class, the surest first, and the best score."""
    sure = scores >= least
    if not sure.any():
        best = f"; the best has {np.floor(100 * scores.max()) / 100:.2f}" if len(scores) else ""  # 0.299 is not 0.30
        return f"nothing scored {least} or more{best}"
    numbers, counts = np.unique(labels[sure], return_counts=True)
    rows = [(scores[sure & (labels == each)].max(), count, class_names[each]) for each, count in zip(numbers, counts)]
    return ", ".join(f"{count} {name} ({best:.2f})" for best, count, name in sorted(rows, key=lambda row: -row[0]))


def row_of(name, answer, class_names, least):
    """What is said of an image: boxes x0, y0, x1, y1 in its own pixels, the surest first, and masks as COCO compresses
    them."""
    boxes, scores, labels, masks = answer
    scores = scores.astype(float).round(5)
    sure = scores >= (least or 0.0)
    return {
        "id": str(name),
        "boxes": boxes[sure].astype(float).round(2).tolist(),
        "scores": scores[sure].tolist(),
        "labels": [class_names[each] for each in labels[sure]],
        **({} if masks is None else {"masks": masks[sure].tolist()}),
        "summary": summary_of(scores, labels, class_names, UNSURE if least is None else least),
    }


if __name__ == "__main__":
    facts = facts_of(HERE)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--score", type=float, help="score from which on a box is written")
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
        answer = answer_of(outputs, size, picture.shape[:2], facts)
        print(json.dumps(row_of(path, answer, facts["class_names"], given.score)))
    sys.exit(int(failed))
