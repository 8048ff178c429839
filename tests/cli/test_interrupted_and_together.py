"""Commands as processes of their own: stopped by Ctrl-C, and started together by torchrun."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import PATIENCE, run_ranks, start

from vladapt.core.errors import INTERRUPTED

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


HELD = """
import sys, time
from vladapt.cli import main
from vladapt.core.engine import compare

add = compare._Rows.add

def hold(rows, *arguments):
    add(rows, *arguments)
    if len(rows.done) == 3:
        time.sleep(600)

compare._Rows.add = hold
main(sys.argv[1:])
"""
"""The command line with a comparison that waits after three rows."""

HELD_SHARDS = """
import sys, time
from vladapt.cli import main
from vladapt.core.shards import driver

add = driver._Driver._add

def hold(self, *arguments):
    add(self, *arguments)
    if self.summary.shards == 3:
        time.sleep(600)

driver._Driver._add = hold
main(sys.argv[1:])
"""
"""The command line with work on shards that waits after three of them."""

IN_A_DESTRUCTOR = """
import os, signal, time
from vladapt.core.runtime.process import stops_like_ctrl_c

class Loader:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

signal.signal(signal.SIGTERM, signal.SIG_DFL)
with stops_like_ctrl_c() as stops:
    try:
        Loader()
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped", stops.arrived)
"""
IN_A_SLOW_HOOK = (
    """
import threading, time
start = threading.Thread.start
def slowly(thread):  # as on a busy machine
    start(thread)
    time.sleep(0.3)
threading.Thread.start = slowly
"""
    + IN_A_DESTRUCTOR
)
WHILE_IMPORTING = """
import importlib, signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Stop())
module, function = sys.argv.pop(1).split(":")
getattr(importlib.import_module(module), function)()
"""
"""The command of that entry point, stopped while its modules are read."""
AT_THE_END = """
import atexit, importlib, signal, sys
atexit.register(signal.raise_signal, signal.SIGINT)
module, function = sys.argv.pop(1).split(":")
getattr(importlib.import_module(module), function)()
"""
"""The same, with Ctrl-C while Python ends."""
IN_A_SESSION = "import os, sys; from vladapt.cli import main; os.setsid(); main(sys.argv[1:])"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""It starts its ranks as Pythons of their own."""
COMMANDS = """
import contextlib, json, sys
from vladapt.cli import main
from vladapt.core.runtime.distributed import start_from_environment
start_from_environment()
*first, last = json.loads(sys.argv[1])
for command in first:
    with contextlib.suppress(SystemExit):
        main(command)
{last}
main(last)
"""
"""Several commands in turn, the last one after some lines of its own."""
NAMED = ("--out", "compared", "--json")
STOPPED = "vladapt: stopped; kept: thumbnails and features in {cache}; the same command continues from there"


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "VLADAPT_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def arguments(small_clip_spec, colours) -> list[str]:
    return ["fit", "--domain", "medical", "--data", str(colours), "--backbone", small_clip_spec, "--shots", "4"]


@pytest.fixture
def many(class_folders) -> Path:
    return class_folders("red", "green", each=150, name="many")


@pytest.mark.thorough(but=("2",))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_keeps_what_was_computed_and_the_next_run_goes_on(
    vladapt, many, small_clip_spec, tmp_path, environment, monkeypatch, number
):
    base = ["embed", "--domain", "medical", "--backbone", small_clip_spec, "--data", str(many), "--batch-size", "4"]
    process = start(["-c", SLOW, *base, "--out", tmp_path / "f.npz"], env=environment, cwd=tmp_path)
    wait_for(lambda: batches(tmp_path) > 5, process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == INTERRUPTED and out == "", err
    lines = err.strip().splitlines()
    assert lines[-1] == STOPPED.format(cache=environment["VLADAPT_CACHE"])
    assert "Traceback" not in err and len(lines) == 1
    assert not (tmp_path / "f.npz").exists()
    monkeypatch.setenv("VLADAPT_CACHE", environment["VLADAPT_CACHE"])
    written = vladapt(*base, "--out", tmp_path / "f.npz", "--json").json
    assert written["images"] == 300
    assert written["from_store"] >= 20 and written["encoded"] == 300 - written["from_store"] > 0


STOPPED_COMMANDS = {
    "index": ["index", "{many}", "--out", "photos.index"],
    "predict": ["predict", "{run}", "{many}"],
    "eval": ["eval", "{run}", "--data", "{many}", "--split", "all"],
    "compare": ["compare", "{many}", "--adapters", "ape", "--shots", "1", "--seeds", "1", "--splits", "1"],
    "select": ["select", "--data", "{many}", "--classes", "red, green", "--budget", "5", "--out", "todo.csv"],
    "bench": ["bench", "{backbone}", "--data", "{many}", "--out", "scores"],
}
"""Those that look at images -> what they are given."""


@pytest.mark.parametrize("name", STOPPED_COMMANDS)
def test_a_stopped_command_ends_in_one_line_that_says_where_what_it_leaves_lies(
    vladapt, colours, many, small_clip_spec, tmp_path, environment, name
):
    places = {"many": many, "backbone": small_clip_spec, "run": ""}
    if name in ("predict", "eval"):
        fit = ["fit", "--data", colours, "--backbone", small_clip_spec, "--shots", "4", "--adapter", "ape", "--json"]
        places["run"] = vladapt(*fit).json["run"]
    words = [word.format_map(places) for word in STOPPED_COMMANDS[name]]
    words += ["--batch-size", "4"] * (name != "eval")
    words += ["--backbone", small_clip_spec] * (name in ("index", "compare", "select"))
    process = start(["-c", SLOW, *words], env=environment, cwd=tmp_path)
    wait_for(lambda: batches(tmp_path) > 2, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == INTERRUPTED and out == "" and "Traceback" not in err, err
    [line] = [line for line in err.splitlines() if line.startswith("vladapt: ")]
    assert line.startswith("vladapt: stopped; kept: ") and f"features in {environment['VLADAPT_CACHE']}" in line
    continued = "this continues from there: vladapt compare " if name == "compare" else "the same command continues"
    assert f"; {continued}" in line and err.strip().endswith(line)


def test_a_command_that_was_stopped_before_it_kept_anything_says_so(many, small_clip_spec, tmp_path, environment):
    at_once = SLOW.replace("make = store.encoder", "make = store.encoder; import signal").replace(
        "def slow(*arguments):", "def slow(*arguments):\n    signal.raise_signal(signal.SIGINT)"
    )
    process = start(["-c", at_once, "index", many, "--backbone", small_clip_spec, "--out", "a.index"], env=environment)
    out, err = process.communicate()
    assert process.returncode == INTERRUPTED and out == "", err
    assert err.strip().splitlines()[-1] == "vladapt: stopped; nothing is kept yet; the same command starts anew"


@pytest.fixture
def entry_point():
    """Of the installed command: "module:function"."""
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return tomllib.loads(file.read_text())["project"]["scripts"]["vladapt"]


def test_a_stop_while_modules_are_read_is_one_line(entry_point):
    command = [sys.executable, "-c", WHILE_IMPORTING, entry_point, "list", "adapters"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (INTERRUPTED, "")
    assert done.stderr == "vladapt: stopped; nothing is kept yet; the same command starts anew\n"


def test_ctrl_c_after_the_command_changes_nothing(entry_point):
    """Libraries that are interrupted while they clean up print where, or abort the process."""
    command = [sys.executable, "-c", AT_THE_END, entry_point, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("vladapt ")


def test_finished_shards_are_named_where_they_lie(many, small_clip_spec, tmp_path, environment):
    base = ["embed", many, "--as", "parquet", "--shard-size", "20", "--backbone", small_clip_spec, "--out", "shards"]
    process = start(["-c", HELD_SHARDS, *base], env=environment, cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("shards/*/*.parquet"))) > 2, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == INTERRUPTED and out == "" and "Traceback" not in err, err
    assert f"vladapt: stopped; kept: finished shards in {tmp_path}/shards/" in err.strip().splitlines()[-1]


def test_what_nohup_ignores_stays_ignored(many, small_clip_spec, tmp_path, environment):
    base = ["embed", "--domain", "medical", "--backbone", small_clip_spec, "--data", str(many), "--batch-size", "32"]
    ignoring = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SLOW}"
    process = start(["-c", ignoring, *base, "--out", tmp_path / "f.npz"], env=environment, cwd=tmp_path)
    wait_for(lambda: batches(tmp_path) > 1, process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert (tmp_path / "f.npz").is_file()


@pytest.mark.parametrize(("number", "out"), [(signal.SIGTERM, ["--out=my table"]), (signal.SIGINT, [])])
def test_a_stopped_comparison_keeps_its_rows_and_says_the_command_that_continues_it(
    colours, small_clip_spec, tmp_path, environment, number, out
):
    base = ["compare", "--domain", "medical", "--backbone", small_clip_spec, "--data", str(colours), *out]
    base += ["--adapters", "nearest-mean,tip-adapter", "--shots", "1,2", "--seeds", "1,2", "--splits", "1"]
    process = start(["-c", HELD, *base], env=environment, cwd=tmp_path)

    def table() -> Path | None:
        return next(tmp_path.glob("*/compare.csv" if out else "runs/*/compare.csv"), None)

    wait_for(lambda: table() and len(table().read_text().splitlines()) > 3, process)
    process.send_signal(number)
    printed, err = process.communicate()
    assert process.returncode == INTERRUPTED and printed == "" and "Traceback" not in err, err
    rows = json.loads(table().with_name("compare.json").read_text())["rows"]
    assert len(rows) == len(table().read_text().splitlines()) - 1 == 3
    told, _, command = err.strip().splitlines()[-1].partition("this continues from there: ")
    cache, folder = environment["VLADAPT_CACHE"], table().parent.relative_to(tmp_path)
    assert told == f"vladapt: stopped; kept: thumbnails and features in {cache}, rows in {folder}; "
    words = shlex.split(command)
    assert words[: len(base) + 1] == ["vladapt", *base]
    again = start(["-m", *words], env=environment, cwd=tmp_path)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert len(table().read_text().splitlines()) > 12 and not table().with_name("compare.json").exists()


def test_a_signal_to_all_processes_of_a_training_is_one_line_and_its_checkpoints_stay(
    colours, small_clip_spec, tmp_path, environment
):
    """As a scheduler or a closing terminal sends it: to those that load samples, too."""
    splits = {5: "val", 11: "test"}
    rows = [f"{f},{f.parent.name} {f.stem},{splits.get(int(f.stem), 'train')}" for f in colours.rglob("*.png")]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption,split", *rows]))
    base = ["pretrain", "--backbone", small_clip_spec, "--data", "pairs.csv", "--epochs", "500", "--batch-size", "8"]
    command = ["-c", IN_A_SESSION, *base, "--workers", "2", "--out", "model", "--set", "save_every=2"]
    process = start(command, env=environment, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.rglob("step-*.pt")), process)
    os.killpg(process.pid, signal.SIGHUP)
    out, err = process.communicate()
    assert process.returncode == INTERRUPTED and out == "", err
    [line] = [line for line in err.splitlines() if line.startswith("vladapt: ")]
    assert "kept: checkpoints in model; this continues from there: vladapt pretrain" in line
    assert line.endswith(" --resume")
    assert "Traceback" not in err and "DataLoader" not in err
    assert list(tmp_path.rglob("step-*.pt"))


@pytest.mark.parametrize("commands", [IN_A_DESTRUCTOR, IN_A_SLOW_HOOK], ids=["soon", "while-the-hook-runs"])
def test_a_stop_in_a_destructor_is_not_lost(commands):
    """Python drops it there, and a training of many short epochs spends much of its time in those of its loaders."""
    process = start(["-c", commands])
    assert process.communicate() == ("stopped True\n", "") and process.returncode == 0


@pytest.mark.thorough
def test_torchrun_embeds_as_one_process_and_stopped_it_ends_its_ranks_with_one_line(
    vladapt, arguments, many, small_clip_spec, environment, tmp_path
):
    """The real one, whose ranks are Pythons of their own; elsewhere, for fits too, ranks are started as it starts
    them."""
    few = ["embed", *arguments[1:7]]
    alone = vladapt(*few, "--out", "alone.npz", "--json").json
    base = ["embed", "--domain", "medical", "--backbone", small_clip_spec, "--data", str(many), "--batch-size", "4"]
    (tmp_path / "ranks").mkdir()
    (tmp_path / "commands.py").write_text(COMMANDS.format(last=SLOW.partition("main(sys")[0]))
    commands = [[*few, "--out", "together.npz", "--json"], [*base, "--out", "f.npz"]]
    command = [*TORCHRUN, tmp_path / "commands.py", json.dumps(commands)]
    process = start(command, env=environment, cwd=tmp_path / "ranks")
    wait_for(lambda: batches(tmp_path / "ranks") > 5, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert json.loads(out)["images"] == alone["images"] == 36
    files = (np.load(path) for path in (tmp_path / "alone.npz", tmp_path / "ranks" / "together.npz"))
    np.testing.assert_allclose(*(file["image_features"] for file in files), atol=1e-6)
    assert process.returncode != 0
    stopped = STOPPED.format(cache=environment["VLADAPT_CACHE"])
    assert [line for line in err.splitlines() if line.startswith("vladapt: ")] == [stopped], err
    assert err.count("Traceback") <= 1  # torchrun's own


def batches(folder: Path) -> int:
    file = folder / "batches"
    return len(file.read_text()) if file.exists() else 0


def wait_for(condition, process) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_ranks_make_one_of_everything_with_the_numbers_of_one_process(vladapt, arguments, environment, tmp_path):
    alone = vladapt(*arguments, "--adapter", "ape", "--json").json
    (tmp_path / "ranks").mkdir()
    (tmp_path / "commands.py").write_text(COMMANDS.format(last=""))
    base = arguments[1:7]
    commands = [
        [*arguments, "--adapter", "ape", "--json"],
        ["embed", *base, "--out", "f.npz", "--json"],
        ["compare", *base, "--adapters", "ape", *("--shots", "4", "--seeds", "1", "--splits", "1"), *NAMED],
    ]
    ranks = run_ranks([tmp_path / "commands.py", json.dumps(commands)], env=environment, cwd=tmp_path / "ranks")
    assert all(done.returncode == 0 for done in ranks), ranks
    made, embedded, compared = map(json.loads, "".join(done.stdout for done in ranks).splitlines())
    assert [path.name for path in (tmp_path / "ranks" / "runs").iterdir()] == [Path(made["run"]).name]
    assert made["zero_shot"] == pytest.approx(alone["zero_shot"], abs=1e-6)
    assert made["adapted"] == pytest.approx(alone["adapted"], abs=1e-6)
    assert sum(done.stderr.count("Fitting ape on 12 images") for done in ranks) == 1
    assert embedded["images"] == 36
    accuracy = {row["adapter"]: row["accuracy"] for row in compared["rows"]}
    assert [accuracy["zero-shot"], accuracy["ape"]] == pytest.approx(
        [alone["zero_shot"]["accuracy"], alone["adapted"]["accuracy"]]
    )


def test_an_error_on_one_rank_ends_all_with_one_line(arguments, environment, tmp_path):
    program = tmp_path / "failing.py"
    program.write_text(
        "import os, sys\n"
        "from vladapt.cli import main\n"
        "from vladapt.core.errors import DataError\n"
        "from vladapt.core.features.store import FeatureStore\n"
        "def fail(self, *args):\n"
        "    raise DataError('scan.png: rank 1 cannot use it; remove it')\n"
        "if os.environ['RANK'] == '1':\n"
        "    FeatureStore._fill = fail\n"
        "main(sys.argv[1:])\n"
    )
    lines = lines_of_both([program, *arguments], environment, tmp_path)
    assert lines == ["vladapt: scan.png: rank 1 cannot use it; remove it"]
    assert not (tmp_path / "runs").exists()


def test_wrong_options_are_said_once_by_all_ranks(arguments, environment, tmp_path):
    (line,) = lines_of_both(["-m", "vladapt", *arguments, "--adapter", "tip-adaptor"], environment, tmp_path)
    assert "did you mean tip-adapter" in line


def lines_of_both(command, environment, folder: Path) -> list[str]:
    """The errors of two ranks that both fail and print nothing else."""
    ranks = run_ranks(command, env=environment, cwd=folder)
    assert all(done.returncode != 0 and done.stdout == "" for done in ranks), ranks
    return [line for done in ranks for line in done.stderr.splitlines() if line.startswith("vladapt: ")]
