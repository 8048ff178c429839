"""The same data elsewhere is split and drawn the same: deeper, in another order, by a link or relative path."""

import json
import os
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.detect import read_any
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.sampling import sample_shots
from vladapt.core.data.splits import assign_splits
from vladapt.core.data.verify import drop_unreadable

COUNT = 36


def picture(number, size=48):
    """Smooth noise; the last of every nine is the first once more, smaller."""
    noise = np.random.default_rng(number - 8 if number % 9 == 8 else number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size - number % 9, size - number % 9), Image.Resampling.BICUBIC)


def class_folders(root):
    for number in range(COUNT):
        save(root / f"class {number % 3}" / f"{number:02}.png", number)
    shutil.copy(root / "class 0" / "00.png", root / "class 0" / "copy.png")


def manifest(root, name=lambda root, file: file):
    rows = []
    for number in range(COUNT):
        file = f"images/{number:02}.png"
        save(root / file, number)
        rows.append(f"{name(root, file)},kind {number % 3},P{number // 2}")
    (root / "labels.csv").write_text("image,label,mrn\n" + "\n".join(rows))


def manifest_of_absolute_paths(root):
    manifest(root, lambda root, file: os.path.join(os.path.realpath(root), file))


def several_labels(root):
    rows = []
    for number in range(COUNT):
        save(root / f"{number:02}.png", number)
        rows.append(json.dumps({"image": f"{number:02}.png", "a": number % 2, "b": number // 3 % 2}))
    (root / "labels.jsonl").write_text("\n".join(rows))


def boxes(root):
    content = {"images": [], "annotations": [], "categories": [{"id": n, "name": f"kind {n}"} for n in range(3)]}
    for number in range(COUNT):
        save(root / "images" / f"{number:02}.png", number)
        content["images"].append({"id": number, "file_name": f"{number:02}.png"})
        box = {"image_id": number, "category_id": number % 3, "bbox": [1, 1, 30, 30]}
        content["annotations"].append({"id": number, **box})
    (root / "instances.json").write_text(json.dumps(content))


def table_of_pairs(root, name=lambda root, file: file):
    rows = []
    for number in range(COUNT):
        file = f"images/{number:02}.png"
        save(root / file, number)
        rows.append(f"{name(root, file)},a picture {number}")
    (root / "pairs.csv").write_text("image,caption\n" + "\n".join(rows))


def table_of_absolute_pairs(root):
    table_of_pairs(root, lambda root, file: os.path.join(os.path.realpath(root), file))


def texts_beside(root):
    for number in range(COUNT):
        save(root / f"{number % 2}" / f"{number:02}.png", number)
        (root / f"{number % 2}" / f"{number:02}.txt").write_text(f"a picture {number}")


def shards(root):
    texts_beside(root / "loose")
    for part in range(2):
        with tarfile.open(root / f"part-{part}.tar", "w") as tar:
            for file in sorted((root / "loose" / str(part)).iterdir()):
                tar.add(file, file.name)
    shutil.rmtree(root / "loose")


def save(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)


def rebuilt(build, source, target):
    """The set in another folder: files made anew in another order, with other times."""
    build(target)
    files = [file for file in target.rglob("*") if file.is_file()]
    random.Random(0).shuffle(files)
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        os.utime(file, (10**9 + number, 10**9 + number))
    return target


@pytest.fixture
def places(tmp_path, monkeypatch):
    """`places(build)`: paths by which one set is given."""

    def of(build):
        first = tmp_path / "set"
        first.mkdir()
        build(first)
        deep = tmp_path / "a" / "sub-01" / "train" / "images" / "other name"
        deep.mkdir(parents=True)
        rebuilt(build, first, deep)
        (tmp_path / "link").symlink_to(deep, target_is_directory=True)
        (tmp_path / "b").mkdir()
        monkeypatch.chdir(tmp_path / "b")
        return [first, deep, tmp_path / "link", Path("../set"), Path("../link")]

    return of


@pytest.mark.parametrize("build", [class_folders, manifest, manifest_of_absolute_paths, several_labels, boxes])
def test_splits_and_shots_are_the_same_wherever_a_set_stands(places, tmp_path, build):
    seen = []
    for number, place in enumerate(places(build)):
        hashes = FileHashes(tmp_path / f"cache {number}")
        data = assign_splits(drop_unreadable(read_any(place), hashes), seed=3, hashes=hashes)
        shots = [item.id for item in sample_shots(data.split("train"), 2, 1, num_classes=len(data.class_names))]
        splits = {item.id: (item.split, item.group) for item in data.items}
        seen.append((splits, shots, data.notes, data.class_names))
    assert all(each == seen[0] for each in seen) and len(set(seen[0][0].values())) > 1


@pytest.mark.parametrize("build", [table_of_pairs, table_of_absolute_pairs, texts_beside, shards])
def test_pairs_are_split_the_same_wherever_they_stand(places, tmp_path, build):
    seen = []
    for number, place in enumerate(places(build)):
        pairs = read_pairs(place, hashes=FileHashes(tmp_path / f"cache {number}"))
        seen.append(({pair.id: pair.split for pair in pairs}, pairs.notes))
    assert all(each == seen[0] for each in seen) and len(set(seen[0][0].values())) == 3


def test_the_order_of_a_table_does_not_matter(tmp_path):
    manifest(tmp_path)
    header, *rows = (tmp_path / "labels.csv").read_text().splitlines()
    random.Random(1).shuffle(rows)
    (tmp_path / "shuffled.csv").write_text("\n".join([header, *rows]))
    seen = []
    for name in ("labels.csv", "shuffled.csv"):
        hashes = FileHashes(tmp_path / "cache")
        data = assign_splits(drop_unreadable(read_any(tmp_path / name), hashes), seed=3, hashes=hashes)
        shots = [item.id for item in sample_shots(data.split("train"), 2, 1, num_classes=3)]
        seen.append(({item.id: item.split for item in data.items}, shots))
    assert seen[0] == seen[1]
