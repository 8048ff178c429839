"""The benchmarks of many images and of many classes, on few."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from vladapt.core.data import file_hashes, near_copies, verify
from vladapt.core.features.store import FeatureStore
from vladapt.core.runtime import reading

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: runpy.run_path(str(BENCHMARKS / f"{name}.py"))


def test_the_second_command_reads_no_file_and_runs_no_tower(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reading, "SETTLED_NS", -1)  # as if the files had been there for a while
    benchmark = script("second_command")
    benchmark["draw"](tmp_path / "images", 30, 3)
    benchmark["command"](tmp_path / "images", None)
    for module, name in ((file_hashes, "sha256_of"), (verify, "_decoded"), (near_copies, "near_copies")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("done again"))
    benchmark["command"](tmp_path / "images", FeatureStore())  # the tower is a name without methods
    assert "looking features up" in capsys.readouterr().out


def test_the_peer_is_proker_with_its_settings(script):
    benchmark = script("many_classes")
    support, test, text = benchmark["problem"](8, 6, 16)
    ours = benchmark["vladapt"].build_adapter("proker", beta=1.7, penalty=0.1)
    ours.fit(support, text)
    peer = benchmark["logits"]("KernelRidge", support, test, text)
    assert (ours.logits(test) / text.logit_scale - peer).abs().max() < 1e-4
