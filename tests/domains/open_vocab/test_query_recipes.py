"""The packaged configs of YOLO-World and Mask2Former: fitted on a few drawn shapes, scored, asked for other names."""

from __future__ import annotations

import json

import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import vladapt
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.open_vocab.shapes import NAMES, SIDE, draw_shapes

IMAGES = {"train": range(6), "val": range(6, 7), "test": range(7, 9)}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder as the sample's, of nine images."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "images").mkdir()
    for split, numbers in IMAGES.items():
        coco = {"images": [], "annotations": [], "categories": []}
        coco["categories"] = [{"id": place + 1, "name": name} for place, name in enumerate(NAMES)]
        for number in numbers:
            picture, things = draw_shapes(number)
            Image.fromarray(picture).save(folder / "images" / f"{number}.png")
            coco["images"].append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
            for label, outline in things:
                xs, ys = zip(*outline, strict=True)
                box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
                coco["annotations"].append(
                    {
                        "id": len(coco["annotations"]) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "iscrowd": 0,
                        "area": box[2] * box[3],
                        "bbox": box,
                        "segmentation": [[value for point in outline for value in point]],
                    }
                )
        (folder / f"instances_{split}.json").write_text(json.dumps(coco))
    return folder


@pytest.mark.thorough(but=("yolo",))
@pytest.mark.parametrize(
    ("name", "task", "metrics"),
    [
        ("yolo-world", "detection", {"AP", "AP50"}),
        ("mask2former-panoptic", "detection", {"AP", "mask_AP", "PQ", "SQ", "RQ"}),
        ("mask2former", "segmentation", {"mIoU", "pixel_accuracy"}),
    ],
)
def test_a_recipe_is_fitted_scored_and_asked(shapes, small_clip_spec, tmp_path, monkeypatch, name, task, metrics):
    monkeypatch.chdir(tmp_path)
    flags = {"domain": "open-vocab", "task": task, "data.path": str(shapes), "backbone": small_clip_spec}
    flags |= {"adapter.epochs": 1, "workers": 0, "device": "cpu"}
    fitted = vladapt.fit(resolve(recipe=f"open-vocab/{name}", flags=flags))
    scores = fitted.metrics["adapted"]
    assert metrics <= set(scores)
    assert all(0 <= scores[metric] <= 1 for metric in metrics)
    found = vladapt.predict(fitted.run, [str(shapes / "images" / "7.png")], classes="red star").rows()
    assert len(found) == 1
