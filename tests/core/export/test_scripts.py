"""predict.py of detectors and segmentors: what it cannot answer costs no other image its answer, and no file is
replaced."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")

import onnx

from vladapt.core.export.scripts import pictures

HEIGHT = 8
HOW = {"largest": [1333, 800], "enlarge": True, "channels": "rgb", "mean": [0] * 3, "std": [1] * 3}
HOW |= {"multiple": 1, "padding": 0}
RULE = {"score_thr": 0.1, "nms_pre": None, "min_bbox_size": -1, "iou_threshold": 0.5, "max_per_img": 9}
RULE |= {"learned_together": [True, True]}
CLASSES = {"class_names": ["a", "b", "c"], "threshold": None}
BOXES = {"class_names": ["a", "b"], "boxes": RULE}


def _export(folder: Path, script: str, facts: dict) -> Path:
    """An export whose graph takes pictures of one height: logits are its pixels, or there is one box."""
    helper = onnx.helper
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1, 3, HEIGHT, "W"])
    if script == "maps.py":
        nodes, outputs = [helper.make_node("Identity", ["pixels"], ["logits"])], {"logits": [1, 3, HEIGHT, "W"]}
    else:
        values = {"scores_0": np.float32([[[0.9, 0.2]]]), "boxes_0": np.float32([[[1, 1, 5, 5]]])}
        nodes = [
            helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))
            for name, value in values.items()
        ]
        outputs = {name: list(value.shape) for name, value in values.items()}
    sides = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "small", [pixels], sides)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folder.mkdir()
    onnx.save_model(model, str(folder / "model.onnx"))
    source = Path(pictures.__file__)
    shutil.copy(source, folder / "pictures.py")
    shutil.copy(source.with_name(script), folder / "predict.py")
    facts = {"graphs": {"model": "model.onnx"}, "preprocessing": {**HOW, "largest": None}, **facts}
    (folder / "export.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture
def predict(monkeypatch, capsys):
    """Runs predict.py of an export: its exit status, its rows, and what it says on stderr."""

    def run(folder: Path, *arguments: object) -> tuple[int, list[dict], str]:
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, "pictures", raising=False)
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(folder / "predict.py"), run_name="__main__")
        monkeypatch.delitem(sys.modules, "pictures", raising=False)
        out, err = capsys.readouterr()
        return ended.value.code, [json.loads(line) for line in out.splitlines()], err

    return run


def _picture(path: Path, seed: int, height: int = HEIGHT) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, 12, 3)).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (2, 9000)])
def test_a_very_thin_picture_keeps_a_row_of_pixels(shape):
    image = np.full((*shape, 3), 9, np.uint8)
    planes, size = pictures.pixels(image, HOW)
    assert min(size) == 1 and max(size) == 1333 and planes.shape[2:] == size and (planes == 9).all()


@pytest.mark.parametrize(("script", "facts"), [("maps.py", CLASSES), ("boxes.py", BOXES)])
def test_a_picture_that_the_graph_does_not_take_costs_no_other_its_row(script, facts, predict, tmp_path):
    folder = _export(tmp_path / "export", script, facts)
    images = [_picture(tmp_path / f"{name}.png", 0, height) for name, height in (("a", 8), ("tall", 9), ("b", 8))]
    status, rows, fault = predict(folder, *images)
    assert [row["id"] for row in rows] == [str(images[0]), str(images[2])]
    assert status == 1 and fault.startswith(f"{images[1]}: the graph does not take it") and fault.count("\n") == 1


def test_a_map_replaces_no_file(predict, tmp_path):
    folder = _export(tmp_path / "export", "maps.py", CLASSES)
    image, namesake = _picture(tmp_path / "a" / "x.png", 0), _picture(tmp_path / "b" / "x.png", 1)
    before = image.read_bytes()
    status, rows, _ = predict(folder, image, namesake, "--out", image.parent)
    assert status == 0 and image.read_bytes() == before
    assert [Path(row["map"]).name for row in rows] == ["x-2.png", "x-3.png"]
    for row, source in zip(rows, (image, namesake), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(row["map"])), np.asarray(Image.open(source)).argmax(2))


def test_a_map_has_the_name_of_its_image(predict, tmp_path):
    image = _picture(tmp_path / "x.png", 0)
    _, (row,), _ = predict(_export(tmp_path / "export", "maps.py", CLASSES), image, "--out", tmp_path / "new" / "maps")
    assert row["map"] == str(tmp_path / "new" / "maps" / "x.png")
