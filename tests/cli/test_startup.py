"""What a command imports: libraries that its work does not need would cost more than the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

LISTED = """
import json, sys
from vladapt.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
print(json.dumps([*sys.modules]), file=sys.stderr)
"""
"""Commands in turn, then what they have imported."""
OF_TOWER_TRAINING = {"mmengine", "transformers", "peft", "accelerate", "torch.distributed.checkpoint", "torch._dynamo"}
OF_OTHER_WORK = {"torchvision", "torchmetrics", "captum", "cv2", "open_clip", "timm", "matplotlib.pyplot"}
OF_A_FIT = {"sklearn", "scipy.stats", "pandas", "jinja2"}
FIT_MODULES, PREDICT_MODULES = 1_900, 650
"""At most so many besides those of torch and of Python, whose number is their own: 1,807 and 570 on Python 3.11."""


def imported(folder: Path, *commands: tuple[object, ...]) -> set[str]:
    """Names of the modules that commands have imported in a process of their own; they have to succeed."""
    command = (sys.executable, "-c", LISTED, json.dumps([[str(word) for word in words] for words in commands]))
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def besides_torch(modules: set[str]) -> int:
    others = {"torch", "torchgen", *sys.stdlib_module_names}
    return sum(name.partition(".")[0] not in others for name in modules)


def test_a_second_fit_and_a_prediction_import_only_what_they_use(colours, tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    fit = ("fit", "--domain", "medical", "--data", colours, "--shots", 4, "--out", "runs")
    forked.run(["-m", "vladapt", *fit, "--adapter", "zero-shot"], cwd=tmp_path, check=True)  # all is stored now

    modules = imported(tmp_path, (*fit, "--adapter", "tip-adapter"), (*fit, "--adapter", "auto"))
    assert sorted(modules & (OF_TOWER_TRAINING | OF_OTHER_WORK)) == []
    assert besides_torch(modules) <= FIT_MODULES

    (run,) = (tmp_path / "runs").glob("*-tip-adapter-*")
    modules = imported(tmp_path, ("predict", run, next(colours.rglob("*.png"))))
    assert sorted(modules & (OF_TOWER_TRAINING | OF_OTHER_WORK | OF_A_FIT)) == []
    assert besides_torch(modules) <= PREDICT_MODULES


def test_help_imports_nothing_that_works_on_data(tmp_path):
    of_work = {"torch", "numpy", "safetensors", "PIL", "rich.progress", "zipfile"}
    assert sorted(imported(tmp_path, ("--help",)) & of_work) == []


def test_timing_shows_the_parts_of_a_fit(fit, colours):
    parts = (
        *("start and imports", "reading the data", "features", "fit", "judging", "explanations", "run and report"),
        "other",
    )
    shown = fit("--data", colours, "--timing")
    assert shown.code == 0
    assert all(name in shown.out for name in parts)
    assert "start and imports" not in fit("--data", colours).out
    assert set(fit("--data", colours, "--timing", "--json").json["timing"]) == set(parts)
