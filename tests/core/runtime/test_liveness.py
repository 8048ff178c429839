"""A process that dies ends the others within a minute, with one line, and the training goes on with --resume."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from browser import until
from forked import Group

LINE = (
    "vladapt: rank {} has died (killed, out of memory, or its machine is gone), so all processes end; the same command "
    "with --resume continues from the last checkpoint"
)


@pytest.fixture
def pretraining(small_clip_spec, tmp_path):
    """Words of a command that trains on drawn pairs for longer than a test waits, and its folder."""
    words = ["-m", "vladapt", "pretrain", "--data", "sample", "--backbone", small_clip_spec, "--batch-size", "8"]
    words += ["--epochs", "400", "--set", "save_every=2", "--set", "data.val=0", "--out", str(tmp_path / "out")]
    return words, tmp_path / "out"


@pytest.mark.thorough(but=("1-ddp",))
@pytest.mark.parametrize(("dead", "parallel"), [(1, "ddp"), (0, "ddp"), (1, "fsdp")])
def test_a_killed_process_ends_the_other_with_one_line(pretraining, dead, parallel):
    words, out = pretraining
    alive = 1 - dead
    with Group([*words, "--set", f"parallel={parallel}"], 2) as group:
        while not list(out.rglob("checkpoints/step-*")):
            assert all(process.poll() is None for process in group.processes), group.finished()
            time.sleep(0.05)
        os.kill(group.processes[dead].pid, signal.SIGKILL)
        started = time.monotonic()
        group.processes[alive].wait(60)
        assert time.monotonic() - started < 60
        done = group.finished()
    assert done[alive].returncode == 1
    lines = [line for line in done[alive].stderr.splitlines() if "step" not in line.lower() or "died" in line]
    assert lines[-1] == LINE.format(dead)
    assert "Traceback" not in done[alive].stderr and done[alive].stderr.count("died") == 1
    steps = len(list(out.rglob("checkpoints/step-*")))
    assert steps


STUCK = """
import sys, threading, time
from vladapt.core.runtime import liveness
from vladapt.core.runtime.distributed import rank, run_on_all, start_from_environment, stop
liveness.GRACE_S = 0.5
start_from_environment()
"""


def test_one_that_waits_where_no_error_comes_is_ended_too():
    """As in a kernel of nccl, which waits for its timeout."""
    code = STUCK + "import os; os.kill(os.getpid(), 9) if rank() == 2 else time.sleep(60)"
    with Group(["-c", code], 3) as group:
        started = time.monotonic()
        done = group.finished()
    assert time.monotonic() - started < 30
    assert [each.returncode for each in done] == [1, 1, -signal.SIGKILL]
    assert [each.stderr for each in done] == [LINE.format(2) + "\n", "", ""]


def test_a_process_that_leaves_is_not_taken_for_dead():
    code = STUCK + "stop() if rank() else (time.sleep(1.5), stop())\nprint('done')"
    with Group(["-c", code], 2) as group:
        done = group.finished()
    assert [(each.returncode, each.stdout, each.stderr) for each in done] == [(0, "done\n", "")] * 2


def test_a_stopped_process_is_not_taken_for_dead(tmp_path):
    code = STUCK + "open(f'began{rank()}', 'w').close()\ntime.sleep(1)\nrun_on_all(lambda: 1)\nprint('done')\nstop()"
    with Group(["-c", code], 2, cwd=tmp_path) as group:
        until((tmp_path / "began1").exists)
        group.processes[1].send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        group.processes[1].send_signal(signal.SIGCONT)
        done = group.finished()
    assert [(each.returncode, each.stdout) for each in done] == [(0, "done\n")] * 2


FAILS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import time
import sharded_process
from vladapt.core.errors import fail
from vladapt.core.runtime import liveness
from vladapt.core.runtime.distributed import rank, run_on_all, start_from_environment, stop
from vladapt.core.training import model
liveness.GRACE_S = 3.0
start_from_environment()
steps, clamp = [], model.clamp_logit_scale
def failing(*arguments):
    steps.append(1)
    if len(steps) == 3 and rank() in json.loads(sys.argv[3]):
        raise RuntimeError("out of memory")
    return clamp(*arguments)
model.clamp_logit_scale = failing
try:
    run_on_all(lambda: sharded_process.trained(sys.argv[2], {"losses": {"clip": 1.0}}, "ddp"))
except Exception as error:
    if not liveness.told_of_a_death(error):
        fail(str(error), 1, error, [])
    stop()
    sys.exit(1)
"""


@pytest.mark.parametrize("failing", [[1], [0], [0, 1]], ids=str)
def test_an_error_of_one_process_in_a_step_ends_all_with_its_line(small_clip_spec, failing):
    paths = [str(Path(__file__).parents[1] / "training"), str(Path(__file__).parents[2])]
    with Group(["-c", FAILS, json.dumps(paths), small_clip_spec, json.dumps(failing)], 2) as group:
        started = time.monotonic()
        done = group.finished()
    assert time.monotonic() - started < 60
    assert [each.returncode for each in done] == [1, 1]
    line = "out of memory" if 0 in failing else "rank 1 failed: RuntimeError: out of memory"
    assert [each.stderr for each in done] == [f"vladapt: {line}\n", ""]
