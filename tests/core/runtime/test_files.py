"""Files are written whole, to files alone, and what killed processes left is told from what others are at."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import PIPE, Process, start
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.errors import CacheError, ConfigError, DataError
from vladapt.core.runtime import files, reading
from vladapt.core.runtime.files import (
    MARKER,
    claimed,
    file_stem,
    filled_once,
    is_abandoned,
    kept_checkpoints,
    remove_abandoned,
    replacing,
    write_cached,
    write_whole,
)
from vladapt.core.runtime.progress import Reporter

CLAIM = """
import sys, time
from pathlib import Path
from vladapt.core.runtime.files import claimed
handle = claimed(Path(sys.argv[1]))
print("claimed", flush=True)
time.sleep(600)
"""


@pytest.fixture
def at_work(tmp_path):
    """at_work(marker) -> a process that claims it until it is killed."""
    processes = []

    def claim(marker: Path) -> Process:
        process = start(["-c", CLAIM, marker], stdin=PIPE)
        processes.append(process)
        assert process.stdout.readline() == "claimed\n"
        return process

    yield claim
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats()
NESTS = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(NESTS)
def test_json_holds_null_where_a_number_is_none(value):
    def alike(now, then):
        if isinstance(then, (list, dict)):
            assert len(now) == len(then)
            for key in range(len(then)) if isinstance(then, list) else then:
                alike(now[key], then[key])
        else:
            assert now == (None if isinstance(then, float) and not math.isfinite(then) else then)

    alike(json.loads(reading.json_text(value), parse_constant=pytest.fail), value)


def test_json_of_arrays_and_paths():
    value = {"a": np.float32("nan"), "b": torch.tensor([1.0, float("inf")]), "c": Path("x"), "d": (np.int64(3),)}
    assert json.loads(reading.json_text(value)) == {"a": None, "b": [1.0, None], "c": "x", "d": [3]}


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.txt", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("through_a_link", [False, True])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_file_is_never_replaced(tmp_path, kind, through_a_link):
    place = {"device": Path("/dev/null"), "pipe": tmp_path / "pipe", "folder": tmp_path / "folder"}[kind]
    if kind == "pipe":
        os.mkfifo(place)
    if kind == "folder":
        place.mkdir()
    before = os.stat(place)
    path = place
    if through_a_link:
        path = tmp_path / "link"
        path.symlink_to(place)
    with pytest.raises(DataError, match="not a file; give the name of a file"):
        write_whole(path, "content")
    assert os.stat(place).st_ino == before.st_ino and os.stat(place).st_mode == before.st_mode


def test_links_in_a_circle_are_one_line(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="cannot be written"):
        write_whole(tmp_path / "a", "content")


def test_what_fails_in_the_block_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"the cache .*file/features.* VLADAPT_CACHE"):
        write_cached(tmp_path / "file" / "features" / "a", b"")


def test_a_marker_is_abandoned_when_its_process_was_killed(tmp_path, at_work):
    process = at_work(tmp_path / MARKER)
    assert not is_abandoned(tmp_path / MARKER)
    with pytest.raises(BlockingIOError):
        claimed(tmp_path / MARKER)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_abandoned(tmp_path / MARKER)


def test_a_claim_is_of_one_process_and_not_of_those_it_forks(tmp_path):
    handle = claimed(tmp_path / MARKER)
    there, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told, b"x")
        time.sleep(30)
        os._exit(0)
    assert os.read(there, 1) == b"x"
    handle.close()  # as the end of this process would
    try:
        assert is_abandoned(tmp_path / MARKER)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_of_a_folder_without_a_marker_its_age_tells(tmp_path):
    assert not is_abandoned(tmp_path / MARKER)
    long_ago = time.time() - files.ABANDONED_AFTER_S - 60
    os.utime(tmp_path, (long_ago, long_ago))
    assert is_abandoned(tmp_path / MARKER)


def test_a_file_system_without_locks_has_the_age_of_a_marker_tell(tmp_path, monkeypatch):
    def no_locks(handle, how):
        raise OSError("no locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    claimed(tmp_path / MARKER).close()
    assert not is_abandoned(tmp_path / MARKER)
    long_ago = time.time() - files.ABANDONED_AFTER_S - 60
    os.utime(tmp_path / MARKER, (long_ago, long_ago))
    assert is_abandoned(tmp_path / MARKER)


def test_partials_of_killed_processes_go_at_once_and_those_of_others_stay(tmp_path, at_work):
    names = [f".partial-{name}" for name in ("killed", "written", "begun")]
    processes = [at_work(tmp_path / name) for name in names[:2]]
    (tmp_path / "part-0.parquet").touch()
    for name in (*names[:2], "part-0.parquet"):
        os.utime(tmp_path / name, (time.time() - 5,) * 2)
    processes[0].kill()
    processes[0].wait()
    (tmp_path / names[2]).touch()  # not yet claimed
    files.remove_abandoned_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "part-0.parquet"])


def test_only_what_was_abandoned_is_removed(tmp_path, at_work):
    folders = [tmp_path / name for name in ("killed", "alive", "unmarked")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / MARKER).touch()
    at_work(folders[1] / MARKER)
    remove_abandoned(folders, MARKER)
    assert [folder.exists() for folder in folders] == [False, True, True]


def newest(folder: Path) -> str:
    return "step 1" if any(folder.rglob("*.pt")) else ""


def training(runs: Path, key: str, of=newest):
    return kept_checkpoints(runs, key, False, Reporter(quiet=True), of)


def test_the_next_training_that_ends_well_removes_what_killed_ones_left(tmp_path, at_work):
    place = tmp_path / ".resume"
    for key in ("killed", "alive", "resumable", "old"):
        (place / key).mkdir(parents=True)
        (place / key / "log.txt").touch()
    for key in ("killed", "resumable", "old"):
        (place / key / MARKER).touch()
    at_work(place / "alive" / MARKER)
    for key in ("resumable", "old"):
        (place / key / "step-1.pt").write_bytes(b"weights")
    long_ago = time.time() - (files.KEPT_DAYS + 1) * 86400
    os.utime(place / "old" / "step-1.pt", (long_ago, long_ago))
    with training(tmp_path, "new") as folder:
        assert folder == place / "new"
    assert sorted(path.name for path in place.iterdir()) == ["alive", "resumable"]


def test_a_training_that_was_stopped_before_its_first_checkpoint_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), training(tmp_path, "new"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_one_training_is_done_by_one_process(tmp_path, at_work):
    (tmp_path / ".resume" / "new").mkdir(parents=True)
    at_work(tmp_path / ".resume" / "new" / MARKER)
    with pytest.raises(ConfigError, match="another process is running this fit"), training(tmp_path, "new"):
        pass
    assert (tmp_path / ".resume" / "new" / MARKER).exists()


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1))
def test_a_stem_of_any_name_leaves_room_for_an_ending(name):
    stem = file_stem(name)
    assert len(os.fsencode(stem + ".predictions.html")) <= 255 and name.endswith(stem)
    assert stem == name or len(os.fsencode(name)) > len(os.fsencode(stem)) > 190


def test_a_stem_of_bytes_that_are_no_text_is_kept_where_it_is_short():
    name = os.fsdecode(b"caf\xe9")
    assert file_stem(name) == name and file_stem(200 * name).endswith("caf")


def test_a_folder_of_the_cache_is_filled_once_and_whole(tmp_path):
    folder, calls = tmp_path / "samples" / "set", []

    def fill(empty, stops=False):
        calls.append(empty)
        (empty / "a").write_text("1")
        if stops:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled_once(folder, lambda empty: fill(empty, stops=True))
    assert not list(folder.parent.iterdir())
    assert filled_once(folder, fill) == filled_once(folder, fill) == folder and len(calls) == 2
    assert [file.name for file in folder.parent.iterdir()] == ["set"] and (folder / "a").read_text() == "1"


def test_of_two_that_fill_a_folder_of_the_cache_the_first_one_stays(tmp_path):
    folder = tmp_path / "set"

    def second(empty):
        filled_once(folder, lambda other: (other / "a").write_text("first"))
        (empty / "a").write_text("second")

    assert (filled_once(folder, second) / "a").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="set VLADAPT_CACHE to another folder"):
        filled_once(tmp_path / "file" / "set", lambda empty: None)
