"""The table in docs/measurements/adapters.md is what the command writes of the adapters that were measured."""

from __future__ import annotations

import csv
import re
import runpy
from pathlib import Path

import pytest
from forked import run

from vladapt.core.registry import catalogue

ROOT = Path(__file__).resolve().parents[2]
PAGE, GUIDE = (ROOT / "docs" / place for place in ("measurements/adapters.md", "adapters.md"))


def test_the_table_is_what_the_command_writes():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from adapters import PAGE, TABLE, read; from adapter_page import with_table;"
        "print(with_table(PAGE.read_text(encoding='utf-8'), read(TABLE)), end='')"
    )
    printed = run(["-c", script, ROOT / "benchmarks"], check=True).stdout
    assert printed == PAGE.read_text(encoding="utf-8")


def test_what_was_measured_is_there_and_in_the_table():
    with (ROOT / "docs" / "adapters.csv").open(newline="") as file:
        measured = {row["adapter"] for row in csv.DictReader(file)}
    own = {name for name, entry in catalogue.adapters().items() if entry.entry_point is None}
    assert measured <= own and len(measured) > 30
    assert set(re.findall(r"^\| `([\w-]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) >= measured


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(ROOT / "benchmarks" / "adapters.py"))


def test_a_measured_method_replaces_its_own_rows_alone(benchmark, monkeypatch, tmp_path, capsys):
    lines = (ROOT / "docs" / "adapters.csv").read_text().splitlines(keepends=True)
    table = tmp_path / "adapters.csv"
    table.write_text("".join(line for line in lines if not line.startswith("ape,embedded,,16,")))  # as of an older run
    row = {"adapter": "ape", "backbone": "embedded", "options": "", "zero_shot": 0.25, "accuracy": 0.5, "seconds": 0.1}
    measured = {
        "ape": [row | {"shots": shots, "seed": 1, "mebibytes": 0, "trained_parameters": 0} for shots in (16, 1)],
        "coop": [],
    }
    monkeypatch.setitem(benchmark["measure"].__globals__, "measured", lambda name, vit: measured[name])
    assert benchmark["measure"](["coop", "ape"], table, None) == ["coop"]
    written = table.read_text().splitlines(keepends=True)
    others = [line for line in lines if not line.startswith("ape,")]
    assert [line for line in written if not line.startswith("ape,")] == others
    assert [line for line in written if line.startswith("ape,")] == [
        "ape,embedded,,1,1,0.25,0.5,0.1,0,0\n",
        "ape,embedded,,16,1,0.25,0.5,0.1,0,0\n",
    ]
    assert "ape: 0.10 s per fit" in capsys.readouterr().err


def test_a_name_that_does_not_exist_is_one_line():
    done = run([ROOT / "benchmarks" / "adapters.py", "measure", "tip-adaptor"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("unknown adapter 'tip-adaptor'; did you mean tip-adapter")


def test_the_small_vit_is_trained_by_the_first_that_needs_it(benchmark, monkeypatch, tmp_path):
    def pretrain(folder):
        trained.append(folder)
        (folder / "vit").mkdir()
        (folder / "vit" / "model.safetensors").touch()

    trained = []
    monkeypatch.setitem(benchmark["small_vit"].__globals__, "pretrain", pretrain)
    assert [benchmark["small_vit"](tmp_path / "new") for _ in range(2)] == [str(tmp_path / "new" / "vit")] * 2
    assert trained == [tmp_path / "new"]


def test_the_guide_names_adapters_that_are_there():
    guide = GUIDE.read_text(encoding="utf-8").partition("## Which one?")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z][a-z-]+)`", guide))
    assert len(named) > 40 and named <= set(catalogue.adapters())
