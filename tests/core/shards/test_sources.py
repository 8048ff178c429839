"""Rows of tars, Parquet files, folders and object stores, by ranges, lazily, each once."""

import io
import os
import tarfile
import threading
import tracemalloc
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import ConfigError, DataError, SourceError
from vladapt.core.shards import Manifest, ShardPlace, build_executor, drive, manifest, sources
from vladapt.core.shards.manifest import first_repeated, written_listing
from vladapt.core.shards.sources import TarSource
from vladapt.core.shards.task import Span, cut_tasks

from .stages import STAGE


def tar_of(members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def flat(lists):
    return [each for some in lists for each in some]


@pytest.fixture(scope="module")
def tar(encoded):
    """7 samples with an image and a text each."""
    return tar_of(
        [(f"{n}.{kind}", encoded(n) if kind == "png" else b"no %d" % n) for n in range(7) for kind in ("png", "txt")]
    )


@pytest.fixture
def manifest_of(tmp_path):
    def make(*paths):
        return Manifest.of([str(path) for path in paths], ShardPlace(str(tmp_path / "out")), tmp_path / "cache")

    return make


def rows_of(manifest, shard_size=3, columns=()):
    return [
        [row for span in task.spans for row in span.source.read(span.start, span.stop, columns)]
        for task in manifest.plan(shard_size)
    ]


@given(
    counts=st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=1, max_size=6),
    size=st.integers(1, 7),
    parts=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_has_every_row_once_in_tasks_of_one_size(counts, size, parts):
    sources = [TarSource(f"{n}.tar", str(n), "", count) for n, count in enumerate(counts)]
    manifest = Manifest(tuple(sources))
    tasks = list(manifest.plan(size))
    assert [task.number for task in tasks] == list(range(len(tasks))) and len(tasks) == manifest.count_tasks(size)
    for source in sources:
        spans = [span for task in tasks for span in task.spans if span.source is source]
        if source.count is None:
            assert [(span.start, span.stop) for span in spans] == [(0, None)]
        else:
            assert [row for span in spans for row in range(span.start, span.stop)] == list(range(source.count))
    counted = [task for task in tasks if None not in {span.stop for span in task.spans}]
    assert all(1 <= len(task) <= size for task in counted)
    assert None in counts or all(len(task) == size for task in counted[:-1])
    again = [task for part in range(parts) for task in manifest.plan(size, (part, parts))]
    assert sorted(again, key=lambda task: task.number) == tasks
    assert sum(manifest.count_tasks(size, (part, parts)) for part in range(parts)) == len(tasks)


def test_a_plan_is_lazy():
    endless = (Span(TarSource("a.tar", "a", "", 10**9), 0, 10**9) for _ in range(10**9))
    assert [task.number for task in islice(cut_tasks(endless, 1000), 3)] == [0, 1, 2]


def test_a_tar_is_read_by_ranges_of_its_samples(tmp_path, tar, encoded, manifest_of):
    (tmp_path / "a.tar").write_bytes(tar)
    (tmp_path / "b.tar").write_bytes(tar)
    manifest = manifest_of(tmp_path / "a.tar", tmp_path / "b.tar")
    shards = rows_of(manifest)
    assert [len(rows) for rows in shards] == [3, 3, 3, 3, 2]
    rows = flat(shards)
    assert [row.id for row in rows] == [f"{name}:{n}" for name in "ab" for n in range(7)]
    assert [(row.read(), row.text) for row in rows[:7]] == [(encoded(n), f"no {n}") for n in range(7)]


def test_tars_of_one_name_have_ids_of_their_own(tmp_path, tar, manifest_of):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.tar").write_bytes(tar)
    ids = [row.id for rows in rows_of(manifest_of(tmp_path / "x", tmp_path / "y")) for row in rows]
    assert len(ids) == len(set(ids)) == 14


def test_sources_are_looked_at_several_at_once_and_stay_in_order(tmp_path, tar, manifest_of, monkeypatch):
    paths = [tmp_path / f"{name}.tar" for name in "dbca"]
    for path in paths:
        path.write_bytes(tar)
    together, version = threading.Barrier(len(paths), timeout=30), manifest.version_of_source

    def waited(name):
        together.wait()  # broken where one is looked at after the other
        return version(name)

    monkeypatch.setattr(manifest, "version_of_source", waited)
    assert [source.label for source in manifest_of(*paths).sources] == ["d", "b", "c", "a"]


def test_of_a_tar_that_is_cut_short_the_rest_is_listed(tmp_path, tar, job_of):
    (tmp_path / "a.tar").write_bytes(tar[: 4096 + 530])
    job = job_of(STAGE, tmp_path / "a.tar")
    summary = drive(job, build_executor("serial"))
    assert summary.rows >= 1 and summary.unreadable >= 1
    assert "cut short" in summary.examples[-1][1]


@pytest.fixture
def table(tmp_path, encoded):
    """`table(**columns)`: a Parquet file of small row groups, beside three images."""

    def write(name="rows.parquet", **columns):
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=4)
        return tmp_path / name

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    return write


def test_parquet_holds_bytes_or_structs_of_them(table, encoded, manifest_of):
    images = [encoded(n) for n in range(11)]
    plain = table("a.parquet", id=[f"i{n}" for n in range(11)], image=images, caption=["c"] * 11)
    packed = table("b.parquet", image=[{"bytes": each, "path": None} for each in images])
    for file, name in ((plain, "i{}"), (packed, "b:{}")):
        shards = rows_of(manifest_of(file))
        assert [len(rows) for rows in shards] == [3, 3, 3, 2]
        rows = flat(shards)
        assert [row.id for row in rows] == [name.format(n) for n in range(11)]
        assert [row.read() for row in rows] == images
    assert rows[0].text is None and rows_of(manifest_of(plain))[0][0].text == "c"


def test_of_a_large_table_only_the_rows_that_are_due_are_read(tmp_path, manifest_of, monkeypatch):
    path = tmp_path / "many.parquet"
    rows = [{"id": str(n), "bytes": np.random.default_rng(n).bytes(8000)} for n in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=20)
    source, read = manifest_of(path).sources[0], []

    class Counted(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            read.append(len(content))
            return content

    monkeypatch.setattr(sources, "_random_access", lambda name: Counted(name, "rb"))
    some = source.read(0, 400)
    assert [row.id for row in islice(some, 30)] == [str(n) for n in range(30)]
    assert sum(read) < path.stat().st_size / 2  # some of twenty groups, and the footer a few times
    assert len(list(some)) == 370


def test_paths_in_parquet_stay_below_its_folder(table, tmp_path, encoded, manifest_of):
    (tmp_path.parent / "secret.png").write_bytes(encoded(1))
    names = ["0.png", "../secret.png", str(tmp_path.parent / "secret.png"), "2.png"]
    os.symlink(tmp_path.parent / "secret.png", tmp_path / "link.png")
    rows = flat(rows_of(manifest_of(table(path=[*names, "link.png"]))))
    assert [bool(row.lost) for row in rows] == [False, True, True, False, True]
    assert rows[3].read() == encoded(2) and "leaves the folder" in rows[1].lost


def test_a_folder_of_images_is_listed_sorted_without_hidden_files(images, manifest_of, monkeypatch, tmp_path):
    monkeypatch.setattr("vladapt.core.shards.manifest.SORTED_AT_ONCE", 5)  # several runs are merged
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / ".hidden.png").write_bytes(b"")
    (tmp_path / "more" / "readme.txt").write_bytes(b"")
    os.symlink(images, tmp_path / "more" / "outside")
    manifest = manifest_of(images, tmp_path / "more", images / "a")
    ids = [row.id for rows in rows_of(manifest) for row in rows]
    assert ids == sorted(map(str, images.rglob("*.png")))
    assert ["link" in reason for _, reason in manifest.skipped] == [True]


def test_sources_that_changed_since_they_were_listed_are_refused(tmp_path, tar, manifest_of):
    (tmp_path / "a.tar").write_bytes(tar)
    manifest = manifest_of(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(tar + b"\0" * 512)
    with pytest.raises(SourceError, match="changed since it was listed"):
        rows_of(manifest)
    assert manifest_of(tmp_path / "a.tar").digest != manifest.digest


def test_a_table_is_not_taken_for_an_image(manifest_of, tmp_path):
    (tmp_path / "captions.csv").write_text("filepath,title\na.png,a cat\n")
    with pytest.raises(DataError, match="a table is no image; give the folder of its images"):
        manifest_of(tmp_path / "captions.csv")


@pytest.mark.parametrize(
    ("columns", "line"),
    [({"width": [1, 2]}, "no column is an image or a text"), ({"path": pa.array([], pa.string())}, "no image in it")],
)
def test_a_table_without_images_is_one_line(table, manifest_of, columns, line):
    with pytest.raises(DataError, match=line):
        manifest_of(table(**columns))


def test_what_is_not_there_is_one_line(manifest_of, tmp_path, tar):
    with pytest.raises(DataError, match="no such file or folder"):
        manifest_of(tmp_path / "nothing")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="not a readable Parquet file"):
        manifest_of(tmp_path / "a.parquet")
    (tmp_path / "a.tar").write_bytes(tar)
    with pytest.raises(ConfigError, match="given twice"):
        manifest_of(tmp_path / "a.tar", tmp_path / "a.tar")


def test_ids_that_occur_twice_are_refused_before_anything_is_made(table, job_of, encoded):
    file = table(id=[1, 2, 3, 2], image=[encoded(n) for n in range(4)])
    with pytest.raises(DataError, match="the id '2' occurs twice"):
        job_of(STAGE, file, shard_size=2)


@given(st.lists(st.text(max_size=3), max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_repeated_id_is_met_out_of_core_as_in_memory(ids):
    twice = first_repeated(lambda: iter(ids), 3_000_000)  # three buckets
    assert (twice is None) == (len(set(ids)) == len(ids))
    assert twice is None or ids.count(twice) > 1


def test_memory_of_a_listing_does_not_grow_with_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("vladapt.core.shards.manifest.WRITTEN_AT_ONCE", 1000)
    columns = {"path": "string", "id": "string"}

    def peak(count):
        tracemalloc.start()
        rows = ({"path": f"/images/{n:09}.jpg", "id": f"{n:09}"} for n in range(count))
        (source,) = written_listing(ShardPlace(str(tmp_path / str(count))), rows, columns)
        manifest = Manifest((source,))
        assert sum(len(task) for task in manifest.plan(100)) == count
        assert sum(1 for _ in source.read(count - 500, count)) == 500
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1_000)  # imports
    assert peak(16_000) < 1.1 * peak(8_000)


@pytest.fixture
def bucket(s3_server):
    s3_server.mkdir("shards")
    yield s3_server
    s3_server.rm("shards", recursive=True)


def test_object_stores_are_read_and_written_as_disks_are(bucket, tar, encoded, job_of, tmp_path, dying):
    """Tars, tables of bytes and of paths, and loose images by s3://, into s3://."""
    pq.write_table(pa.table({"image": [encoded(n) for n in range(3)]}), tmp_path / "bytes.parquet")
    pq.write_table(pa.table({"path": ["loose/x.png", "../no.png"]}), tmp_path / "paths.parquet")
    bucket.pipe("shards/in/a.tar", tar)
    bucket.put(str(tmp_path / "bytes.parquet"), "shards/in/bytes.parquet")
    bucket.put(str(tmp_path / "paths.parquet"), "shards/in/paths.parquet")
    bucket.pipe("shards/in/loose/x.png", encoded(40))
    bucket.pipe("shards/in/loose/deep/y.png", encoded(41))
    names = ("a.tar", "bytes.parquet", "paths.parquet", "loose")
    job = job_of(STAGE, [f"s3://shards/in/{name}" for name in names], "s3://shards/out")
    summary = drive(job, build_executor("serial"))
    assert (summary.rows, summary.unreadable, summary.shards) == (7 + 3 + 1 + 2, 1, 3)
    rows = []
    for name in sorted(bucket.glob(f"{job.work.place.root[5:]}/*.parquet")):
        rows += pq.read_table(io.BytesIO(bucket.cat(name))).to_pylist()
    assert [row["brightness"] for row in rows] == [*range(7), *range(3), 40, 41, 40]
    assert len({row["id"] for row in rows}) == 13
    again = dying(lambda task, rows: False)
    assert drive(job_of(STAGE, [f"s3://shards/in/{name}" for name in names], "s3://shards/out"), again).before == 3
    assert again.ran == []
    assert job.work.place.create("_state/plan.json", b"other") is False  # the first that writes stays
    bucket.pipe("shards/in/loose/z.png", encoded(42))
    with pytest.raises(DataError, match="made of other inputs"):
        job_of(STAGE, [f"s3://shards/in/{name}" for name in names], "s3://shards/out")


def test_a_connection_that_breaks_is_opened_again_at_the_same_row(monkeypatch):
    starts = []

    class Breaking:
        def __init__(self, name):
            self.file = name

        def values(self, start, stop, names):
            starts.append(start)
            for number in range(start, stop):
                if number == 3 and len(starts) < 3:
                    raise ConnectionResetError("reset by peer")
                yield {"image": number}

        def close(self):
            pass

    monkeypatch.setattr(sources, "OpenedParquet", Breaking)
    monkeypatch.setattr(sources, "FIRST_WAIT_S", 0.0)
    how = {"label": "a", "version": "", "count": 6, "roles": {"bytes": "image"}}
    remote = sources.ParquetSource("s3://bucket/a.parquet", **how)
    assert [each["image"] for each in remote.values(0, 6, ["image"])] == list(range(6))
    assert starts == [0, 3, 3]
    starts.clear()
    with pytest.raises(SourceError, match="reset by peer"):  # a disk does not come back
        list(sources.ParquetSource("a.parquet", **how).values(0, 6, ["image"]))


@pytest.mark.parametrize("out", ["https://host/out", "hf://datasets/x/y", "file:///tmp/out"])
def test_places_that_cannot_hold_shards_are_refused(out):
    with pytest.raises(ConfigError, match=r"shards are written to|not supported"):
        ShardPlace(out).check()


def test_an_object_store_that_refuses_is_no_fault_of_an_image(monkeypatch):
    from vladapt.core.runtime.remote import RefusedFile
    from vladapt.core.shards.sources import ShardRow

    def refused(name):
        raise RefusedFile(f"{name}: access is refused")

    monkeypatch.setattr("vladapt.core.shards.sources.open_stream", refused)
    with pytest.raises(SourceError, match="access is refused"):
        ShardRow("a", "s3://bucket/a.png").read()
    with pytest.raises(DataError) as of_one_image:  # of a list of hosts
        ShardRow("a", "https://host/a.png").read()
    assert not isinstance(of_one_image.value, SourceError)


def test_a_pattern_that_matches_nothing_is_one_line(job_of, tmp_path):
    with pytest.raises(DataError, match=r"none-\*\.parquet: no file matches; check the path"):
        job_of(STAGE, tmp_path / "none-*.parquet")


def test_an_address_that_may_hold_a_secret_is_not_listed_in_the_results(job_of, tmp_path, monkeypatch):
    monkeypatch.setattr("vladapt.core.shards.manifest.filesystem", lambda path: (None, path))
    with pytest.raises(ConfigError, match=r"^https://host/a\.png: its address holds more, which may be a secret"):
        job_of(STAGE, "https://host/a.png?X-Amz-Signature=abc")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
