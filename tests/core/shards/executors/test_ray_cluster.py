"""A real Ray, started once for all of these: two cores and two GPUs that it is made to believe in."""

import json
import os
import signal

import pytest

pytest.importorskip("ray")

from vladapt.core.errors import CapabilityError
from vladapt.core.shards import build_executor, drive, function_stage, ray_connection

from ..test_driver import files, serial

STAGE = """
import os, signal
from pathlib import Path

def sizes(rows):
    if not os.path.exists({flag!r}):
        Path({flag!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"size": [len(row.read()) for row in rows]}}
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The module ray, connected, and the folder of modules that workers can import."""
    folder = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"GPU": 2}))
        patch.delenv("RAY_ADDRESS", raising=False)
        for name in (*ray_connection.SETTINGS, "RAY_AUTH_MODE"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        patch.syspath_prepend(folder)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray, own = ray_connection.connect("", processes=2)
        except CapabilityError as error:
            if os.getloadavg()[0] < 4 * (os.cpu_count() or 1):
                raise
            pytest.skip(f"Ray has fixed times for its start, too short on a machine this busy ({error})")
        assert own and signal.getsignal(signal.SIGTERM) is handler  # by which a command ends
        yield ray, folder
        ray.shutdown()
        for name in (*ray_connection.SETTINGS, "RAY_AUTH_MODE"):
            os.environ.pop(name, None)


def test_only_this_machine_reaches_it_and_only_with_the_token(started):
    from ray._raylet import AuthenticationMode, get_authentication_mode

    assert ray_connection.head_of(started[0])[0] == "127.0.0.1"
    assert get_authentication_mode() is AuthenticationMode.TOKEN
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_workers_give_way_to_other_programs_no_more_than_the_command_does(started):
    nice = started[0].remote(lambda: os.nice(0)).remote()
    assert started[0].get(nice) == os.nice(0)


@pytest.mark.thorough
def test_a_killed_actor_on_half_a_gpu_changes_no_byte_and_says_nothing(job_of, images, started, capfd):
    ray, folder = started
    flag = folder / "killed"
    (folder / "ray_stage.py").write_text(STAGE.format(flag=str(flag)))
    stage = function_stage(__import__("ray_stage").sizes, {"size": "int32"})
    job, taken = job_of(stage, images), []

    def progress(done, total):
        if done:
            taken.append(2 - ray.available_resources().get("GPU", 0))

    summary = drive(job, build_executor("ray", worker_gpus=0.5, processes=2), progress)
    assert flag.exists()
    assert (summary.shards, summary.rows, summary.unreadable) == (5, 23, 0)
    assert max(taken) in (0.5, 1.0)
    assert ray.is_initialized()  # it was connected before
    in_one_process = job_of(stage, images, "again")
    serial(in_one_process)
    assert files(job) == files(in_one_process)
    assert capfd.readouterr() == ("", "")
