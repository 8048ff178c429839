"""Commands as processes of their own: stopped by Ctrl-C, and started together by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = """
import sys, time
from vladapt.cli import main
from vladapt.core.features import store

make = store.encoder

def slow(*arguments):
    encode = make(*arguments)
    def encode_slowly(pixels):
        with open("batches", "a") as f:
            f.write("x")
        time.sleep(0.1)
        return encode(pixels)
    return encode_slowly

store.encoder = slow
main(sys.argv[1:])
"""
"""The command line with a slow backbone, so that there is time to interrupt it."""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "VLADAPT_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def arguments(small_clip_spec, colours) -> list[str]:
    return ["fit", "--domain", "medical", "--data", str(colours), "--backbone", small_clip_spec, "--shots", "4"]


@pytest.fixture
def many(class_folders) -> Path:
    return class_folders("red", "green", each=150, name="many")


def test_ctrl_c_keeps_what_was_computed_and_the_next_run_goes_on(many, small_clip_spec, tmp_path, environment):
    base = ["embed", "--domain", "medical", "--backbone", small_clip_spec, "--data", str(many), "--batch-size", "4"]
    command = [sys.executable, "-c", SLOW, *base, "--out", str(tmp_path / "f.npz")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    wait_for(lambda: batches(tmp_path) > 5, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == "", err
    lines = err.strip().splitlines()
    assert lines[-1] == "vladapt: stopped; what was computed is kept, the same command goes on from it"
    assert "Traceback" not in err and len(lines) == 1
    assert not (tmp_path / "f.npz").exists()
    done = subprocess.run(
        [sys.executable, "-m", "vladapt", *base, "--out", str(tmp_path / "f.npz"), "--json"],
        capture_output=True,
        text=True,
        env=environment,
    )
    written = json.loads(done.stdout)
    assert written["images"] == 300
    assert written["from_store"] >= 20 and written["encoded"] == 300 - written["from_store"] > 0


def batches(folder: Path) -> int:
    file = folder / "batches"
    return len(file.read_text()) if file.exists() else 0


def wait_for(condition, process) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def together(arguments, environment, folder: Path, program=("-m", "vladapt")) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launch, *program, *arguments], capture_output=True, text=True, env=environment, cwd=folder, timeout=120
    )


def test_two_ranks_make_one_of_everything_with_the_numbers_of_one_process(vladapt, arguments, environment, tmp_path):
    alone = vladapt(*arguments, "--adapter", "ape", "--json").json
    (tmp_path / "ranks").mkdir()
    (tmp_path / "commands.py").write_text(
        "import contextlib, json, sys\n"
        "from vladapt.cli import main\n"
        "from vladapt.core.runtime.distributed import start_from_environment\n"
        "start_from_environment()\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main(command)\n"
    )
    base = arguments[1:7]
    commands = [
        [*arguments, "--adapter", "ape", "--json"],
        ["embed", *base, "--out", "f.npz", "--json"],
        ["compare", *base, "--adapters", "ape", "--shots", "4", "--seeds", "1", "--out", "compared", "--json"],
    ]
    program = (str(tmp_path / "commands.py"), json.dumps(commands))
    done = together([], environment, tmp_path / "ranks", program)
    assert done.returncode == 0, done.stderr
    made, embedded, compared = map(json.loads, done.stdout.splitlines())
    assert [path.name for path in (tmp_path / "ranks" / "runs").iterdir()] == [Path(made["run"]).name]
    assert made["zero_shot"] == pytest.approx(alone["zero_shot"], abs=1e-6)
    assert made["adapted"] == pytest.approx(alone["adapted"], abs=1e-6)
    assert done.stderr.count("Fitting ape on 12 images") == 1
    assert embedded["images"] == 36
    assert [row["accuracy"] for row in compared["rows"]] == pytest.approx(
        [alone["zero_shot"]["accuracy"], alone["adapted"]["accuracy"]]
    )


def test_an_error_on_one_rank_ends_all_with_one_line(arguments, environment, tmp_path):
    program = tmp_path / "failing.py"
    program.write_text(
        "import os, sys\n"
        "from vladapt.cli import main\n"
        "from vladapt.core.contracts import DataError\n"
        "from vladapt.core.features.store import FeatureStore\n"
        "def fail(self, *args):\n"
        "    raise DataError('scan.png: rank 1 cannot use it; remove it')\n"
        "if os.environ['RANK'] == '1':\n"
        "    FeatureStore._fill = fail\n"
        "main(sys.argv[1:])\n"
    )
    done = together(arguments, environment, tmp_path, program=(str(program),))
    assert done.returncode != 0 and done.stdout == ""
    ours = [line for line in done.stderr.splitlines() if line.startswith("vladapt: ")]
    assert ours == ["vladapt: scan.png: rank 1 cannot use it; remove it"]
    assert not (tmp_path / "runs").exists()


def test_wrong_options_are_said_once_by_all_ranks(arguments, environment, tmp_path):
    done = together([*arguments, "--adapter", "tip-adaptor"], environment, tmp_path)
    assert done.returncode != 0 and done.stdout == ""
    ours = [line for line in done.stderr.splitlines() if line.startswith("vladapt: ")]
    assert len(ours) == 1 and "did you mean tip-adapter" in ours[0]
