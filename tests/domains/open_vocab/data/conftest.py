"""Small sets of boxes and masks, written on the spot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_image():
    """write_image(path, width=40, height=30): a grey photograph that differs by its path."""

    def write(path, width=40, height=30):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def write_coco(tmp_path, write_image):
    """write_coco(annotations, name="instances.json", images=("a.png", "b.png"), **lists): the folder of a COCO file.

    An annotation is (image number, category id, bbox) or a whole dict; images are 40 x 30, ids from 1.
    """

    def write(annotations, name="instances.json", images=("a.png", "b.png"), missing=(), **lists):
        for image in images:
            if image not in missing:
                write_image(tmp_path / "images" / image)
        content = {
            "images": [{"id": n, "file_name": image, "width": 40, "height": 30} for n, image in enumerate(images, 1)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [_annotation(number, entry) for number, entry in enumerate(annotations, 1)],
            **lists,
        }
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return write


def _annotation(number, entry):
    if isinstance(entry, dict):
        return {"id": number, **entry}
    image, category, bbox = entry
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0}


@pytest.fixture
def write_masks(tmp_path, write_image):
    """write_masks({"a": array, ...}, images="images", masks="masks"): the folder, an image beside each mask."""

    def write(by_name, images="images", masks="masks", suffix=".png", mode=None):
        for name, values in by_name.items():
            values = np.asarray(values)
            write_image(tmp_path / images / f"{name}.png", values.shape[1], values.shape[0])
            path = tmp_path / masks / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(values)
            if mode == "P":
                picture.putpalette([value for n in range(256) for value in (n, 255 - n, n // 2)])
            picture.save(path)
        return tmp_path

    return write
