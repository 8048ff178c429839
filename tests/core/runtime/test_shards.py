"""Rows come back as they were put, from few files, whatever other processes do meanwhile."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vladapt.core.features.table import canonical_json, image_key, view_seed
from vladapt.core.runtime import shards
from vladapt.core.runtime.files import PARTIAL, write_whole
from vladapt.core.runtime.shards import ShardFolder


def key(i: int) -> bytes:
    return hashlib.sha256(str(i).encode()).digest()


def row(i: int) -> np.ndarray:
    return np.full(3, i, dtype=np.float32)


def put(folder: ShardFolder, numbers) -> None:
    folder.append([key(i) for i in numbers], np.stack([row(i) for i in numbers]))


def found(folder: ShardFolder, numbers) -> dict[bytes, list[float]]:
    result: dict[bytes, list[float]] = {}
    for keys, rows in folder.find([key(i) for i in numbers]):
        assert not result.keys() & set(keys), "each key once"
        result.update(zip(keys, rows.tolist()))
    return result


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True), max_size=8),
    wanted=st.sets(st.integers(0, 40)),
    merge=st.booleans(),
)
def test_rows_come_back_as_they_were_put(tmp_path_factory, groups, wanted, merge):
    path = tmp_path_factory.mktemp("folder")
    folder = ShardFolder(path, "a space")
    for group in groups:
        put(folder, group)
    if merge:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "MERGE_ABOVE", 2)
            folder.merge()
    there = wanted & {i for group in groups for i in group}
    for reader in (folder, ShardFolder(path, "a space")):
        assert found(reader, wanted) == {key(i): row(i).tolist() for i in there}


def test_many_small_shards_become_few(tmp_path):
    folder = ShardFolder(tmp_path, "a space")
    for i in range(shards.MERGE_ABOVE + 1):
        put(folder, [i, i + 1])
    folder.merge()
    assert len(list(tmp_path.iterdir())) == 1
    assert len(found(folder, range(shards.MERGE_ABOVE + 2))) == shards.MERGE_ABOVE + 2


def test_few_shards_and_large_ones_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MERGE_ABOVE", 3)
    monkeypatch.setattr(shards, "SMALL_ROWS", 10)
    folder = ShardFolder(tmp_path, "a space")
    put(folder, range(10))
    for i in range(3):
        put(folder, [20 + i])
    before = sorted(os.listdir(tmp_path))
    folder.merge()
    assert sorted(os.listdir(tmp_path)) == before
    put(folder, [30])
    folder.merge()
    assert before[0] in os.listdir(tmp_path) and len(os.listdir(tmp_path)) == 2


def test_a_reader_finds_rows_that_another_process_merges_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MERGE_ABOVE", 2)
    ours, theirs = ShardFolder(tmp_path, "a space"), ShardFolder(tmp_path, "a space")
    for i in range(6):
        put(theirs, [i])
    reading = ours.find([key(i) for i in range(6)])
    rows = dict(zip(*next(reading)))
    theirs.merge()  # between two steps of our reading
    for keys, more in reading:
        rows.update(zip(keys, more))
    assert {k: v.tolist() for k, v in rows.items()} == {key(i): row(i).tolist() for i in range(6)}


def test_two_merging_at_once_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MERGE_ABOVE", 2)
    ours, theirs = ShardFolder(tmp_path, "a space"), ShardFolder(tmp_path, "a space")
    for i in range(6):
        put(ours, [i])
    real = ShardFolder._replace

    def interleaved(folder, batch):
        monkeypatch.setattr(ShardFolder, "_replace", real)
        theirs.merge()
        real(folder, batch)

    monkeypatch.setattr(ShardFolder, "_replace", interleaved)
    ours.merge()
    assert len(found(ShardFolder(tmp_path, "a space"), range(6))) == 6


def test_remains_of_killed_writers_are_removed_once_they_are_old(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MERGE_ABOVE", 1)
    old, fresh = tmp_path / f"{PARTIAL}old", tmp_path / f"{PARTIAL}fresh"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (0, 0))
    folder = ShardFolder(tmp_path, "a space")
    for i in range(3):
        put(folder, [i])
    folder.merge()
    assert fresh.exists() and not old.exists()


def test_a_shard_under_another_s_index_is_not_trusted(tmp_path):
    folder = ShardFolder(tmp_path, "a space")
    put(folder, [1])
    put(folder, [2])
    one, two = sorted(tmp_path.iterdir())
    one.write_bytes(two.read_bytes())
    assert found(folder, [1]) == {} and found(folder, [2]) == {key(2): row(2).tolist()}


def test_an_overwritten_file_is_the_old_or_the_new_one_never_half(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def stopped(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=3)))
@settings(max_examples=30, deadline=None)
def test_a_spec_s_order_does_not_matter_to_its_key(spec):
    backwards = dict(reversed(list(spec.items())))
    assert canonical_json(spec) == canonical_json(backwards)


def test_every_part_of_a_key_counts():
    base = {"space": "s", "content": "c", "transform": "t", "view": 1, "seed": 2}
    variants = [base, *({**base, name: "x" if isinstance(v, str) else v + 1} for name, v in base.items())]
    assert len({image_key(**variant) for variant in variants}) == 6
    assert len({view_seed(0, "c", 0), view_seed(1, "c", 0), view_seed(0, "d", 0), view_seed(0, "c", 1)}) == 4
    assert image_key("s", "c", "t", None, 1) == image_key("s", "c", "t", None, 2)
    for seeded, variant in ((None, ()), ([3, 7], (3, 7))):  # keys of earlier versions are found
        text = canonical_json(['{"s": 1}', "c", '{"t": "é"}', seeded])
        assert image_key('{"s": 1}', "c", '{"t": "é"}', *variant) == hashlib.sha256(text.encode()).digest()
    assert canonical_json({"a": np.float32(0.5), "b": np.arange(2)}) == '{"a":0.5,"b":[0,1]}'
