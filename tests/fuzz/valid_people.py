"""Small valid sets of attributes of people, to be mutated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from valid_sets import four_images, put_image, put_text


def attribute_table(folder: Path) -> list[Path]:
    rows = [f"{name},{n % 2},{-1 if n == 3 else 1 - n % 2},p{n},c{n}" for n, name in enumerate(four_images(folder))]
    return [put_text(folder / "attributes.csv", "image,Hat,Backpack,identity,camera", *rows)]


def celeba(folder: Path) -> list[Path]:
    names = four_images(folder)
    rows = [f"{name} {1 if n % 2 else -1}  1" for n, name in enumerate(names)]
    splits = [f"{name} {n % 3}" for n, name in enumerate(names)]
    return [
        put_text(folder / "list_attr_celeba.txt", "4", "Male Smiling", *rows),
        put_text(folder / "list_eval_partition.txt", *splits),
    ]


def face_captions(folder: Path) -> list[Path]:
    rows = [
        json.dumps({"image": name, "face_caption": "a face", "face_box": [0, 0, 4, 4]}) for name in four_images(folder)
    ]
    return [put_text(folder / "faces.jsonl", *rows)]


def market_attributes(folder: Path) -> list[Path]:
    from scipy.io import savemat

    for place in ("bounding_box_train", "query", "bounding_box_test"):
        put_image(folder / place / f"000{1 + len(place) % 3}_c1s1_000001_00.jpg", 1)
    part = {"image_index": np.array([["0001", "0002"]], dtype=object), "hat": np.array([[1.0, 2.0]])}
    savemat(folder / "market_attribute.mat", {"market_attribute": {"train": part, "test": part}})
    return [folder / "market_attribute.mat"]


def questions(folder: Path) -> list[Path]:
    put_text(folder / "q.json", json.dumps({"hat": {"ask": ["{}"], "values": {"a": ["a"], "none": ["b"]}}}))
    return [folder / "q.json"]
