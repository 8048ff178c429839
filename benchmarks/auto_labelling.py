"""How far labels that a detector draws go: a detector of 40 drawn scenes labels 200 others, and a second fit learns.

    python benchmarks/auto_labelling.py [--seeds 1,2,3] [--scenes 40,200,60] [--images-seen 640] [--store DIR]

Scenes are those of `plain_shapes.py`, with things of 16 names. Of each seed: the labels that the first detector draws
in the pool beside the true ones (right: of the true name, at an overlap of 50 % or more, once; missed; false), and AP
and AP50, on the same test scenes, of three detectors that see equally many images in training: of the annotated scenes
alone, of these and the drawn labels, of these and true labels. Nobody reviews any. The tower is frozen, and sees each
image once. Times are of the CPU. Runs and labels are kept in `--store`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from open_vocab_remembering import keep_maps
from PIL import Image
from plain_shapes import draw_shapes

from vladapt.core.engine.fit import fit, predict
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runs.folder import Run
from vladapt.domains.open_vocab.data import read_detection
from vladapt.domains.open_vocab.inference.predictions import OVERLAP, box_overlaps
from vladapt.domains.open_vocab.shapes import NAMES, SIDE

RECIPE, BATCH = "open-vocab/retinanet", 4
NARROW = {
    "backbone.frozen": True,
    "backbone.frozen_stages": -1,
    "neck.out_channels": 64,
    "neck.num_outs": 3,
    "bbox_head.in_channels": 64,
    "bbox_head.feat_channels": 64,
    "bbox_head.anchor_generator.scales_per_octave": 2,
    "bbox_head.anchor_generator.ratios": [1.0],
    "bbox_head.anchor_generator.strides": [8, 16, 32],
}
"""RetinaNet on the frozen tower, half as wide, with anchors for things of 26 to 48 pixels: minutes on one core."""
SHARE_OF_VAL = 5
"""One annotated scene in so many is val."""
POOL, TEST, NEXT_SEED = 10_000, 20_000, 1_000
"""Numbers of the first scene of the pool and of the test set, and between those of two seeds."""
ROWS = ("the annotated scenes alone", "and the labels that it drew", "and true labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--scenes", default="40,200,60", help="annotated, in the pool, for testing")
    parser.add_argument("--images-seen", type=int, default=640, help="in each training")
    parser.add_argument("--store", default="auto_labelling", help="folder of runs and labels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_maps()
    counts = tuple(map(int, arguments.scenes.split(",")))
    drawn, scores = [], []
    for seed in map(int, arguments.seeds.split(",")):
        labels, of_fits = _one_seed(Path(arguments.store) / str(seed), seed, counts, arguments.images_seen)
        drawn.append(labels)
        scores.append(of_fits)
        print(json.dumps({"seed": seed, "labels": labels, "fits": of_fits}), flush=True)
    print("\n".join(_tables(drawn, scores)))


def _one_seed(store: Path, seed: int, counts: Sequence[int], images_seen: int) -> tuple[dict, list[dict]]:
    annotated, pool, test = counts
    first = seed * NEXT_SEED
    val = annotated // SHARE_OF_VAL
    people = {"train": range(first, first + annotated - val), "val": range(first + annotated - val, first + annotated)}
    people["test"] = range(TEST, TEST + test)
    new = range(POOL + first, POOL + first + pool)
    own = _written(store / "annotated", people)
    true = _written(store / "true", {**people, "train": [*people["train"], *new]})
    pictures = _written(store / "pool", {"train": new}) / "images"
    before = _fitted(own, store, seed, images_seen, annotated - val)
    labels = store / "labelled"
    predict(before["run"], [pictures], out=labels, outputs="coco", own_data=True)
    among = annotated - val + pool
    others = [_fitted(data, store, seed, images_seen, among) for data in (labels, true)]
    chosen = Run.open(before["run"]).info["plan"]["vladapt"]["confidence"]
    return {**_compared(labels, true), "score": chosen["score"], "val_f1": chosen["f1"]}, [before, *others]


def _written(folder: Path, splits: dict[str, Sequence[int]]) -> Path:
    """Scenes as a COCO set."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, numbers in splits.items():
        images, annotations = [], []
        for number in numbers:
            picture, things = draw_shapes(number)
            name = f"scene-{number:06d}.png"
            Image.fromarray(picture).save(folder / "images" / name)
            images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            for label, outline in things:
                corners = np.array(outline)
                low, high = corners.min(axis=0), corners.max(axis=0)
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
                annotations.append({**entry, "bbox": [*low.tolist(), *(high - low).tolist()]})
        categories = [{"id": place, "name": name} for place, name in enumerate(NAMES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _fitted(data: Path, store: Path, seed: int, images_seen: int, images: int) -> dict:
    """A fit that sees so many images in training: its run, its scores on test and its seconds."""
    started = time.process_time()
    flags = {"domain": "open-vocab", "task": "detection", "workers": 0, "batch_size": BATCH, "seed": seed}
    flags |= {"data.path": str(data), "out": str(store / "runs")}
    flags |= {f"plan.model.{key}": value for key, value in NARROW.items()}
    made = fit(resolve(recipe=RECIPE, flags={**flags, "adapter.epochs": max(1, round(images_seen / images))}))
    scores = {name: made.metrics["adapted"][name] for name in ("AP", "AP50")}
    return {"run": str(made.run), **scores, "seconds": round(time.process_time() - started)}


def _compared(labelled: Path, true: Path) -> dict[str, int]:
    """Drawn labels beside true ones, by their names: how many are right, missed and false."""
    truth = {item.source.name: item for item in read_detection(true).items}
    data, right, objects, boxes = read_detection(labelled), 0, 0, 0
    for item in data.items:
        if not item.unreviewed:
            continue
        there, drawn = truth[item.source.name].target, item.target
        near = box_overlaps(np.array(drawn.boxes).reshape(-1, 4), np.array(there.boxes).reshape(-1, 4)) >= OVERLAP
        names = np.array([data.class_names[label] for label in drawn.labels])
        near &= names[:, None] == np.array([NAMES[label] for label in there.labels])[None]
        right += _matched(near)
        objects, boxes = objects + len(there.labels), boxes + len(drawn.labels)
    return {"objects": objects, "right": right, "missed": objects - right, "false": boxes - right}


def _matched(near: np.ndarray) -> int:
    """Most pairs of a drawn and a true box, each in one."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return int((maximum_bipartite_matching(csr_array(near), perm_type="column") >= 0).sum()) if near.size else 0


def _tables(drawn: Sequence[dict], scores: Sequence[list[dict]]) -> list[str]:
    lines = [
        "",
        "| seed | objects | right | missed | false | score | F1 on val |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for number, each in enumerate(drawn, start=1):
        counts = " | ".join(str(each[key]) for key in ("objects", "right", "missed", "false"))
        lines.append(f"| {number} | {counts} | {each['score']:.2f} | {each['val_f1']:.2f} |")
    lines += ["", "| trained on | AP50 | AP | CPU s |", "|---|---:|---:|---:|"]
    for place, name in enumerate(ROWS):
        cells = []
        for key, digits in (("AP50", 3), ("AP", 3), ("seconds", 0)):
            values = np.array([each[place][key] for each in scores], float)
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
