"""A Grounding DINO config of mmdet through `vladapt fit`, and other names through `vladapt predict`."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("mmdet")

from vladapt.cli import app

CONFIG = """
_base_ = 'mmdet::grounding_dino/grounding_dino_swin-t_finetune_16xb2_1x_coco.py'
load_from = None
model = dict(
    num_queries=20,
    language_model=dict(name='{bert}'),
    backbone=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], with_cp=False),
    neck=dict(in_channels=[16, 32, 64]),
    encoder=dict(num_layers=1, num_cp=1),
    decoder=dict(num_layers=1),
    test_cfg=dict(max_per_img=20))
resize = dict(type='FixScaleResize', scale=(64, 64), keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), resize, dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(_delete_=True, type='CocoDataset', pipeline=train_pipeline))
test_pipeline = [
    dict(type='LoadImageFromFile'), resize,
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'text'))]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
"""


@pytest.fixture
def data(tmp_path):
    """Six images with a cat and a dog each, as far as the boxes say."""
    rng = np.random.default_rng(0)
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        coco["images"].append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        for category in (1, 2):
            box = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            coco["annotations"].append(box | {"bbox": [4 * category, 6, 20, 30], "area": 600})
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    return tmp_path / "boxes.json"


def vladapt(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "--json", "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_mmdet_s_own_config_is_fitted_and_asked_for_other_names(data, small_bert, tmp_path):
    config = tmp_path / "grounding_dino.py"
    config.write_text(CONFIG.format(bert=small_bert))
    chosen = ("--domain", "open-vocab", "--task", "detection", "--data", data, "--config", config)
    fitted = vladapt("fit", *chosen, "--epochs", 1, "--batch-size", 2, "--workers", 0, "--out", tmp_path / "run")
    assert 0 <= fitted["adapted"]["AP50"] <= 1
    found = vladapt("predict", tmp_path / "run", tmp_path / "0.png", "--classes", "red circle, square")
    labels = found["predictions"][0]["labels"]
    assert 0 < len(labels) <= 20 and set(labels) <= {"red circle", "square"}
