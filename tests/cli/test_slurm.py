"""`--slurm N`: the lines that submit a command on shards, which a shell takes apart as they were meant."""

import json
import os
import stat
import subprocess

import pytest

SBATCH = """#!/bin/sh
for word; do printf '%s\\n' "$word"; done >> calls
echo -- >> calls
echo 417
"""


def words_of(script: str) -> list[str]:
    """What `srun` of a job is given."""
    shell = ["sh", "-c", 'srun() { printf "%s\\n" "$@"; }; ' + script]
    run = subprocess.run(shell, env={"SLURM_ARRAY_TASK_ID": "7"}, capture_output=True, text=True, check=True)
    return run.stdout.split("\n")[:-1]


def test_the_lines_submit_an_array_and_the_same_command_behind_it(vladapt, tmp_path):
    command = ["embed", "my photos", "--backbone", "embedded", "--as", "parquet", "--out", "o'ut"]
    outcome = vladapt(*command, "--slurm", "64")
    assert outcome.code == 0 and not (tmp_path / "o'ut").exists()
    assert vladapt("embed", "--slurm=64", *command[1:]).out == outcome.out
    assert json.loads(vladapt(*command, "--slurm", "64", "--json").out)["slurm"][1:] != []
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH)
    sbatch.chmod(stat.S_IRWXU)
    path = {"PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", outcome.out], check=True, cwd=tmp_path, env=path)  # a shell, as a user's
    array, behind = (
        call.strip().split("\n") for call in (tmp_path / "calls").read_text().strip().removesuffix("--").split("--\n")
    )
    assert array[:2] == ["--parsable", "--array=0-63"] and behind[0] == "--dependency=afterany:417"
    assert words_of(array[-1]) == ["vladapt", *command, "--shard", "7/64"]
    assert words_of(behind[-1]) == ["vladapt", *command]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--as", "parquet", "--out", "out", "--shard", "0/4"], "--shard: --slurm gives each job its own; omit it"),
        (["--out", "x.npz"], "--slurm: is for shards; give --as parquet too, and a folder as --out"),
    ],
)
def test_what_is_no_array_is_one_line(vladapt, arguments, line):
    outcome = vladapt("embed", "photos", "--slurm", "4", *arguments)
    assert outcome.code == 2 and line in outcome.error
