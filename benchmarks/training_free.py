"""Training-free segmentation of photographs with the embedded backbone: what it finds, and at what cost.

    python benchmarks/training_free.py [FOLDER OF detection_seg/coco_val128]

60 photographs of COCO val2017 with semantic masks are segmented. "things" are the classes in them for which ImageNet
has a name, with all other pixels ignored; "all" is every class, including stuff, for which ImageNet has few names.
Beside the mean IoU are those of the best constant prediction and of the same model with the names permuted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from usage import print_help

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.registry import MODELS

IGNORED = 255
# fmt: off
THINGS = (
    "cat", "dog", "zebra", "bus", "train", "banana", "broccoli", "orange", "laptop", "keyboard", "mouse", "toilet",
    "umbrella", "airplane", "bird", "boat", "bicycle", "motorcycle", "refrigerator", "microwave", "oven", "cup",
    "vase", "clock", "sandwich", "teddy bear", "potted plant", "wine glass", "stop sign", "traffic light",
    "tennis racket", "fire hydrant", "cell phone", "dining table",
)
# fmt: on
SETTINGS = (
    ("MaskCLIP", {"short_side": 336}),
    ("MaskCLIP", {}),
    ("MaskCLIP", {"crop": 224}),
    ("ProxyCLIP", {"proxy": "embedded"}),
)


def read(folder: Path) -> tuple[dict[int, str], list[tuple[torch.Tensor, np.ndarray]]]:
    names = {int(index): name for index, name in json.loads((folder / "semantic_classes.json").read_text()).items()}
    pairs = []
    for mask in sorted((folder / "semantic_masks").glob("*.png")):
        image = np.array(Image.open(folder / "images" / f"{mask.stem}.jpg").convert("RGB"))[..., ::-1].copy()
        pairs.append((torch.from_numpy(image).permute(2, 0, 1), np.array(Image.open(mask))))
    return names, pairs


def said(name: str, names: list[str]) -> str:
    """COCO's names of stuff as one says them, where that is no other class."""
    plain = name.replace("-merged", "").replace("-other", "").replace("-stuff", "").replace("-", " ")
    return name if plain in names else plain


def counts_of(model, pairs, table: np.ndarray, size: int) -> np.ndarray:
    """(C, C) pixels, truth by prediction."""
    counts = np.zeros((size, size))
    for image, mask in pairs:
        truth = table[mask]
        kept = truth != IGNORED
        if kept.any():
            inputs = model.data_preprocessor({"inputs": [image]})["inputs"]
            found = model.predict(inputs)[0].pred_sem_seg.data[0].numpy()
            counts += np.bincount(size * truth[kept] + found[kept], minlength=size * size).reshape(size, size)
    return counts


def mean_iou(counts: np.ndarray) -> float:
    hits, present = np.diag(counts), counts.sum(axis=1) > 0
    return float((hits / (counts.sum(axis=0) + counts.sum(axis=1) - hits + 1e-9))[present].mean())


def measure(which: str, chosen: list[str], names: dict[int, str], pairs) -> None:
    table = np.full(256, IGNORED, dtype=np.int64)
    for index, name in names.items():
        if name in chosen:
            table[index] = chosen.index(name)
    words = [said(name, chosen) for name in chosen]
    for method, options in SETTINGS:
        config = {"type": f"vladapt.{method}", "backbone": "embedded", **options}
        model = MODELS.build({**config, "classes": words})
        started = time.process_time()
        counts = counts_of(model, pairs, table, len(chosen))
        seconds = time.process_time() - started
        wrong = counts_of(MODELS.build({**config, "classes": [*words[1:], words[0]]}), pairs, table, len(chosen))
        truth = counts.sum(axis=1)
        constant = truth.max() / truth.sum() / (truth > 0).sum()
        told = ", ".join(f"{key}={value}" for key, value in options.items() if key != "proxy") or "as published"
        print(
            f"{which:6} {len(chosen):3} {method:9} {told:14} mIoU {100 * mean_iou(counts):5.1f}  pixels "
            f"{100 * np.diag(counts).sum() / counts.sum():5.1f} %  constant {100 * constant:4.1f}  names moved "
            f"{100 * mean_iou(wrong):4.1f}  {seconds:5.0f} s CPU",
            flush=True,
        )


def main() -> None:
    torch.set_num_threads(1)
    shared = Path(os.environ.get("VLADAPT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    names, pairs = read(Path(sys.argv[1]) if len(sys.argv) > 1 else shared / "detection_seg" / "coco_val128")
    present = {names[index] for _, mask in pairs for index in np.unique(mask)} - {"unlabeled"}
    measure("things", [name for name in THINGS if name in present], names, pairs)
    measure("all", [name for name in names.values() if name in present], names, pairs)


if __name__ == "__main__":
    print_help(__doc__)
    main()
