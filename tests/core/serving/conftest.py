"""An export that tells red, green and blue pictures apart, and a client of a server that asks it."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.serving.uploads import Limits

NAMES = ["red", "green", "blue"]
RUN = "20260101-120000-natural-gda-1a2b"


@pytest.fixture(scope="session")
def export(tmp_path_factory) -> Path:
    """An export whose logits are ten times the mean of each band; pictures with dark corners count as unlike."""
    onnx = pytest.importorskip("onnx", reason="extra export is not installed")
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    folder = tmp_path_factory.mktemp("served") / "model"
    folder.mkdir()
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3])
    bands = helper.make_tensor("bands", onnx.TensorProto.INT64, [1], [1])
    ten, one = (helper.make_tensor(name, number, [1], [value]) for name, value in (("ten", 10.0), ("one", 1.0)))
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "ten"], ["logits"]),
        helper.make_node("ReduceMax", ["means", "bands"], ["brightest"], keepdims=0),
        helper.make_node("Sub", ["one", "brightest"], ["distance"]),
    ]
    shapes = {"pixels": ["B", 3, 16, 16], "logits": ["B", 3], "distance": ["B"]}
    given, *made = (helper.make_tensor_value_info(name, number, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "bands", [given], made, [axes, bands, ten, one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, str(folder / "model.onnx"))
    how = {"image_size": 16, "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bicubic", "mode": "shortest"}
    facts = {"format": 1, "run": RUN, "adapter": "gda", "class_names": NAMES, "multilabel": False, "thresholds": None}
    facts |= {"coverage": {"0.9": [0.2] * 3}, "unlike_beyond": 0.5, "graphs": {"pixels": "model.onnx"}}
    (folder / "export.json").write_text(json.dumps({**facts, "preprocessing": {"transform": "clip", **how}}))
    (folder / "predict.py").write_text("raise SystemExit('nobody runs this')")
    return folder


@pytest.fixture(scope="session")
def picture():
    """picture("red", "PNG") -> the file's content."""

    def encode(colour: str = "red", format: str = "PNG", side: int = 24) -> bytes:
        pixels = np.full((side, side, 3), 40, np.uint8)
        pixels[..., NAMES.index(colour)] = 220
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        return buffer.getvalue()

    return encode


@pytest.fixture
def serving(export, tmp_path):
    """A context with a client: `with serving(model=None, limits=..., token=...) as (client, lines told)`."""
    testclient = pytest.importorskip("starlette.testclient", reason="the client of starlette's tests is not installed")
    pytest.importorskip("prometheus_client", reason="extra serve is not installed")
    from vladapt.core.contracts.serving import Serving
    from vladapt.core.serving.app import Access, build_app
    from vladapt.core.serving.desk import Desk
    from vladapt.core.serving.exported import ServedExport

    @contextmanager
    def make(model=None, limits=None, token="", most=4, max_pixels=64_000_000):
        uploads, told = tmp_path / "uploads", []
        uploads.mkdir(exist_ok=True)
        model = model or ServedExport(export, Serving(threads=1, max_pixels=max_pixels))
        desk = Desk(model, most, limits or Limits(), uploads, 2, told.append)
        app = build_app(desk, Access(token))
        with testclient.TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
            yield client, told
        assert list(uploads.iterdir()) == [], "nothing of a request stays"

    return make
