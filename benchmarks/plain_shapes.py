"""Plain scenes: one to four coloured shapes that do not touch, of the names of open-vocab's sample, which is a crowd.

python benchmarks/plain_shapes.py FOLDER    # COCO files and images, as rows of docs/measurements/open-vocab.md want
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from usage import print_help

from vladapt.core.features import FeatureStore
from vladapt.domains.open_vocab.shapes import COLOURS, COUNTS, NAMES, SIDE, Outline, outline_of

VERSION = 1
SIZES = (26, 48)
MOST = 4
TRIES = 20


def plain_shapes_folder() -> Path:
    """Their folder in the cache; it is made at the first call."""
    return FeatureStore.filled(f"samples/plain-shapes-{VERSION}", write_plain_shapes)


def write_plain_shapes(folder: Path) -> None:
    """COCO files and images of the plain scenes in a folder that exists."""
    (folder / "images").mkdir()
    first = 0
    for split, count in COUNTS.items():
        content = _coco(folder / "images", range(first, first + count))
        (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
        first += count


def _coco(images: Path, numbers: Sequence[int]) -> dict:
    listed: list[dict] = []
    annotations: list[dict] = []
    for number in numbers:
        picture, things = draw_shapes(number)
        name = f"shapes-{number:04d}.png"
        Image.fromarray(picture).save(images / name)
        listed.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for label, outline in things:
            annotations.append(_annotation(len(annotations) + 1, number, label, outline))
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(NAMES)]
    return {"images": listed, "annotations": annotations, "categories": categories}


def _annotation(number: int, image: int, label: int, outline: Outline) -> dict:
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    x, y, width, height = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    flat = [round(value, 2) for point in outline for value in point]
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "iscrowd": 0,
        "area": _area(outline),
        "bbox": [round(v, 2) for v in (x, y, width, height)],
        "segmentation": [flat],
    }


def draw_shapes(number: int) -> tuple[np.ndarray, list[tuple[int, Outline]]]:
    """One picture (SIDE, SIDE, 3) uint8 and its (label, outline) pairs; a function of its number alone."""
    random = np.random.default_rng([VERSION, number])
    ground = random.uniform(90, 165, (8, 8, 3)).astype(np.uint8)
    picture = Image.fromarray(ground).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen, things, taken = ImageDraw.Draw(picture), [], []
    for _ in range(int(random.integers(1, MOST + 1))):
        label = int(random.integers(len(NAMES)))
        place = _free_place(random, taken)
        if place is None:
            continue
        taken.append(place)
        colour, shape = NAMES[label].split()
        outline = outline_of(shape, *place, turn=random.uniform(-0.3, 0.3))
        pen.polygon(outline, fill=COLOURS[colour])
        things.append((label, outline))
    noisy = np.asarray(picture, dtype=np.float32) + random.normal(0, 8, (SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8), things


def _free_place(random, taken: Sequence[tuple[float, float, float]]) -> tuple[float, float, float] | None:
    """Centre and radius of a shape that touches no other, or None where no place was found."""
    for _ in range(TRIES):
        radius = random.uniform(*SIZES) / 2
        x, y = random.uniform(radius + 1, SIDE - radius - 1, 2)
        if all(math.hypot(x - u, y - v) > radius + r + 2 for u, v, r in taken):
            return float(x), float(y), float(radius)
    return None


def _area(outline: Outline) -> float:
    following = outline[1:] + outline[:1]
    return round(abs(sum(x * v - u * y for (x, y), (u, v) in zip(outline, following, strict=True))) / 2, 2)


if __name__ == "__main__":
    print_help(__doc__, words=1)
    Path(sys.argv[1]).mkdir(parents=True)
    write_plain_shapes(Path(sys.argv[1]))
