"""Boxes and masks learned from few real images, and names that were not learned: see docs/measurements/open-vocab.md.

    python benchmarks/open_vocab.py [NAME ...] [--list]   # VLADAPT_DATA names the folder of the data sets

Each row is one `vladapt fit` (five for the roads, one per fold) with the options shown and otherwise the defaults of
the packaged recipe, tested on held-out images. Runs are kept in runs/.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from plain_shapes import plain_shapes_folder

import vladapt
from vladapt.domains.open_vocab.data import read_segmentation, write_items
from vladapt.domains.open_vocab.data.outlines import decode
from vladapt.domains.open_vocab.scores.segmentation import confusion, score_segmentation
from vladapt.domains.open_vocab.shapes import HELD_OUT, shapes_folder

DATA = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FOLDS = 5
SETS = {"novel_images"}
"""Options without a flag of their own."""
HEADER = ("what", "tested on", "result", "compared with", "minutes", "command")


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        task: "detection" or "segmentation".
        path: of the data in $VLADAPT_DATA; None is the sample.
        options: further flags of `vladapt fit`, by their name in Python.
        folds: fitted once per fold, all test pixels counted together.
        plain: the plain scenes of `plain_shapes.py` in place of the sample.
    """

    task: str
    path: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    folds: bool = False
    plain: bool = False

    @property
    def folder(self) -> Path:
        """Of the data, or of what is drawn in their place."""
        if self.path is not None:
            return DATA / self.path
        return plain_shapes_folder() if self.plain else shapes_folder()

    @property
    def data(self) -> str:
        """As `fit` is given it."""
        return "sample" if self.path is None and not self.plain else str(self.folder)

    def command(self) -> str:
        """As one types it."""
        drawn = "PLAIN" if self.plain else "sample"
        named = drawn if self.path is None else f"$VLADAPT_DATA/{self.path}"
        options = {"data": "FOLD.json" if self.folds else named, **self.options}
        sets = {key: options.pop(key) for key in SETS & options.keys()}
        flags = " ".join(f"--{key} {_quoted(value)}" for key, value in options.items())
        flags = " ".join([flags, *(f"--set {key}={value}" for key, value in sets.items())])
        return f"vladapt fit --domain open-vocab --task {self.task} {flags}"


NOVEL = ",".join(HELD_OUT)
NOT_SHOWN = {"novel": NOVEL, "epochs": 16, "novel_images": "drop"}
"""Half of the plain scenes show no novel class: as many steps as 8 epochs of all of them."""
ROWS = {
    "raccoon": Row("detection", "detection_seg/raccoon"),
    "bccd_detection": Row("detection", "medical/bccd_detection"),
    "isbi_membrane": Row("segmentation", "medical/isbi_membrane"),
    "spacenet_road_tiles": Row("segmentation", "remote_sensing/spacenet_road_tiles", folds=True),
    "shapes_boxes": Row("detection", None, {"novel": NOVEL}),
    "shapes_masks": Row("segmentation", None, {"novel": NOVEL}),
    "shapes_yolo_world": Row("detection", None, {"recipe": "open-vocab/yolo-world", "novel": NOVEL, "epochs": 8}),
    "plain_mask2former": Row("segmentation", None, {"recipe": "open-vocab/mask2former", **NOT_SHOWN}, plain=True),
    "plain_panoptic": Row("detection", None, {"recipe": "open-vocab/mask2former-panoptic", **NOT_SHOWN}, plain=True),
    "coco_val128_masks": Row("segmentation", "detection_seg/coco_val128", {"recipe": "open-vocab/maskclip"}),
    "coco_val128_boxes": Row("detection", "detection_seg/coco_val128", {"recipe": "open-vocab/regionclip"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"rows: {', '.join(ROWS)}; all by default")
    parser.add_argument("--list", action="store_true", help="only print the commands")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    chosen = {name: ROWS[name] for name in arguments.names or ROWS}
    if arguments.list:
        print("\n".join(row.command() for row in chosen.values()))
        return
    print(_line(HEADER))
    print(_line(("---", "---", "---", "---", "---:", "---")))
    for name, row in chosen.items():
        started = time.monotonic()
        tested, result, beside = (_in_folds if row.folds else _at_once)(row)
        minutes = f"{(time.monotonic() - started) / 60:.1f}"
        print(_line((name, tested, result, beside, minutes, f"`{row.command()}`")), flush=True)


def _at_once(row: Row) -> tuple[str, str, str]:
    """Fit and test on the data's own test split, or the one that is made."""
    result = _fitted(row, row.data)
    scores = result.metrics["adapted"]
    tested = f"{result.metrics['test_images']} images"
    if row.task == "detection":
        return tested, _boxes(scores), _beside_boxes(row)
    return tested, _masks(scores), f"best constant: mIoU {_constant_of_test(row, result.run):.3f}"


def _in_folds(row: Row) -> tuple[str, str, str]:
    """Five fits, each tested on a fold that it has not seen; pixels of all of them in one matrix."""
    data = read_segmentation(row.data)
    matrix = np.zeros((len(data.class_names), len(data.class_names) + 1), dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        for number, fold in enumerate(_folds(data)):
            file = write_items(Path(folder) / f"fold-{number}.json", fold)
            result = _fitted(row, str(file))
            matrix += _matrix_of(result.run, fold)
    scores = score_segmentation(matrix, data.class_names).metrics
    tested = f"{len(data.items)} images, {FOLDS} folds"
    return tested, _masks(scores), f"best constant: mIoU {best_constant(matrix.sum(axis=1)):.3f}"


def _fitted(row: Row, data: str):
    options = {"adapter.epochs" if key == "epochs" else key: value for key, value in row.options.items()}
    recipe = options.pop("recipe", None)
    if recipe is None:
        return vladapt.fit(domain="open-vocab", task=row.task, data=data, **options)
    from vladapt.core.recipes.resolve import resolve

    flags = {"domain": "open-vocab", "task": row.task, "data.path": data, **options}
    return vladapt.fit(resolve(recipe=recipe, flags=flags))


def _folds(data) -> Iterator[Any]:
    """The set with every fifth image, by name, as its test split; of the others the first is val."""
    items = sorted(data.items, key=lambda item: item.id)
    for number in range(FOLDS):
        tested = set(range(number, len(items), FOLDS))
        rest = [place for place in range(len(items)) if place not in tested]
        splits = dict.fromkeys(tested, "test") | {rest[number]: "val"}
        yield data.with_items([item.with_(split=splits.get(place, "train")) for place, item in enumerate(items)])


def _matrix_of(run: Path, data) -> np.ndarray:
    """(C, C + 1) pixels of the test split, truth by what the run finds."""
    by_id = {Path(item.source).name: item for item in data.split("test")}
    rows = vladapt.predict(run, [str(item.source) for item in by_id.values()]).rows()
    matrix: Any = 0
    for row in rows:
        truth = data.load_mask(by_id[Path(row["id"]).name])
        found = np.full(truth.shape, len(data.class_names))
        for name, outline in row["masks"].items():
            found[decode(outline)] = data.class_names.index(name)
        matrix = matrix + confusion(truth, found, len(data.class_names))
    return matrix


def best_constant(pixels: np.ndarray) -> float:
    """mIoU of the one class that is best for every pixel, over the classes that are there."""
    return float(pixels.max() / pixels.sum() / (pixels > 0).sum())


def _constant_of_test(row: Row, run: Path) -> float:
    """Of the run's own test images."""
    data = read_segmentation(row.folder)
    tested = set(json.loads((run / "run.json").read_text())["splits"]["test"])
    counts = np.zeros(len(data.class_names) + 1, dtype=np.int64)
    for item in data.items:
        if item.id in tested:
            mask = data.load_mask(item)
            counts += np.bincount(mask[mask != 255].ravel(), minlength=len(counts))
    return best_constant(counts)


def _boxes(scores: dict[str, float]) -> str:
    said = f"AP {scores['AP']:.3f}, AP50 {scores['AP50']:.3f}"
    if "novel_AP50" not in scores:
        return said
    if "novel_PQ" in scores:
        base, novel, mean = (scores[key] for key in ("base_PQ", "novel_PQ", "harmonic_PQ"))
        said = f"{said}, PQ {scores['PQ']:.3f}; base PQ {base:.3f}, novel PQ {novel:.3f}, harmonic mean {mean:.3f}"
    base, novel, mean = (scores[key] for key in ("base_AP50", "novel_AP50", "harmonic_AP50"))
    return f"{said}; base AP50 {base:.3f}, novel AP50 {novel:.3f}, harmonic mean {mean:.3f}"


def _masks(scores: dict[str, float]) -> str:
    said = f"mIoU {scores['mIoU']:.3f}, pixel accuracy {scores['pixel_accuracy']:.3f}"
    if "novel_mIoU" not in scores:
        return said
    base, novel, mean = (scores[key] for key in ("base_mIoU", "novel_mIoU", "hIoU"))
    return f"{said}; base mIoU {base:.3f}, novel mIoU {novel:.3f}, hIoU {mean:.3f}"


def _beside_boxes(row: Row) -> str:
    """What a detector that finds every box and draws its name at random would have, about: one in so many classes."""
    if row.path is None:
        return "every box, its name drawn: AP50 0.063"
    return "nothing is trained" if "recipe" in row.options else ""


def _quoted(value: Any) -> str:
    return f'"{value}"' if " " in str(value) else str(value)


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
