"""What commit 94fbb0e wrote, laid out as it lay there: `written_at_94fbb0e` unpacked, beside the images it was made of.

The images are drawn here, from seeds; README.txt in that folder says by which commands the rest was made.
"""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WRITTEN = Path(__file__).parent / "written_at_94fbb0e"
CLASSES = ("cat", "dog")
SQUARES = ("red square", "green square")
COLOURS = {"cat": (190, 70, 60), "dog": (60, 90, 180), "red square": (200, 50, 50), "green square": (50, 180, 50)}
SPLITS = {"train": 3, "val": 2, "test": 3}


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory) -> Path:
    """The folder in which every path of the runs means what it meant. Not to be changed."""
    folder = tmp_path_factory.mktemp("written") / "place"
    lay_out(folder)
    return folder


@pytest.fixture
def place(laid_out, monkeypatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(laid_out)
    return laid_out


@pytest.fixture(scope="session")
def expected() -> dict:
    """Numbers that commit 94fbb0e gave for what it wrote."""
    return json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))


def lay_out(folder: Path) -> None:
    """Copy what was written, its compressed files whole again, its data where its runs say, and draw the images."""
    shutil.copytree(WRITTEN, folder)
    for packed in folder.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    for info in folder.rglob("run.json"):
        info.write_text(info.read_text(encoding="utf-8").replace('"/data/', f'"{folder.as_posix()}/'), encoding="utf-8")
    draw_everything(folder)


def draw_everything(folder: Path) -> None:
    """scans/SPLIT/CLASS/N.png, new/N.png, and squares/ with boxes and outlines, with masks in squares_masks/."""
    for label, name in enumerate(CLASSES):
        for part, (split, count) in enumerate(SPLITS.items()):
            for number in range(count):
                _save(folder / "scans" / split / name / f"{number}.png", scan(name, 100 * label + 10 * part + number))
    for number in range(3):
        _save(folder / "new" / f"{number}.png", scan(CLASSES[number % 2], 500 + number))
    _draw_squares(folder)


def scan(name: str, seed: int, side: int = 16) -> np.ndarray:
    """(side, side, 3) uint8: the colour of a class under noise."""
    noise = np.random.RandomState(seed).randint(-60, 61, (side, side, 3))
    return np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)


def squares(number: int) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """A noisy grey picture, (32, 32, 3) uint8, and its squares: (class, x, y, side) of one left and one right."""
    random = np.random.RandomState(number)
    pixels = random.randint(90, 150, (32, 32, 3))
    drawn = []
    for half, label in enumerate((number % 2, (number + 1) % 2)):
        side = random.randint(8, 13)
        x, y = 16 * half + random.randint(0, 16 - side), random.randint(0, 32 - side)
        pixels[y : y + side, x : x + side] = COLOURS[SQUARES[label]] + random.randint(-20, 21, (side, side, 3))
        drawn.append((label, int(x), int(y), int(side)))
    return pixels.clip(0, 255).astype(np.uint8), drawn


def _draw_squares(folder: Path) -> None:
    number = 0
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        content = {"images": [], "annotations": []}
        content["categories"] = [{"id": n, "name": name} for n, name in enumerate(SQUARES, start=1)]
        for _ in range(count):
            number += 1
            pixels, drawn = squares(number)
            _save(folder / "squares" / "images" / f"{number}.png", pixels)
            content["images"].append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 32})
            for label, x, y, side in drawn:
                outline = [x, y, x + side, y, x + side, y + side, x, y + side]
                entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": label + 1}
                entry |= {"bbox": [x, y, side, side], "area": side * side, "segmentation": [outline], "iscrowd": 0}
                content["annotations"].append(entry)
        (folder / "squares" / f"instances_{split}.json").write_text(json.dumps(content))


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
