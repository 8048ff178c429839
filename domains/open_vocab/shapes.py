"""The sample set: coloured shapes in a crowd, with boxes and masks of what is seen of them, drawn once into the cache.

Classes are all pairs of a colour and a shape, so that some can be held out and yet be named by words that were learned.
They hide parts of each other, and among them are shapes that no name fits: of a fifth form, or grey.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ...core.data import Drawing
from ...core.features import FeatureStore

VERSION = 2
SIDE = 128
COLOURS = {"red": (214, 40, 40), "green": (46, 160, 67), "blue": (38, 84, 214), "yellow": (240, 205, 40)}
SHAPES = ("circle", "square", "triangle", "star")
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
HELD_OUT = ("red square", "green triangle", "blue star", "yellow circle")
"""One of each colour and each shape: what the documentation holds out as novel."""
COUNTS = {"train": 240, "val": 24, "test": 80}
SIZES = (14, 42)
"""Diameters, in pixels."""
NAMED, STRANGERS = (3, 7), (1, 3)
"""Shapes with and without a name in an image, at least and at most."""
TRIES = 20
SEEN = 0.55
"""The least share of a shape that others leave uncovered."""
PAINTS = {**COLOURS, "grey": (128, 128, 128)}

Outline = list[tuple[float, float]]


def shapes_folder() -> Path:
    """The folder of the drawn set, COCO files and images; it is made at the first call."""
    return FeatureStore.filled(f"samples/shapes-{VERSION}", _draw_into)


def _draw_into(folder: Path) -> None:
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
        for label, mask in things:
            annotations.append(_annotation(len(annotations) + 1, number, label, mask))
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(NAMES)]
    return {"images": listed, "annotations": annotations, "categories": categories}


def _annotation(number: int, image: int, label: int, mask: np.ndarray) -> dict:
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    along = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(along, prepend=False, append=not along[-1]))
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
        "segmentation": {"size": list(mask.shape), "counts": np.diff(changes, prepend=0).tolist()},
    }


def draw_shapes(number: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """One picture (SIDE, SIDE, 3) uint8 and its (label, mask of what is seen) pairs; a function of its number alone."""
    random = np.random.default_rng([VERSION, number])
    ground = random.uniform(60, 195, (8, 8, 3)).astype(np.uint8)
    picture = Image.fromarray(ground).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    named, strangers = (int(random.integers(least, most + 1)) for least, most in (NAMED, STRANGERS))
    labels = [*random.integers(len(NAMES), size=named).tolist(), *[None] * strangers]
    shown: list[tuple[int | None, np.ndarray, int]] = []  # label, mask (SIDE, SIDE), pixels of the whole shape
    for place in random.permutation(len(labels)):
        label = labels[place]
        colour, shape = _stranger(random) if label is None else NAMES[label].split()
        for _ in range(TRIES):
            radius = random.uniform(*SIZES) / 2
            x, y = random.uniform(radius + 1, SIDE - radius - 1, 2)
            outline = outline_of(shape, float(x), float(y), float(radius), turn=random.uniform(-0.3, 0.3))
            mask = _filled(outline)
            if all((old & ~mask).sum() >= SEEN * whole for _, old, whole in shown):
                break
        else:
            continue
        shown = [(other, old & ~mask, whole) for other, old, whole in shown]
        shown.append((label, mask, int(mask.sum())))
        light = random.normal(0, 22) + random.normal(0, 14, 3)
        lit = (np.array(PAINTS[colour]) + light).clip(0, 255).astype(int)
        ImageDraw.Draw(picture).polygon(outline, fill=tuple(lit.tolist()))
    noisy = np.asarray(picture, dtype=np.float32) + random.normal(0, 20, (SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8), [(label, mask) for label, mask, _ in shown if label is not None]


def _stranger(random: np.random.Generator) -> tuple[str, str]:
    """Colour and form of a shape that no name fits: a pentagon in one of the colours, or a grey shape."""
    if random.random() < 0.5:
        return list(COLOURS)[int(random.integers(len(COLOURS)))], "pentagon"
    return "grey", SHAPES[int(random.integers(len(SHAPES)))]


def _filled(outline: Outline) -> np.ndarray:
    """(SIDE, SIDE) bool."""
    mask = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(mask).polygon(outline, fill=1)
    return np.asarray(mask)


def outline_of(shape: str, x: float, y: float, radius: float, turn: float) -> Outline:
    """(x, y) of the corners of a shape, upright where `turn`, in radians, is 0."""
    corners = {"circle": 32, "square": 4, "triangle": 3, "star": 5, "pentagon": 5}[shape]
    first = {"square": math.pi / 4, "triangle": -math.pi / 2, "star": -math.pi / 2}.get(shape, 0.0)
    return Drawing.corners((x, y), radius, corners, turn=first + turn, inner=0.42 if shape == "star" else None)
