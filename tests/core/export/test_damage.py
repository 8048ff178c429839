"""An export whose files are not as they were written is refused, by vladapt and by its own predict.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.contracts.use import ExportWishes
from vladapt.core.errors import DataError
from vladapt.core.export.folder import read_facts

pytest.importorskip("onnxruntime", reason="extra export is not installed")

from vladapt.core.export import standalone
from vladapt.core.export.package import STANDALONE, NewExport
from vladapt.core.export.scripts import pictures

GRAPH = bytes(range(256)) * 8


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    new = NewExport(None, ExportWishes(out=folder / "absent"))
    (folder / "model.onnx").write_bytes(GRAPH)
    how = {"image_size": 16, "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bicubic", "mode": "shortest"}
    facts = {"format": 1, "class_names": ["a", "b"], "multilabel": False, "coverage": {}, "preprocessing": how}
    new.finish(folder, {**facts, "graphs": {"pixels": "model.onnx"}}, {}, STANDALONE)
    return folder


def refusals(folder: Path) -> tuple[str, str]:
    """What vladapt and predict.py say."""
    with pytest.raises(DataError) as ours:
        read_facts(folder)
    with pytest.raises(SystemExit) as its:
        standalone.facts_of(folder)
    return str(ours.value), str(its.value.code)


def test_an_export_as_it_was_written_is_read(export):
    facts = read_facts(export)
    assert set(facts["sha256"]) == {"model.onnx", "predict.py"}
    assert standalone.facts_of(export) == facts
    (export / "notes.txt").write_text("mine")
    assert read_facts(export) == facts


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(GRAPH) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_graph_is_found_wherever_it_is(export, place, bits):
    file = export / "model.onnx"
    try:
        file.write_bytes(GRAPH[:place] + bytes([GRAPH[place] ^ bits]) + GRAPH[place + 1 :])
        for said in refusals(export):
            assert "model.onnx" in said and "damaged or replaced" in said and "copy the whole folder" in said
    finally:
        file.write_bytes(GRAPH)


@pytest.mark.parametrize("name", ["model.onnx", "predict.py"])
def test_a_lost_file_is_missed(export, name):
    content = (export / name).read_bytes()
    try:
        (export / name).unlink()
        assert all(name in said and "missing" in said for said in refusals(export))
    finally:
        (export / name).write_bytes(content)


@pytest.mark.parametrize("content", [None, '{"format": 1, "class_na', "\udcff"], ids=["lost", "cut off", "not text"])
@pytest.mark.parametrize("reader", [standalone.facts_of, pictures.facts_of], ids=["classes", "pictures"])
def test_predict_py_refuses_facts_that_are_lost_or_damaged_in_a_line(tmp_path, reader, content):
    if content is not None:
        (tmp_path / "export.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit, match=r"export.json: missing, damaged or replaced; copy the whole folder"):
        reader(tmp_path)


def test_an_export_without_digests_is_read(export, tmp_path):
    for file in export.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    facts = json.loads((tmp_path / "export.json").read_text())
    del facts["sha256"]
    (tmp_path / "export.json").write_text(json.dumps(facts))
    (tmp_path / "model.onnx").write_bytes(b"another")
    assert read_facts(tmp_path) == facts
    assert standalone.facts_of(tmp_path) == facts
    (tmp_path / "export.json").write_text(json.dumps({**facts, "sha256": {"model.onnx": 5}}))
    with pytest.raises(DataError, match="sha256 is not usable"):
        read_facts(tmp_path)
