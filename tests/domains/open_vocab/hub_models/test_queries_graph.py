"""A detector of transformers as a graph of its queries, compared before the folder appears."""

import json

import numpy as np
import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

import onnxruntime
import torch
from PIL import Image

import vladapt
from vladapt.core.errors import CapabilityError
from vladapt.core.export.scripts import boxes
from vladapt.core.export.scripts import pictures as pictures_of_graphs

from . import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 2, 0), ("test", 2, 9)):
        random, listed, annotations = np.random.default_rng(seed), [], []
        for number in range(count):
            name = f"{split}{number}.png"
            Image.fromarray(random.integers(0, 255, (48, 80, 3), dtype=np.uint8)).save(folder / name)
            listed.append({"id": number, "file_name": name, "width": 80, "height": 48})
            box = {"bbox": [8, 8, 24, 24], "area": 576, "iscrowd": 0, "category_id": 1}
            annotations.append({"id": number + 1, "image_id": number, **box})
        content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": tiny.NAMES[0]}]}
        (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def run_of(folder, data, size, kind="yolos", **keys):
    """Of a tiny model as it is, whose processor resizes to a size."""
    model, processor = getattr(tiny, kind)()
    source = tiny.saved(folder / kind, model, {**processor, "size": size})
    how = {"epochs": 0, "workers": 0, "device": "cpu", "out": str(folder / "runs"), **keys}
    return vladapt.fit(domain="open-vocab", data=str(data), start=f"hf:{source}", **how).run, model


def assert_predicts_as(run, folder, pictures):
    """predict.py answers as the run does."""
    facts, script = json.loads((folder / "export.json").read_text(encoding="utf-8")), boxes
    ask = pictures_of_graphs.asked(folder, facts)
    wanted = vladapt.predict(str(run), [str(each) for each in pictures])
    assert wanted.task_rows
    for picture, row in zip(pictures, wanted.task_rows, strict=True):
        decoded = pictures_of_graphs.decoded(picture)
        planes, size = pictures_of_graphs.pixels(decoded, facts["preprocessing"])
        answer = script.answer_of(ask({"pixels": planes}), size, decoded.shape[:2], facts)
        own = script.row_of(row["id"], answer, facts["class_names"], 0.0)
        assert own["labels"] == row["labels"] and len(own["boxes"]) > 0
        np.testing.assert_allclose(own["scores"], row["scores"], atol=1e-3)
        np.testing.assert_allclose(own["boxes"], row["boxes"], atol=0.5)
        assert own.get("masks") == row.get("masks")


def test_the_graph_gives_what_the_model_gives(tmp_path, data):
    run, model = run_of(tmp_path, data, {"height": 48, "width": 64})
    folder = tmp_path / "exported"
    vladapt.export(run, out=str(folder))
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert facts["queries"]["size"] == [48, 64] and facts["queries"]["model_type"] == "yolos"
    assert_predicts_as(run, folder, sorted(data.glob("test*.png")))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(1).normal(size=(3, 3, 48, 64)).astype(np.float32)
    logits, boxes = session.run(["logits", "boxes"], {"pixels": pixels})
    with torch.no_grad():
        outputs = model.eval()(pixel_values=torch.from_numpy(pixels))
    np.testing.assert_allclose(boxes, outputs.pred_boxes.numpy(), atol=1e-4)
    np.testing.assert_allclose(logits, outputs.logits.numpy()[..., [0, 3]], atol=1e-4)  # the name of the data


def test_places_that_are_sampled_are_those_of_the_model(tmp_path, data):
    run, _ = run_of(tmp_path, data, {"height": 64, "width": 96}, "deformable_detr")
    vladapt.export(run, out=str(tmp_path / "exported"))
    assert_predicts_as(run, tmp_path / "exported", sorted(data.glob("test*.png")))


def test_a_processor_that_keeps_proportions_has_no_one_size(tmp_path, data):
    run, _ = run_of(tmp_path, data, {"shortest_edge": 48, "longest_edge": 80})
    with pytest.raises(CapabilityError, match="yolos: its processor keeps the proportions of images"):
        vladapt.export(run, out=str(tmp_path / "exported"))
    assert not (tmp_path / "exported").exists()
    square = {"plan": {"model": {"processor": {"size": {"height": 64, "width": 64}}}}}  # the cure that it names
    run, _ = run_of(tmp_path, data, {"shortest_edge": 48, "longest_edge": 80}, **square)
    vladapt.export(run, out=str(tmp_path / "exported"))
    assert_predicts_as(run, tmp_path / "exported", sorted(data.glob("test*.png")))
