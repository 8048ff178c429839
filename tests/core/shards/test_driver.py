"""Every row once, in the same files with the same bytes, whatever dies on the way."""

import json
import os
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vladapt.core.errors import ConfigError, DataError, VladaptError
from vladapt.core.shards import Stage, build_executor, drive, function_stage
from vladapt.core.shards.driver import HUNTS
from vladapt.core.shards.place import PlaceError
from vladapt.core.shards.run import KILLED

from .stages import STAGE


def files(job):
    root = Path(job.work.place.root)
    return {file.name: file.read_bytes() for file in sorted(root.glob("*.parquet"))}


def ids(job):
    return [name for content in sorted(Path(job.work.place.root).glob("*.parquet")) for name in column(content, "id")]


def column(file, name):
    return pq.read_table(file).column(name).to_pylist()


def serial(job):
    return drive(job, build_executor("serial"))


@pytest.fixture
def reference(job_of, images):
    """The files of a run that nothing disturbed."""
    job = job_of(STAGE, images, "reference")
    serial(job)
    return files(job)


def test_each_image_is_in_one_file_of_a_fixed_name(job_of, images):
    job = job_of(STAGE, images)
    summary = serial(job)
    assert (summary.shards, summary.rows, summary.before) == (5, 23, 0)
    assert list(files(job)) == [f"part-{number:08d}.parquet" for number in range(5)]
    assert ids(job) == sorted(str(path) for path in images.rglob("*.png"))
    made = sorted(Path(job.work.place.root).glob("*.parquet"))
    assert [value for file in made for value in column(file, "brightness")] == list(range(23))


def test_a_done_shard_is_not_made_again(job_of, images, dying):
    job = job_of(STAGE, images)
    serial(job)
    executor = dying(lambda task, rows: False)
    again = drive(job_of(STAGE, images), executor)
    assert (again.before, again.rows, executor.ran) == (5, 23, [])


def test_a_killed_worker_between_file_and_marker_costs_nothing(job_of, images, dying, reference):
    job = job_of(STAGE, images)
    serial(job)
    job.work.place.remove("_state/done/part-00000003")
    summary = drive(job_of(STAGE, images), build_executor("serial"))
    assert (summary.before, summary.rows) == (5, 23)
    assert files(job) == reference
    assert job.work.place.exists("_state/done/part-00000003")


def test_lost_tasks_go_back_to_the_queue(job_of, images, dying, reference):
    died = []

    def once(task, rows):
        return task.number in (1, 3) and not died.count(task.number) and not died.append(task.number)

    job = job_of(STAGE, images)
    executor = dying(once)
    summary = drive(job, executor)
    assert (summary.shards, summary.unreadable, died) == (5, 0, [1, 3])
    assert not any(task.probe for task in executor.ran)
    assert files(job) == reference


@pytest.mark.parametrize("poison", [{7}, {5, 9}, {0, 1, 22}])
def test_an_image_that_kills_its_worker_is_listed_and_no_other_is_lost(job_of, images, dying, poison):
    def dies(task, rows):
        return bool(poison & {5 * task.number + row for row in rows})

    job = job_of(STAGE, images)
    summary = drive(job, dying(dies))
    assert (summary.shards, summary.rows, summary.unreadable) == (5, 23 - len(poison), len(poison))
    listed = sorted(str(path) for path in images.rglob("*.png"))
    assert dict(summary.examples) == {listed[row]: KILLED for row in poison}
    assert ids(job) == [name for row, name in enumerate(listed) if row not in poison]
    again = dying(dies)  # another command knows it, even of a shard that is to be made again
    job.work.place.remove("_state/done/part-00000001")
    job.work.place.remove("part-00000001.parquet")
    assert drive(job_of(STAGE, images), again).rows == 23 - len(poison)
    assert [task.probe for task in again.ran] == [None]


def test_a_shard_whose_workers_die_whatever_is_left_out_is_set_aside(job_of, images, dying):
    job = job_of(STAGE, images)
    executor = dying(lambda task, rows: task.number == 2 and task.probe is None)
    summary = drive(job, executor)
    assert list(summary.aside) == [2] and "workers die" in summary.aside[2]
    assert (summary.shards, summary.rows) == (4, 18)
    assert sum(task.number == 2 and task.probe is None for task in executor.ran) == 2 * (HUNTS + 1)
    assert json.loads(job.work.place.read("_state/aside/part-00000002"))["reason"] == summary.aside[2]
    assert serial(job).rows == 23  # the next command tries it again
    assert not job.work.place.exists("_state/aside/part-00000002")


def test_other_settings_are_another_folder(job_of, images):
    first = job_of(STAGE, images)
    for how in ({"shard_size": 6}, {"batch_size": 3}):
        assert job_of(STAGE, images, **how).work.place != first.work.place
    changed = function_stage(STAGE.function, {"brightness": "double"})
    assert job_of(changed, images).work.place != first.work.place
    assert job_of(STAGE, images).work.place == first.work.place


def test_inputs_that_changed_under_way_are_refused(job_of, tmp_path, encoded):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(number))
    serial(job_of(STAGE, folder))
    (folder / "9.png").write_bytes(encoded(9))
    with pytest.raises(DataError, match="made of other inputs than there are now"):
        job_of(STAGE, folder)


def test_two_drivers_at_once_end_both_and_each_row_is_there_once(job_of, images, reference):
    job = job_of(STAGE, images)

    class Beside(type(build_executor("serial"))):
        """Another driver makes each shard while this one is at it."""

        def completed(self, timeout):
            other = build_executor("serial")
            other.start(job.work)
            other.submit(self._waiting[-1])
            work, place = self._work, self._work.place
            read, quick = place.read, []

            def late(name):  # this one looked before the other had finished
                content = read(name)
                if name.startswith("_state/done") and not quick:
                    quick.append(other.completed(0))
                    return None
                return content

            object.__setattr__(place, "read", late)
            try:
                return super().completed(timeout)
            finally:
                object.__delattr__(place, "read")
                assert work.place is place

    summary = drive(job, Beside())
    assert (summary.shards, summary.rows) == (5, 23)
    assert files(job) == reference


def test_parts_of_a_plan_make_the_whole(job_of, images, reference):
    for number in range(3):
        job = job_of(STAGE, images, part=(number, 3))
        serial(job)
    assert files(job) == reference
    with pytest.raises(ConfigError, match="--shard 3/3"):
        job_of(STAGE, images, part=(3, 3))


def test_what_a_killed_driver_left_half_written_goes_and_what_another_writes_stays(job_of, images, reference):
    job = job_of(STAGE, images)
    with job.work.place.temporary() as written:
        left = written.with_name(".partial-1-killed")
        left.write_bytes(b"half")
        for path in (written, left):
            os.utime(path, (time.time() - 5,) * 2)
        serial(job)
        assert written.exists() and not left.exists()
    assert not written.exists() and files(job) == reference


def test_a_full_disk_ends_the_job_at_once_and_keeps_what_is_done(job_of, images, monkeypatch, reference):
    job = job_of(STAGE, images)
    publish, calls = type(job.work.place).publish, []

    def full(place, partial, name):
        calls.append(name)
        if len(calls) > 4:  # two shards, each with its marker
            raise PlaceError("no space left on device")
        return publish(place, partial, name)

    monkeypatch.setattr(type(job.work.place), "publish", full)
    with pytest.raises(PlaceError, match="no space left"):
        serial(job)
    monkeypatch.undo()
    assert len(files(job)) == 2 and not list(Path(job.work.place.root).rglob(".partial-*"))
    serial(job)
    assert files(job) == reference


def test_a_stop_drops_the_batch_and_keeps_the_shards(job_of, images, reference, dying):
    class Stopped(dying):
        def completed(self, timeout):
            if len(self.ran) == 3:
                raise KeyboardInterrupt
            return super().completed(timeout)

    job = job_of(STAGE, images)
    with pytest.raises(KeyboardInterrupt):
        drive(job, Stopped(lambda task, rows: False))
    assert len(files(job)) == 3
    assert drive(job, build_executor("serial")).before == 3
    assert files(job) == reference


def test_what_cannot_be_decoded_is_listed_by_batch_size_and_all(job_of, images, tmp_path, encoded):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.png").write_bytes(encoded(number) if number != 4 else b"no image")
    job = job_of(STAGE, folder)
    summary = serial(job)
    assert (summary.rows, summary.unreadable) == (6, 1) and summary.examples[0][0].endswith("4.png")
    assert "0x" not in summary.examples[0][1]


def test_a_shard_that_fails_is_set_aside_and_one_after_the_other_ends_the_job(job_of, images):
    class Broken(Stage):
        name, settings, schema = "broken", {}, STAGE.schema

        def __init__(self, count):
            self.left = count

        def run(self, state, rows, batch_size):
            self.left -= 1
            if self.left >= 0:
                raise RuntimeError("the device is gone")
            yield from STAGE.run(state, rows, batch_size)

    with pytest.raises(VladaptError, match="the device is gone"):
        serial(job_of(Broken(9), images))
    summary = serial(job_of(Broken(2), images, "out-2"))
    assert (summary.shards, list(summary.aside)) == (3, [0, 1])
    assert "RuntimeError: the device is gone" in summary.aside[0]


def test_a_function_that_workers_cannot_import_is_one_line(job_of, images):
    job = job_of(function_stage(lambda rows: {"n": [1] * len(rows)}, {"n": "int8"}, name="local"), images)
    with pytest.raises(ConfigError, match=r"stage .local. cannot be sent to a worker.*top of a module"):
        drive(job, build_executor("pool", processes=1))


KILLED_ONCE = """
import os, signal
from pathlib import Path

def sizes(rows):
    if not os.path.exists({flag!r}):
        Path({flag!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"size": [len(row.read()) for row in rows]}}
"""


def test_a_killed_process_of_a_pool_loses_nothing(job_of, images, tmp_path, monkeypatch):
    """The one test of real processes: spawned workers import a stage that is another's function; one is killed."""
    (tmp_path / "their_stage.py").write_text(KILLED_ONCE.format(flag=str(tmp_path / "flag")))
    monkeypatch.syspath_prepend(tmp_path)
    stage = function_stage(__import__("their_stage").sizes, {"size": "int32"})
    job = job_of(stage, images, shard_size=12)
    summary = drive(job, build_executor("pool", processes=2))
    assert (tmp_path / "flag").exists()
    assert (summary.shards, summary.rows, summary.unreadable, summary.aside) == (2, 23, 0, {})
    in_one_process = job_of(stage, images, "again", shard_size=12)
    serial(in_one_process)
    assert files(in_one_process) == files(job)


def test_a_file_that_was_removed_is_made_again_whatever_its_marker_says(job_of, images, reference):
    job = job_of(STAGE, images)
    serial(job)
    job.work.place.remove("part-00000002.parquet")
    summary = serial(job_of(STAGE, images))
    assert (summary.before, summary.rows) == (4, 23) and files(job) == reference


def unplugged(rows):
    raise NameError("name 'numpy' is not defined")


def of_one_row(rows):
    return {"brightness": [0.0]}


def test_where_nothing_of_a_shard_can_be_read_it_is_set_aside_and_tried_again(job_of, images, reference):
    """A disk that was unplugged, a stage with a fault: no image is listed for ever as unreadable."""
    job = job_of(function_stage(unplugged, {"brightness": "float"}, name="brightness"), images, shard_size=23)
    with pytest.raises(DataError, match=r"none of its 23 rows can be read \(.*name 'numpy' is not defined"):
        serial(job)
    assert not files(job) and not job.work.place.listed("_state/done")
    summary = serial(job_of(STAGE, images, shard_size=23))
    assert (summary.rows, summary.unreadable, summary.aside) == (23, 0, {})
    assert not job.work.place.listed("_state/aside")


def test_a_stage_that_gives_too_few_numbers_ends_the_job(job_of, images):
    with pytest.raises(ConfigError, match="stage 'of_one_row': one entry per row of column 'brightness' is needed"):
        serial(job_of(function_stage(of_one_row, {"brightness": "float"}), images))


def test_rows_without_end_that_kill_are_no_fault_of_theirs(job_of, images, dying):
    job = job_of(STAGE, images, shard_size=23)
    with pytest.raises(DataError, match="its workers die, whichever images are left out"):
        drive(job, executor := dying(lambda task, rows: True))
    assert len(executor.ran) < 100 and not job.work.place.listed("_state/poison") and not files(job)


def test_a_damaged_list_of_rows_that_kill_is_one_line(job_of, images):
    job = job_of(STAGE, images)
    job.work.place.create("_state/poison/part-00000001.1", b"[1, ")
    with pytest.raises(DataError, match=r"_state/poison/part-00000001\.1: damaged; remove it"):
        serial(job)
