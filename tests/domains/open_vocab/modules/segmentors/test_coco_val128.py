"""Real photographs, the default backbone: what ImageNet names is found in them, far above chance."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.registry import MODELS

PHOTOGRAPHS = (1675, 4795, 1818, 2006, 5037, 8844, 9400, 5503, 3501, 9448, 7386, 776)
NAMES = ("cat", "zebra", "bus", "banana", "laptop", "toilet", "broccoli", "umbrella", "motorcycle", "teddy bear")
IGNORED = 255


@pytest.fixture(scope="module")
def photographs(data_dir):
    """(BGR uint8 (3, H, W), truth (H, W)): indices into NAMES, the rest ignored."""
    folder = data_dir / "detection_seg" / "coco_val128"
    if not folder.is_dir():
        pytest.skip("coco_val128 is not here")
    told = {int(index): name for index, name in json.loads((folder / "semantic_classes.json").read_text()).items()}
    table = np.full(256, IGNORED, dtype=np.int64)
    for index, name in told.items():
        if name in NAMES:
            table[index] = NAMES.index(name)
    found = []
    for number in PHOTOGRAPHS:
        image = np.array(Image.open(folder / "images" / f"{number:012d}.jpg").convert("RGB"))[..., ::-1].copy()
        truth = table[np.array(Image.open(folder / "semantic_masks" / f"{number:012d}.png"))]
        found.append((torch.from_numpy(image).permute(2, 0, 1), truth))
    return found


def mean_iou(model, photographs):
    size = len(NAMES)
    counts = np.zeros((size, size))
    for image, truth in photographs:
        inputs = model.data_preprocessor({"inputs": [image]})["inputs"]
        found = model.predict(inputs)[0].pred_sem_seg.data[0].numpy()
        kept = truth != IGNORED
        pairs = size * truth[kept] + found[kept]
        counts += np.bincount(pairs, minlength=size * size).reshape(size, size)
    hits = np.diag(counts)
    return (hits / (counts.sum(axis=0) + counts.sum(axis=1) - hits)).mean(), counts


@pytest.mark.thorough(but=("MaskCLIP",))
@pytest.mark.parametrize(
    ("method", "options", "least"),
    [
        ("MaskCLIP", {"short_side": 224}, 0.4),
        ("ProxyCLIP", {"proxy": "embedded", "short_side": 224}, 0.4),
    ],
)
def test_what_imagenet_names_is_found_without_training(photographs, method, options, least):
    config = {"type": f"vladapt.{method}", "backbone": "embedded", "templates": "photo", **options}
    found, counts = mean_iou(MODELS.build({**config, "classes": list(NAMES)}), photographs)
    truth = counts.sum(axis=1)
    best_constant = truth.max() / truth.sum() / len(NAMES)
    assert found > least > 5 * best_constant
    others = [*NAMES[1:], NAMES[0]]  # every name stands for another
    assert mean_iou(MODELS.build({**config, "classes": others}), photographs)[0] < found / 5
