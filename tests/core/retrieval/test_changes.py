"""An index is added to, deleted from and compacted in its place, by one process at a time, and whoever reads it sees it
before a change or after it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import ConfigError, DataError
from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex, changes, head, kinds, writing
from vladapt.core.retrieval.changes import IndexChange
from vladapt.core.retrieval.wanted import Wanted

from .conftest import entries_of, resigned, unit_rows

faiss = pytest.importorskip("faiss", reason="extra retrieval is not installed")

ROWS = unit_rows(120, dims=16)
OLD = Path(__file__).parents[2] / "compatibility" / "written_at_94fbb0e" / "indexes" / "texts"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != head_lock()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def head_lock() -> str:
    from vladapt.core.retrieval.build import LOCK

    return LOCK


def added(folder: Path, start: int, stop: int) -> None:
    with IndexChange(folder) as change:
        change.add(ROWS[start:stop], entries_of(range(start, stop)))
        change.append([f"more from {start}"], [["broken.png", "unreadable"]])


def deleted(folder: Path, *ids: str) -> int:
    with IndexChange(folder) as change:
        return change.delete(ids)


def compacted(folder: Path) -> bool:
    with IndexChange(folder) as change:
        return change.compact()


def ids_of(index: RetrievalIndex, query: int = 0, top: int = 200, wanted: Wanted | None = None) -> list[str]:
    return [hit.entry.id for hit in index.search(torch.from_numpy(ROWS[query]), top, wanted)]


def nearest(places, query: int = 0) -> list[str]:
    """Ids of those rows, the nearest first."""
    places = np.array(places)
    return [f"{place}.png" for place in places[np.argsort(-(ROWS[places] @ ROWS[query]), kind="stable")]]


# Adding


@pytest.mark.parametrize("kind", ["flat", "ivf-pq"])
def test_what_is_added_is_found_and_no_other_file_changes(make_index, kind):
    folder = make_index(ROWS[:60], kind)
    before = contents(folder)
    added(folder, 60, 120)
    index, now = RetrievalIndex.open(folder), contents(folder)
    assert (len(index), len(index.segments)) == (120, 2)
    assert {name for name in before if before[name] != now.get(name)} == {"index.json"}
    assert [ids_of(index, place, 1) for place in (3, 63, 119)] == [["3.png"], ["63.png"], ["119.png"]]
    assert [entry.id for entry in index.entries] == [f"{place}.png" for place in range(120)]
    assert index.info["made_of"] == ["more from 60"] and index.info["skipped"] == [["broken.png", "unreadable"]]
    assert index.info["about"] == {"camera": ["c0", "c1", "c2"]}


def test_many_segments_answer_as_one(make_index):
    folder, whole = make_index(ROWS[:10], name="parts"), RetrievalIndex.open(make_index(ROWS, name="whole"))
    for start in range(10, 120, 55):
        added(folder, start, start + 55)
    index = RetrievalIndex.open(folder)
    queries = torch.from_numpy(unit_rows(9, dims=16, seed=4))
    for wanted in (None, Wanted({"camera": "c1"})):
        assert index.search_many(queries, 7, wanted) == whole.search_many(queries, 7, wanted)
    hits = index.search(queries[0], 30)
    assert np.array_equal(index.vectors(hits), ROWS[[hit.place for hit in hits]])


def test_segments_of_codes_share_one_quantiser(make_index):
    folder = make_index(ROWS[:80], "ivf-pq")
    added(folder, 80, 120)
    assert len(list(folder.glob("quantiser-*"))) == 1
    parts = [faiss.read_index(str(path)) for path in sorted(folder.glob("segments/*/vectors.faiss"))]
    assert [part.ntotal for part in parts] == [80, 40] and [part.quantizer.ntotal for part in parts] == [0, 0]
    codebooks = [faiss.vector_to_array(part.pq.centroids) for part in parts]
    assert np.array_equal(*codebooks)


def test_a_fact_that_only_added_entries_have_is_filtered_by(make_index):
    folder = make_index(ROWS[:20])
    with IndexChange(folder) as change:
        change.add(ROWS[20:23], [Entry(f"{place}.png", about={"owner": "me", "time": "7"}) for place in (20, 21, 22)])
        change.append([], [])
    index = RetrievalIndex.open(folder)
    assert set(ids_of(index, wanted=Wanted({"owner": "me"}))) == {"20.png", "21.png", "22.png"}
    assert set(ids_of(index, wanted=Wanted(since="7"))) == {"20.png", "21.png", "22.png"}
    assert ids_of(index, wanted=Wanted(since="8")) == []


def test_entries_that_are_there_already_are_known_by_file_and_part(make_index):
    folder = make_index(ROWS[:20])
    index = RetrievalIndex.open(folder)
    same, other_part, other = entries_of([5])[0], Entry("5.png", "/data/5.png", {"frame": 6}), Entry("x", "/data/x.png")
    assert index.already_there([same, other_part, other]) == {same.key}
    assert index.already_there([Entry("another id", same.source, dict(same.decode))]) == {same.key}
    deleted(folder, "5.png")
    assert RetrievalIndex.open(folder).already_there([same]) == set()


def test_nothing_added_changes_nothing(make_index):
    folder = make_index(ROWS[:20])
    before = contents(folder)
    with IndexChange(folder) as change:
        change.append(["nothing"], [])
    assert contents(folder) == before


# Deleting


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_what_is_deleted_is_found_no_more(make_index, kind):
    folder = make_index(ROWS[:60], kind)
    added(folder, 60, 120)
    assert deleted(folder, "0.png", "61.png", "62.png") == 3
    assert deleted(folder, "1.png") == 1
    index = RetrievalIndex.open(folder)
    gone = {"0.png", "1.png", "61.png", "62.png"}
    assert len(index) == 116 and not gone & {entry.id for entry in index.entries}
    hits = ids_of(index)
    assert not gone & set(hits) and len(hits) == len(set(hits))
    if kind in ("flat", "hnsw"):  # the others look at some rows only
        assert hits == nearest([place for place in range(120) if f"{place}.png" not in gone])
        assert set(ids_of(index, wanted=Wanted({"camera": "c1"}))) == {
            f"{place}.png" for place in range(1, 120, 3) if f"{place}.png" not in gone
        }


def test_a_segment_of_which_nothing_is_left_goes(make_index):
    folder = make_index(ROWS[:20])
    added(folder, 20, 23)
    deleted(folder, "20.png", "21.png", "22.png")
    assert [path.name for path in (folder / "segments").iterdir()] == ["00000001"]
    assert ids_of(RetrievalIndex.open(folder)) == nearest(range(20))


def test_what_cannot_be_deleted_is_one_line_and_changes_nothing(make_index):
    folder = make_index(ROWS[:5])
    before = contents(folder)
    with pytest.raises(DataError, match=r"--delete gone\.png: not in .* \(and 1 more\); nothing was deleted"):
        deleted(folder, "1.png", "gone.png", "gone too.png")
    with pytest.raises(DataError, match="would leave no entry; remove the folder instead"):
        deleted(folder, *(f"{place}.png" for place in range(5)))
    assert contents(folder) == before


# Compacting


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_a_compacted_index_is_one_segment_of_what_was_left(make_index, kind):
    folder = make_index(ROWS[:60], kind)
    added(folder, 60, 120)
    deleted(folder, "7.png", "70.png")
    before = RetrievalIndex.open(folder)
    kept, wanted = [place for place in range(120) if place not in (7, 70)], [ids_of(before, q, 5) for q in range(9)]
    assert compacted(folder) and not compacted(folder)
    index = RetrievalIndex.open(folder)
    index.verify()
    assert len(index.segments) == 1 and [entry.id for entry in index.entries] == [f"{place}.png" for place in kept]
    assert (folder / "segments").is_dir() and len(list((folder / "segments").iterdir())) == 1
    assert b'"/data/7.png"' not in next(folder.glob("segments/*/entries.jsonl")).read_bytes()
    if kind != "ivf":  # whose cells are drawn anew
        assert [ids_of(index, q, 5) for q in range(9)] == wanted
    assert [ids_of(before, q, 5) for q in range(9)] == wanted  # whoever opened it before still reads it


@pytest.mark.parametrize(("more", "same"), [(20, True), (100, False)])
def test_a_quantiser_is_trained_again_where_the_index_has_grown_much(make_index, more, same):
    folder = make_index(ROWS[:20], "ivf-sq8")
    first = contents(folder)["quantiser-00000001.faiss"]
    added(folder, 20, 20 + more)
    compacted(folder)
    now = {name: content for name, content in contents(folder).items() if name.startswith("quantiser")}
    assert len(now) == 1 and (first in now.values()) == same


def test_a_damaged_index_is_not_compacted(make_index):
    folder = make_index(unit_rows(300, dims=32))
    deleted(folder, "3.png")
    file = folder / "segments" / "00000001" / "vectors.faiss"
    file.write_bytes(file.read_bytes()[:-5] + b"12345")
    with pytest.raises(DataError, match=r"vectors\.faiss: damaged"):
        compacted(folder)
    assert len(RetrievalIndex.open(folder)) == 299


def test_features_of_parts_stay_with_their_entries(tmp_path):
    def parts_of(places):
        return [np.full((1 + place % 3, 16), place, np.float32) for place in places]

    with IndexBuilder(tmp_path / "x", dims=16) as builder:
        builder.add(ROWS[:10], entries_of(range(10)), parts_of(range(10)))
        builder.finish({"holds": "images", "backbone": {}})
    with IndexChange(tmp_path / "x") as change:
        change.add(ROWS[10:15], entries_of(range(10, 15)), parts_of(range(10, 15)))
        change.append([], [])
        change.delete(["2.png"])
        for step in range(2):
            index = change.opened
            features, there = index.parts(index.search(torch.from_numpy(ROWS[0]), 15))
            places = [int(name[:-4]) for name in ids_of(index, 0, 15)]
            assert features[:, 0, 0].tolist() == places and there.sum(dim=1).tolist() == [1 + p % 3 for p in places]
            assert step or change.compact()
    with IndexChange(tmp_path / "x") as change, pytest.raises(DataError, match="made by another method"):
        change.add(ROWS[:1], entries_of([0]))


# One at a time, and whole


def test_two_at_once_are_one_line(make_index):
    folder = make_index(ROWS[:5])
    with IndexChange(folder):
        for other in (lambda: IndexChange(folder), lambda: IndexBuilder(folder, dims=16)):
            with pytest.raises(ConfigError, match="another process is changing this index; wait for it"):
                other()
    with IndexBuilder(folder, dims=16), pytest.raises(ConfigError, match="another process is changing this index"):
        IndexChange(folder)
    added(folder, 5, 6)


def test_a_head_that_another_has_replaced_is_not_overwritten(make_index):
    folder = make_index(ROWS[:5])
    with IndexChange(folder) as change:
        change.add(ROWS[5:6], entries_of([5]))
        resigned(folder, made_of=["by another, where files have no locks"])
        with pytest.raises(ConfigError, match="has changed this index meanwhile; run the command again"):
            change.append([], [])
    assert len(RetrievalIndex.open(folder)) == 5


@pytest.mark.parametrize("place", ["synced", "write_head"])
def test_a_change_that_fails_leaves_the_index_as_it_was(make_index, monkeypatch, place):
    folder = make_index(ROWS[:20], "ivf-pq")
    before = contents(folder)
    for module in (changes, writing, head):
        if hasattr(module, place):
            monkeypatch.setattr(module, place, full_disk)
    for change in (lambda: added(folder, 20, 40), lambda: deleted(folder, "3.png")):
        with pytest.raises(DataError, match=r"cannot be written there .*No space left.* free some space"):
            change()
    assert contents(folder) == before


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_ctrl_c_right_after_the_head_was_replaced_leaves_the_index_whole(make_index, monkeypatch):
    folder = make_index(ROWS[:60])
    real = changes.write_head

    def stopped(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(changes, "write_head", stopped)
    with pytest.raises(KeyboardInterrupt):
        added(folder, 60, 100)
    monkeypatch.undo()
    index = RetrievalIndex.open(folder)
    index.verify()
    assert len(index) == 100 and len(ids_of(index)) == 100


def test_what_a_killed_change_left_is_not_seen_and_removed_by_the_next(make_index):
    folder = make_index(ROWS[:20])
    shutil.copytree(folder / "segments" / "00000001", folder / "segments" / "00000002")
    left = [folder / "segments" / "00000001" / "live-19.bits", folder / "quantiser-00000002.faiss"]
    for path in left:
        path.write_bytes(b"half of")
    assert ids_of(RetrievalIndex.open(folder)) == nearest(range(20))
    added(folder, 20, 25)
    assert not any(path.exists() for path in left) and len(RetrievalIndex.open(folder)) == 25
    assert sorted(path.name for path in (folder / "segments").iterdir()) == ["00000001", "00000002"]


def test_an_index_that_is_replaced_while_it_is_opened_is_read_as_it_is_then(make_index, monkeypatch):
    from vladapt.core.retrieval import index as index_module

    folder = make_index(ROWS[:20])
    stale = head.read_head(folder)
    added(folder, 20, 25)
    compacted(folder)
    answers = [stale]
    monkeypatch.setattr(index_module, "read_head", lambda path: answers.pop() if answers else head.read_head(path))
    assert len(RetrievalIndex.open(folder)) == 25


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "delete", "compact"]), st.integers(1, 9)), max_size=6))
def test_any_changes_in_any_order_leave_what_is_not_deleted(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("any") / "index"
    with IndexBuilder(folder, dims=16) as builder:
        builder.add(ROWS[:10], entries_of(range(10)))
        builder.finish({"holds": "images", "backbone": {}})
    there, end = list(range(10)), 10
    for step, count in steps:
        if step == "add":
            added(folder, end, end + count)
            there, end = [*there, *range(end, end + count)], end + count
        elif step == "delete" and count < len(there):
            chosen = there[:: max(1, len(there) // count)][:count]
            deleted(folder, *(f"{place}.png" for place in chosen))
            there = [place for place in there if place not in chosen]
        elif step == "compact":
            compacted(folder)
    index = RetrievalIndex.open(folder)
    assert [entry.id for entry in index.entries] == [f"{place}.png" for place in there]
    assert ids_of(index, 3) == nearest(there, 3)


# Folders of before


def test_a_folder_of_format_1_is_a_segment_that_is_added_to_and_compacted(tmp_path):
    folder = Path(shutil.copytree(OLD, tmp_path / "old"))
    old = RetrievalIndex.open(folder)
    old.verify()
    dims, lines = old.info["dims"], [entry.captions[0] for entry in old.entries]
    row = np.eye(dims, dtype=np.float32)[:1]
    assert old.already_there([Entry("", captions=(lines[1],)), Entry("", captions=("new",))]) == {("", lines[1])}
    with IndexChange(folder) as change:
        change.add(row, [Entry("line 99", captions=("new",))])
        change.append(["more.txt"], [])
        assert [entry.captions[0] for entry in change.opened.entries] == [*lines, "new"]
        change.delete([old.entries[0].id])
        rows = change.opened.vectors(change.opened.search(torch.from_numpy(row[0]), 99))
        assert change.compact()
    now = RetrievalIndex.open(folder)
    assert [entry.captions[0] for entry in now.entries] == [*lines[1:], "new"] and now.info["format"] == 2
    assert np.array_equal(now.vectors(now.search(torch.from_numpy(row[0]), 99)), rows)
    assert {path.name for path in folder.iterdir()} == {"index.json", "segments", head_lock()}


# Size


def test_segments_are_closed_when_they_are_large_and_codes_are_trained_once_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SEGMENT_ROWS", 50)
    for kind, sizes in (("flat", [50, 50, 20]), ("ivf-pq", [50, 50, 20]), ("hnsw", [120])):
        with IndexBuilder(tmp_path / kind, dims=16, kind=kind) as builder:
            for start in range(0, 120, 10):
                builder.add(ROWS[start : start + 10], entries_of(range(start, start + 10)))
            builder.finish({"holds": "images", "backbone": {}})
        index = RetrievalIndex.open(tmp_path / kind)
        assert [segment.count for segment in index.segments] == sizes
        assert [ids_of(index, place, 1) for place in (0, 55, 119)] == [["0.png"], ["55.png"], ["119.png"]]
    assert RetrievalIndex.open(tmp_path / "ivf-pq").info["quantiser"]["rows"] == 120


@pytest.mark.parametrize("kind", ["ivf-pq", "ivf-sq8"])
def test_a_segment_ranked_by_faiss_and_several_joined_give_the_same(make_index, monkeypatch, kind):
    rows = unit_rows(900, dims=16)
    whole = RetrievalIndex.open(make_index(rows, kind, "whole", at_once=100))
    monkeypatch.setattr(writing, "SEGMENT_ROWS", 300)
    parts = RetrievalIndex.open(make_index(rows, kind, "parts", at_once=100))
    assert len(whole.segments) == 1 and len(parts.segments) == 3
    queries = torch.from_numpy(unit_rows(30, dims=16, seed=9))
    for wanted in (None, Wanted({"camera": "c1"})):
        for index in (whole, parts):
            scores, places = index.nearest(queries, 10, wanted)
            exact = np.einsum("qkd,qd->qk", rows[places].astype("<f2").astype(np.float32), queries.numpy())
            assert np.abs(scores - exact).max() < 1e-6
        assert (whole.nearest(queries, 10, wanted)[1] == places).mean() > 0.98  # but for scores equal to a rounding
    assert (whole.nearest(queries, 10, refine=False)[1] != whole.nearest(queries, 10)[1]).any()


@pytest.mark.parametrize("kind", ["flat", "ivf-pq"])
def test_segments_of_codes_are_closed_by_rows_and_others_by_bytes_too(make_index, monkeypatch, kind):
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 4 * 16 * 100)
    index = RetrievalIndex.open(make_index(unit_rows(300, dims=16), kind, at_once=100))
    assert len(index.segments) == {"flat": 3, "ivf-pq": 1}[kind]


@pytest.mark.skipif(sys.platform != "linux", reason="counts what the system has read")
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "ivf-pq"])
def test_opening_reads_little_whatever_the_number_of_rows(make_index, kind):
    def bytes_read(folder: Path) -> int:
        before = int(Path("/proc/self/io").read_text().split()[1])
        RetrievalIndex.open(folder)
        return int(Path("/proc/self/io").read_text().split()[1]) - before

    few, many = (make_index(unit_rows(rows, dims=32), kind, f"{rows}", at_once=1000) for rows in (300, 3000))
    bytes_read(few)  # what is imported for the first time is read too
    read = [bytes_read(folder) for folder in (few, many)]
    assert abs(read[1] - read[0]) < 4000 and max(read) < 60_000
    assert sum(path.stat().st_size for path in many.rglob("*") if path.is_file()) > 8 * max(read)
