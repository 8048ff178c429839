"""Opt-outs and takedowns reach decisions and indices."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from tar_shards import png, shard, simple

from vladapt.core.engine.curate import curate
from vladapt.core.engine.removal import remove
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex

pytest.importorskip("duckdb", reason="extra curation is not installed")
pytest.importorskip("faiss", reason="extra retrieval is not installed")


def index_of(path, ids, sources):
    with IndexBuilder(path, dims=4, kind="flat") as builder:
        entries = [Entry(name, None if source is None else str(source)) for name, source in zip(ids, sources)]
        rows = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
        builder.add(rows / np.linalg.norm(rows, axis=1, keepdims=True), entries)
        builder.finish(
            {"holds": "images", "backbone": {"spec": "drawn", "fingerprint": "0"}, "made_of": [], "skipped": []}
        )
    return path


def left_in(path):
    index = RetrievalIndex.open(path)
    return [each.entries[int(row)].id for each in index.segments for row in np.flatnonzero(each.live)]


def written(path, text):
    path.write_text(text)
    return str(path)


def test_decisions_and_indices_lose_what_is_listed(tmp_path):
    tar = shard(tmp_path / "pool.tar", simple(12))
    before = curate("random", [tar], tmp_path / "out", options={"fraction": 0.9})
    kept = {row["id"] for row in pq.read_table(before.folder).to_pylist() if row["keep"]}
    known, listed = sorted(kept)[1], sorted(kept)[4]
    image = png(int(known[-4:]))
    index = index_of(tmp_path / "index", [f"pool:{n:04d}" for n in range(12)], [None] * 12)
    removed = remove(
        [tar],
        tmp_path / "out",
        ids=written(tmp_path / "ids.txt", f"{listed}\nelsewhere\n"),
        hashes=written(tmp_path / "sums.txt", hashlib.md5(image).hexdigest()),
        indices=[index],
        after=[str(before.folder)],
    )
    rows = pq.read_table(removed.decisions.folder).to_pylist()
    assert {row["id"] for row in rows} == kept
    assert {row["id"]: row["reason"] for row in rows if not row["keep"]} == {
        known: "known image",
        listed: "removed by id",
    }
    assert removed.decisions.kept == before.kept - 2 and "1 of 2 ids" in removed.decisions.notes[0]
    assert removed.indices == {str(index): 2} and set(left_in(index)) == {f"pool:{n:04d}" for n in range(12)} - {
        known,
        listed,
    }


def test_known_images_that_earlier_stages_dropped_leave_indices(tmp_path):
    tar = shard(tmp_path / "pool.tar", simple(12))
    before = curate("random", [tar], tmp_path / "out", options={"fraction": 0.5})
    dropped = [row["id"] for row in pq.read_table(before.folder).to_pylist() if not row["keep"]]
    image = png(int(dropped[2][-4:]))
    index = index_of(tmp_path / "index", [*dropped, "other:0001"], [None] * (len(dropped) + 1))
    sums = written(tmp_path / "sums.txt", hashlib.sha256(image).hexdigest())
    how = {"hashes": sums, "indices": [index], "after": [str(before.folder)]}
    removed = remove([tar], tmp_path / "out", **how)
    assert removed.indices == {str(index): 1} and removed.unchecked == {str(index): 1}
    assert set(left_in(index)) == {*dropped, "other:0001"} - {dropped[2]}
    stages = list((tmp_path / "out").iterdir())
    with pytest.raises(DataError, match="nowhere"):
        remove([tar], tmp_path / "out", **{**how, "indices": [tmp_path / "nowhere"], "after": None})
    assert list((tmp_path / "out").iterdir()) == stages, "before decisions are made"


def test_an_index_alone_loses_ids_and_files_by_their_sums(tmp_path):
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(png(number))
    index = index_of(tmp_path / "index", [str(file) for file in files], files)
    files[4].unlink()
    sums = (
        f"{hashlib.sha256(png(1)).hexdigest()}\n{hashlib.md5(png(2)).hexdigest()}\n{hashlib.sha256(png(4)).hexdigest()}"
    )
    ids, hashes = written(tmp_path / "ids.txt", f"{files[3]}\n"), written(tmp_path / "sums.txt", sums)
    removed = remove([], None, ids=ids, hashes=hashes, indices=[index])
    assert removed.indices == {str(index): 3} and removed.unchecked == {str(index): 1}  # whose file is gone
    assert left_in(index) == [str(files[0]), str(files[4])]
    assert remove([], None, ids=ids, indices=[index]).indices == {str(index): 0}


def test_nothing_asked_for_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--ids FILE"):
        remove([], tmp_path)
    with pytest.raises(ConfigError, match="--index"):
        remove([], None, ids="x")


def test_a_file_that_is_not_there_is_refused_before_pairs_are_read(tmp_path):
    tar = shard(tmp_path / "pool.tar", simple(3))
    with pytest.raises(DataError, match="absent"):
        curate("image-based", [tar], tmp_path / "out", options={"target": str(tmp_path / "absent.npy")})
    assert not list((tmp_path / "out").rglob("*.parquet"))
