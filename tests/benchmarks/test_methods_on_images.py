"""benchmarks/methods_on_images.py: what it measures on tiny sets, what it says of the numbers, and its page."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "measurements" / "images.md").read_text(encoding="utf-8")


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    monkeypatch.chdir(tmp_path)
    import methods_on_images

    monkeypatch.setattr(methods_on_images, "SHOTS", (4,))
    return methods_on_images


@pytest.fixture
def colours(tmp_path) -> Path:
    """20 drawn images of each of three colours."""
    drawn = np.random.default_rng(0)
    for label in range(3):
        folder = tmp_path / "data" / "colours" / f"colour {label}"
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = (70 * label + drawn.integers(0, 110, (16, 16, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


def made(bench, scores: dict[str, list[float]], **further):
    """A set of six splits with these scores at 4 shots, and others that are all alike."""
    methods = (*bench.METHODS, bench.PROBE, bench.PROBE_OF_ALL)
    every = {f"4 {name}": scores.get(name, [0.5, 0.6] * 3) for name in methods}
    known = {"metric": "accuracy", "test_images": 20, "classes": 3, "splits": 6, "test_over_train": 0.5}
    taken = {"4": ["ridge", "ridge"]}
    return bench.Measured(**{**known, "scores": every, "taken": taken, "seconds": dict.fromkeys(every, 1.0), **further})


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.thorough
def test_all_methods_and_scikit_learn_answer_on_the_same_splits_which_are_kept(bench, colours, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SETS", {"colours": ("natural", "colours"), "away": ("natural", "not/there")})
    monkeypatch.setattr(bench, "METHODS", ("zero-shot", "ridge", "auto"))
    monkeypatch.setattr(sys, "argv", ["methods_on_images.py", "--data", str(colours), "--splits", "2"])
    bench.main()
    said = capsys.readouterr()
    assert "skipped: there is no" in said.err and "not/there" in said.err
    (file,) = Path("runs/methods_on_images").glob("*.json")
    kept = json.loads(file.read_text())
    assert set(kept["scores"]) == {f"4 {name}" for name in ("zero-shot", "ridge", "auto", *bench.PROBES)}
    assert all(len(of) == 2 and all(0 <= score <= 1 for score in of) for of in kept["scores"].values())
    assert kept["splits"] == 2 and kept["classes"] == 3 and len(kept["taken"]["4"]) == 2
    kept["scores"]["4 ridge"] = [0.25, 0.75]
    file.write_text(json.dumps(kept))
    bench.main()
    assert "| ridge | 50.0 ± 25.0 | 50.0 |" in capsys.readouterr().out


def test_no_set_at_all_is_one_line(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["methods_on_images.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="has none of these sets; name the folder of the public data"):
        bench.main()


def test_the_checks_name_the_best_method_and_the_sets_below_zero_shot(bench):
    found = {
        "good": made(bench, {"gda": [0.9, 0.8] * 3, "auto": [0.8] * 6, "zero-shot": [0.1] * 6}),
        "bad": made(bench, {"gda": [0.5] * 6, "auto": [0.2] * 6, "zero-shot": [0.6] * 6, bench.PROBE: [0.1] * 6}),
    }
    best, zero_shot, probe, _, took = bench.checks(found, 4)
    assert best == "* Mean of `auto`: 50.0. Best single method: `gda`, 67.5. Difference: -17.5 points."
    assert "on bad; its smallest gain over zero-shot is -40.0 (-40.0 to -40.0), on bad" in zero_shot
    assert "better on good, bad, worse on no set" in probe
    assert took == "* In 4 fits, `auto` chose `ridge` in 4."


def test_scikit_learn_may_learn_from_val_once_its_settings_are_chosen(bench):
    drawn = np.random.default_rng(0)
    centres, y = 3 * drawn.normal(size=(4, 8)), np.repeat(np.arange(4), 6)
    x, val, test = (centres[y] + drawn.normal(size=(24, 8)) for _ in range(3))
    assert bench.balanced_accuracy(y, bench.scikit_learn(x, y, val, y, test)) > 0.9
    third = y < 3  # val alone has the fourth class
    assert 3 not in bench.scikit_learn(x[third], y[third], val, y, test)
    assert 3 in bench.scikit_learn(x[third], y[third], val, y, test, val_too=True)


def test_the_page_has_every_set_the_function_and_what_auto_promises(bench):
    written = PAGE.partition(bench.BEGIN)[2].partition(bench.END)[0]
    assert inspect.getsource(bench.scikit_learn).strip() in written
    first, *parts = written.split("### ")
    sets = [row[0] for row in table_rows(first)[1:]]
    assert sets == list(bench.SETS)
    assert [part.split()[0] for part in parts] == ["4", "16", "The"]
    for part in parts[:2]:
        header, *rows = table_rows(part)
        assert header[1:-2] == sets
        means = {row[0]: float(row[-2]) for row in rows}
        assert set(means) == {*bench.METHODS, *bench.PROBES}
        assert means["auto"] > max(means[name] for name in bench.METHODS) - 2
        assert "Shown to be below zero-shot: on no set;" in part
