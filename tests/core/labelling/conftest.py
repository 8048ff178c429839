"""A folder of small pictures, and a list of them to label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.label_files import TableSource, Todo, todo_text

IMAGES = 30
CLASSES = ("cat", "dog", "owl")


def draw_pool(folder: Path, images: int = IMAGES) -> Path:
    """Pictures that are all of one grey, each its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        grey = np.full((12, 16, 3), 8 * number, np.uint8)
        Image.fromarray(grey).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def pool(tmp_path) -> Path:
    return draw_pool(tmp_path / "photos")


@pytest.fixture
def todo(pool):
    """todo(images, **of_source) -> a list of the first images."""

    def write(images: int = IMAGES, name: str = "todo.csv", classes=CLASSES, **of_source) -> Path:
        drawn = ["random" if number % 5 == 4 else "pcb" for number in range(images)]
        rows = [
            Todo(f"{number:02d}.png", drawn[number], 1, classes[number % len(classes)], 0.5) for number in range(images)
        ]
        source = TableSource(
            **{"data": pool.name, "domain": "natural", "task": "classification", **of_source}, classes=classes
        )
        file = pool.parent / name
        file.write_text(todo_text(rows, source))
        return file

    return write
