"""How far a job is, from its files alone."""

import json
import os
from pathlib import Path

import pytest

from vladapt.core.commands.jobs import jobs
from vladapt.core.errors import DataError
from vladapt.core.shards import ShardPlace, build_executor, drive, jobs_below

from .stages import STAGE


@pytest.fixture
def half_done(job_of, images):
    """Three of five shards, made 100 seconds apart, one more set aside."""
    job = job_of(STAGE, images)
    drive(job, build_executor("serial"))
    root = Path(job.work.place.root)
    for number in (3, 4):
        (root / "_state" / "done" / f"part-{number:08d}").unlink()
    for number in range(3):
        os.utime(root / "_state" / "done" / f"part-{number:08d}", (1000 + 100 * number,) * 2)
    job.work.place.create("_state/aside/part-00000003", json.dumps({"reason": "cut short"}).encode())
    return root


def test_rate_and_time_left_are_of_the_newest_shards(half_done):
    (job,) = jobs_below(ShardPlace(str(half_done.parent)), now=1300)
    assert (job.stage, job.done, job.shards, job.rows, job.aside) == (
        "brightness",
        3,
        5,
        23,
        {"part-00000003": "cut short"},
    )
    assert (job.per_hour, job.seconds_left) == (36.0, 200.0)
    assert job.line.endswith("3 of 5 shards, 23 rows in all, 36.0 shards per hour, 3 min left, 1 set aside")
    (stopped,) = jobs_below(ShardPlace(str(half_done.parent)), now=9000)
    assert stopped.per_hour is None and "per hour" not in stopped.line


def test_the_folder_itself_may_be_named(half_done):
    (job,) = jobs_below(ShardPlace(str(half_done)), now=1300)
    assert job.done == 3


def test_the_command_prints_jobs_and_their_shards_set_aside(half_done, capsys):
    jobs(str(half_done.parent))
    first, second = capsys.readouterr().out.splitlines()
    assert "3 of 5 shards" in first and second.strip() == "part-00000003: cut short"
    jobs(str(half_done.parent), as_json=True)
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (job["done"], job["shards"], job["aside"]) == (3, 5, {"part-00000003": "cut short"})


def test_a_folder_without_jobs_is_one_line(tmp_path, half_done):
    with pytest.raises(DataError, match="no job there; give the folder that --out named"):
        jobs_below(ShardPlace(str(tmp_path / "nothing")))
    (half_done / "_state" / "plan.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        jobs_below(ShardPlace(str(half_done.parent)))
