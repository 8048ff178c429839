"""benchmarks/scale.py: the loop that shards are measured beside does the same work, and what was measured stays."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("one_cache")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scale():
    """By its file: the repository may lie in a folder of that name."""
    spec = spec_from_file_location("scale_benchmark", ROOT / "benchmarks" / "scale.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loop_writes_the_features_that_the_shards_hold(scale, tmp_path, monkeypatch, small_clip_spec):
    monkeypatch.setitem(scale.SIZES, "side", 64)
    monkeypatch.setitem(scale.SIZES, "shard_size", 3)
    scale.jpegs(tmp_path / "images", 5)
    given = Namespace(backbone=small_clip_spec)
    made = {}
    for way, work in scale.WAYS.items():
        work(given, tmp_path / "images", tmp_path / way)
        tables = [pq.read_table(file) for file in sorted((tmp_path / way).rglob("*.parquet"))]
        assert len(tables) == 2
        made[way] = np.array([row for table in tables for row in table["image_features"].to_pylist()])
    assert made["shards"].shape == made["loop"].shape and len(made["loop"]) == 5
    assert all(np.abs(each - made["shards"]).max() < 2e-3 for each in made.values())
    assert np.ptp(made["loop"], axis=0).max() > 1e-2  # images differ


def test_what_was_measured_is_not_measured_again(scale, tmp_path, monkeypatch, capsys):
    file, calls = tmp_path / "results.json", []
    monkeypatch.setattr(scale, "WORKS", {"rows": lambda given: calls.append(given.rows) or {"ratio": 1.5}})
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["scale.py", "rows", "--rows", "7", "--results", str(file)])
        scale.main()
        assert "ratio: 1.500" in capsys.readouterr().out
    assert calls == [7] and json.loads(file.read_text()) == {"rows": {"ratio": 1.5}}
