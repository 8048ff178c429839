"""Small valid sets of the domain of ordinary photos, as they are published."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from valid_sets import picture, put_image, put_json, put_text


def pets(folder: Path) -> list[Path]:
    for n, name in enumerate(("Abyssinian_1", "Abyssinian_2", "great_pyrenees_1", "great_pyrenees_2")):
        put_image(folder / "data" / "images" / f"{name}.jpg", n)
    lists = folder / "data" / "annotations"
    train = put_text(lists / "trainval.txt", "# breeds", "Abyssinian_1 1 1 1", "great_pyrenees_1 2 2 1")
    return [train, put_text(lists / "test.txt", "Abyssinian_2 1 1 1", "great_pyrenees_2 2 2 1")]


def flowers(folder: Path) -> list[Path]:
    from scipy.io import savemat

    for n in range(1, 5):
        put_image(folder / "data" / "jpg" / f"image_{n:05d}.jpg", n)
    labels, parts = folder / "data" / "imagelabels.mat", folder / "data" / "setid.mat"
    savemat(labels, {"labels": np.array([[1, 2, 1, 2]])})
    savemat(parts, {"trnid": np.array([[1, 2]]), "valid": np.array([[3]]), "tstid": np.array([[4]])})
    return [labels, parts, put_json(folder / "data" / "cat_to_name.json", {"1": "rose", "2": "aster"})]


def imagenet(folder: Path) -> list[Path]:
    for split in ("train", "val"):
        for n, name in enumerate(("n01440764", "n01443537")):
            put_image(folder / "data" / "images" / split / name / "1.JPEG", n)
    return [put_text(folder / "data" / "classnames.txt", "n01440764 tench", "n01443537 goldfish")]


def arrow(folder: Path) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.table({"image": [{"bytes": _png(n), "path": None} for n in range(4)], "label": [0, 1, 0, 1]})
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (folder / "data" / "train").mkdir(parents=True)
    stream, parquet = folder / "data" / "train" / "a.arrow", folder / "data" / "test-0.parquet"
    pq.write_table(made, parquet)
    with pa.OSFile(str(stream), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return [stream, parquet]


def image_list(folder: Path) -> list[Path]:
    for n in range(6):
        put_image(folder / "data" / "ab"[n % 2] / f"{n}.png", n)
    return [put_text(folder / "list.jsonl", *(json.dumps({"path": f"{'ab'[n % 2]}/{n}.png"}) for n in range(4)))]


def _png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(seed)).save(stream, "PNG")
    return stream.getvalue()


def labels(folder: Path) -> list[Path]:
    """A table that `vladapt label` writes, beside its images."""
    from vladapt.core.data.label_files import NOT_SURE, Answer, TableSource, labels_text

    source = TableSource("images", "natural", "classification", ("cat", "dog"), {"max_pixels": 10_000})
    said = [("a.png", ("cat",), ""), ("b.png", ("dog",), ""), ("c.png", ("cat", "dog"), ""), ("d.png", (), NOT_SURE)]
    for number, (name, _, _) in enumerate(said):
        put_image(folder / "images" / name, number)
    rows = [Answer(name, given, answer, "me", "2026-01-02T03:04:05Z", "random", 1) for name, given, answer in said]
    return [put_text(folder / "labels.csv", *labels_text(rows, source).splitlines())]


def read_labels(file: Path):
    from vladapt.core.data.label_files import read_label_file
    from vladapt.domains.natural import Natural

    return read_label_file(file, Natural(), "classification", {})
