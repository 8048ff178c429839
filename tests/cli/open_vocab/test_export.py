"""`vladapt export` of detectors and segmentors: a graph and a script that find what the run finds."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")

FITTING = """
fit = dict(type="vladapt.FitImage", scale=(64, 40))
test_pipeline = [dict(type="vladapt.LoadItemImage"), fit, dict(type="Pack{}Inputs")]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""
TOWER = """
vision = dict(type="ResNet", depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3), norm_eval=False,
              norm_cfg=dict(type="GN", num_groups=2))
"""
WITHOUT_POSITIONS = {
    "segmentation": TOWER
    + """
model.update(backbone=vision)
model["decode_head"].update(in_channels=[8, 16, 32, 64], feature_strides=[4, 8, 16, 32])
""",
    "detection": TOWER
    + """
model.update(backbone=vision, neck=dict(type="FPN", in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5))
model["bbox_head"]["anchor_generator"].update(strides=[4, 8, 16, 32, 64])
""",
}
ALONE = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'vladapt', 'mmdet', 'cv2'))); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""A script where these cannot be imported."""


@pytest.fixture(scope="module")
def data(squares):
    return squares()


def _asked(folder, *arguments) -> list[dict]:
    command = [sys.executable, "-I", "-c", ALONE, folder / "predict.py", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_segmentor_alone_gives_the_maps_of_its_run(command, tiny, data, place):
    config = tiny("segmentation", FITTING.format("Seg") + WITHOUT_POSITIONS["segmentation"])
    run = command("fit", "--config", config, "--data", data, "--epochs", 1, "--json").json["run"]
    made = command("export", run, "--out", "maps", "--json").json
    assert made["files"] == ["export.json", "model.onnx", "pictures.py", "predict.py"]
    assert made["checks"]["pixels"]["of_logit_range"] < 1e-4 and made["checks"]["files"]["same_pixels"] == 1
    assert made["licences"] == {"weights": "unknown", "data": "unknown"}
    wide = place / "wide.png"
    Image.fromarray(np.tile(np.asarray(Image.open(data / "images" / "01.png")), (2, 3, 1))).save(wide)
    images = [data / "images" / "01.png", wide]
    wanted = command("predict", run, *images, "--json").json["predictions"]
    found = _asked(place / "maps", *images, "--out", place / "found")
    for one, other in zip(found, wanted, strict=True):
        assert one["shares"] == pytest.approx(other["shares"], abs=0.001)
    assert np.asarray(Image.open(found[1]["map"])).shape == (96, 144)


def test_a_detector_alone_gives_the_boxes_of_its_run(command, tiny, data, place):
    config = tiny("detection", FITTING.format("Det") + WITHOUT_POSITIONS["detection"])
    run = command("fit", "--config", config, "--data", data, "--epochs", 1, "--json").json["run"]
    made = command("export", run, "--out", "boxes", "--json").json
    checks = made["checks"]
    assert checks["pixels"]["of_output_range"] < 1e-4 and checks["files"]["same_boxes"] > 0.98
    image = data / "images" / "01.png"
    (wanted,) = command("predict", run, image, "--json").json["predictions"]
    (found,) = _asked(place / "boxes", image)
    assert len(found["boxes"]) == 9 and found["labels"] == wanted["labels"]
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=0.5)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-3)


def test_a_tower_whose_positions_are_interpolated_is_refused_in_a_line(command, tiny, data, place, capfd):
    run = command("fit", "--config", tiny("detection"), "--data", data, "--epochs", 1, "--json").json["run"]
    told = command("export", run, "--out", "refused").error
    assert "ONNX cannot express this model" in told and told.endswith("predict with the run")
    assert not (place / "refused").exists() and capfd.readouterr().out == ""
