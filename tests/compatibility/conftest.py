"""What commits 94fbb0e and 9b9a365d wrote, laid out as it lay there: unpacked, beside the images it was made of.

The images are drawn here, from seeds; README.txt in each folder says by which commands the rest was made.
"""

from __future__ import annotations

import json
import lzma
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WRITTEN = Path(__file__).parent / "written_at_94fbb0e"
LATER = Path(__file__).parent / "written_at_9b9a365d"
CLASSES = ("cat", "dog")
SQUARES = ("red square", "green square")
COLOURS = {"cat": (190, 70, 60), "dog": (60, 90, 180), "red square": (200, 50, 50), "green square": (50, 180, 50)}
COLOURS |= {"red": (210, 40, 40), "green": (40, 170, 50), "blue": (50, 60, 210)}
SPLITS = {"train": 3, "val": 2, "test": 3}
COATS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory) -> Path:
    """The folder in which every path of the runs means what it meant. Not to be changed."""
    folder = tmp_path_factory.mktemp("written") / "place"
    # Copy what was written, its compressed files whole again, its data where its runs say, and draw the images.
    shutil.copytree(WRITTEN, folder)
    _made_whole(folder)
    draw_everything(folder)
    return folder


@pytest.fixture
def place(laid_out, monkeypatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(laid_out)
    return laid_out


@pytest.fixture(scope="session")
def laid_out_later(tmp_path_factory) -> Path:
    """What commit 9b9a365d wrote, beside the backbones of 94fbb0e and further data. Not to be changed."""
    folder = tmp_path_factory.mktemp("written-later") / "place"
    lay_out_later(folder)
    return folder


@pytest.fixture
def later_place(laid_out_later, monkeypatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(laid_out_later)
    return laid_out_later


@pytest.fixture(scope="session")
def recorded() -> dict:
    """What commit 9b9a365d answered with what it wrote."""
    return json.loads((LATER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def expected() -> dict:
    """Numbers that commit 94fbb0e gave for what it wrote."""
    return json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))


def lay_out_later(folder: Path) -> None:
    """The same of commit 9b9a365d, whose runs have the backbones and features of 94fbb0e and further images."""
    shutil.copytree(LATER, folder)
    for name in ("clip.json", "clip.safetensors.xz", "pairs.csv"):
        shutil.copy(WRITTEN / name, folder)
    shutil.copytree(WRITTEN / "tiny_hf", folder / "tiny_hf")
    _made_whole(folder)
    draw_everything(folder)
    draw_rows(folder / "rows.npz")
    draw_people(folder / "people")
    if find_spec("rasterio") and find_spec("pyogrio"):
        draw_rasters(folder)


def _made_whole(folder: Path) -> None:
    for packed in folder.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    for info in folder.rglob("*.json"):
        text = info.read_text(encoding="utf-8")
        info.write_text(text.replace('"/data/', f'"{folder.as_posix()}/'), encoding="utf-8")


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


def draw_rows(path: Path) -> None:
    """A features file of four classes that overlap, 8 wide, two rows per group."""
    random, labels, split = np.random.RandomState(5), [], []
    texts = random.randn(4, 8)
    for part, count in {"train": 12, "val": 6, "test": 20}.items():
        labels += np.arange(4).repeat(count).tolist()
        split += 4 * count * [part]
    images = 0.8 * random.randn(4, 8)[labels] + texts[labels] + 1.6 * random.randn(len(labels), 8)
    rows = {"image_features": images, "text_features": texts}
    rows = {name: values.astype(np.float32) for name, values in rows.items()}
    groups = np.array([f"patient {row // 2}" for row in range(len(labels))])
    names = np.array(["ash", "birch", "cedar", "elm"])
    np.savez(path, labels=np.array(labels), class_names=names, split=np.array(split), groups=groups, **rows)


def draw_people(folder: Path) -> None:
    """Nine people in three pictures each, and two tables: of identities with sentences, and of attributes."""
    rows, attributes = [], ["image,identity,camera,split,red coat,blue trousers"]
    for number in range(27):
        person, camera = divmod(number, 3)
        coat, trousers = COATS[person % 3], COATS[(person // 3 + person + 1) % 3]
        pixels = np.random.RandomState(number).randint(0, 50, (32, 16, 3))
        pixels[:16] += np.array(COLOURS[coat]) - 25
        pixels[16:] += np.array(COLOURS[trousers]) - 25
        _save(folder / f"{number}.png", pixels.clip(0, 255).astype(np.uint8))
        split = "test" if person > 6 else "val" if person > 4 else "train"
        row = {"image": f"{number}.png", "identity": str(person), "camera": f"c{camera}", "split": split}
        rows.append({**row, "captions": [f"a {coat} coat and {trousers} trousers"]})
        has = (int(coat == "red"), int(trousers == "blue"))
        attributes.append(f"{number}.png,{person},c{camera},{split},{has[0]},{has[1]}")
    (folder / "people.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "attributes.csv").write_text("\n".join(attributes), encoding="utf-8")


def draw_rasters(folder: Path) -> None:
    """scenes/CLASS/N.tif, ten of 16 bits in four bands, 20 km apart; field.tif, six stripes of two crops, and where
    they lie, in crops.gpkg."""
    import pyogrio
    import shapely

    for label, name in enumerate(("SeaLake", "Forest")):
        for number in range(5):
            values = np.random.RandomState(100 * label + number).randint(1000, 1500, (4, 24, 24)) + 1200 * label
            left = 5e5 + 2e4 * (2 * number + label)
            _save_raster(folder / "scenes" / name / f"{number}.tif", values.astype(np.uint16), left)
    crops = np.arange(96) // 16 % 2
    values = np.random.RandomState(0).randint(0, 120, (3, 96, 96)) + 120 * crops[None, None]
    _save_raster(folder / "field.tif", values.astype(np.uint8), 5e5)
    stripes = [shapely.box(5e5 + 160 * n, 5e6 - 960, 5e5 + 160 * n + 160, 5e6) for n in range(6)]
    labels = np.array([("wheat", "maize")[n % 2] for n in range(6)], dtype=object)
    names = {"field_data": [labels], "fields": ["crop"], "geometry_type": "Polygon", "crs": "EPSG:32633"}
    pyogrio.raw.write(folder / "crops.gpkg", shapely.to_wkb(np.array(stripes)), **names)


def _save_raster(path: Path, values: np.ndarray, left: float) -> None:
    import rasterio
    from rasterio.transform import from_origin

    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    where = {"crs": "EPSG:32633", "transform": from_origin(left, 5e6, 10, 10)}
    with rasterio.open(path, "w", "GTiff", **where, **shape) as raster:
        raster.write(values)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
