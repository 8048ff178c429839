"""An index is written whole or not at all, read again as it was, and found out where it is not."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forked import run

from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex, kinds
from vladapt.core.retrieval.entries import EntryWriter
from vladapt.core.runtime.files import claimed

from .conftest import entries_of, resigned, unit_rows

faiss = pytest.importorskip("faiss", reason="extra retrieval is not installed")

SEGMENT = "segments/00000001"
FILES = {f"{SEGMENT}/{name}" for name in ("vectors.faiss", "entries.jsonl", "entries.offsets", "facts.parquet")}
QUANTISED = ("ivf-pq", "ivf-sq8")


def files_in(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Written and read


def test_the_nearest_rows_come_first_with_their_cosines_and_entries(make_index):
    rows = unit_rows(50)
    index = RetrievalIndex.open(make_index(rows))
    query = torch.from_numpy(unit_rows(1, seed=9)[0])
    hits = index.search(query, top=4)
    cosines = rows @ query.numpy()
    order = np.argsort(-cosines)[:4]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert [hit.entry.id for hit in hits] == [f"{i}.png" for i in order]
    assert [hit.score for hit in hits] == pytest.approx(cosines[order].tolist(), abs=1e-6)
    first = int(order[0])
    assert [hits[0].entry] == entries_of([first])


def test_the_folder_holds_what_it_says(make_index):
    folder = make_index(unit_rows(20))
    assert files_in(folder) == {*FILES, "index.json"}
    assert [path.name for path in folder.parent.iterdir() if "unfinished" in path.name] == []
    facts = json.loads((folder / "index.json").read_text())
    assert (facts["kind"], facts["dims"], facts["entries"]) == ("flat", 8, 20)
    assert facts["backbone"] == {"spec": "toy", "fingerprint": "abc"}
    assert len((folder / SEGMENT / "entries.jsonl").read_text().splitlines()) == 20


def test_the_next_index_removes_what_killed_builds_left_and_not_what_another_is_at(make_index, tmp_path):
    folder = make_index(unit_rows(5))
    killed, alive = (folder.with_name(f".{folder.name}.unfinished-{name}") for name in ("killed", "alive"))
    for place in (killed, alive):
        place.mkdir()
        (place / ".at-work").touch()
    other = folder.with_name(".other.unfinished-killed")
    other.mkdir()
    with claimed(alive / ".at-work"):
        again = IndexBuilder(folder, dims=8)
        with again:
            again.add(unit_rows(6), [Entry(f"{i}.png", f"/data/{i}.png", {}, ()) for i in range(6)])
            again.finish({"backbone": {"spec": "toy", "fingerprint": "abc"}, "holds": "images"})
    assert [place.exists() for place in (killed, alive, other)] == [False, True, True]
    assert len(RetrievalIndex.open(folder)) == 6 and files_in(folder) == {*FILES, "index.json"}


def test_an_index_is_written_where_a_link_points(make_index, tmp_path):
    folder = make_index(unit_rows(5))
    link = tmp_path / "link"
    link.symlink_to(folder)
    with IndexBuilder(link, dims=8) as builder:
        builder.add(unit_rows(6), [Entry(f"{i}.png", f"/data/{i}.png", {}, ()) for i in range(6)])
        builder.finish({"backbone": {"spec": "toy", "fingerprint": "abc"}, "holds": "images"})
    assert link.is_symlink() and len(RetrievalIndex.open(folder)) == 6


def test_another_process_reads_it(make_index):
    rows = unit_rows(30)
    folder = make_index(rows)
    code = (
        "import sys, json, torch\nfrom vladapt.core.retrieval import RetrievalIndex\n"
        f"index = RetrievalIndex.open({str(folder)!r})\n"
        f"print(json.dumps([hit.entry.id for hit in index.search(torch.tensor({rows[17].tolist()}), 3)]))"
    )
    assert json.loads(run(["-c", code], check=True).stdout)[0] == "17.png"


def test_no_more_than_there_are_and_equal_scores_in_the_order_of_indexing(make_index):
    same = np.repeat(unit_rows(1), 6, axis=0)
    hits = RetrievalIndex.open(make_index(same)).search(torch.from_numpy(same[0]), top=100)
    assert [hit.entry.id for hit in hits] == [f"{i}.png" for i in range(6)]


def test_entries_with_any_text_come_back_as_they_were(tmp_path):
    odd = [Entry("a\nb", None, {}, ('quote " and \u2028 and 漢字',)), Entry("", "/x", {"box": [1, 2.5]}, ())]
    with IndexBuilder(tmp_path / "odd", dims=8) as builder:
        builder.add(unit_rows(2), odd)
        folder = builder.finish({"holds": "texts", "backbone": {}})
    entries = RetrievalIndex.open(folder).entries
    assert [entries[1], entries[0]] == odd[::-1] and len(entries) == 2


def test_a_new_index_takes_the_place_of_an_old_one(make_index):
    make_index(unit_rows(20))
    folder = make_index(unit_rows(5))
    assert len(RetrievalIndex.open(folder)) == 5
    assert {path.name for path in folder.parent.iterdir() if path.name.startswith(".an.index")} == set()


# Kinds


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_every_kind_finds_a_row_by_itself(make_index, kind):
    rows = unit_rows(300, dims=16)
    index = RetrievalIndex.open(make_index(rows, kind=kind, at_once=64))
    found = [index.search(torch.from_numpy(rows[i]), top=3)[0] for i in range(0, 300, 25)]
    assert [hit.entry.id for hit in found] == [f"{i}.png" for i in range(0, 300, 25)]
    assert all(hit.score == pytest.approx(1, abs=1e-3 if kind in QUANTISED else 1e-5) for hit in found)


def test_kinds_are_the_faiss_indexes_they_name(make_index):
    rows = unit_rows(400, dims=16)
    folders = {kind: make_index(rows, kind=kind, name=kind) for kind in kinds.KINDS}
    opened = {kind: faiss.read_index(str(folder / SEGMENT / "vectors.faiss")) for kind, folder in folders.items()}
    assert {kind: type(index).__name__ for kind, index in opened.items()} == {
        "flat": "IndexFlatIP",
        "hnsw": "IndexHNSWFlat",
        "ivf": "IndexIVFFlat",
        "ivf-pq": "IndexIVFPQ",
        "ivf-sq8": "IndexIVFScalarQuantizer",
    }
    assert opened["ivf"].nlist == 10 and opened["ivf"].nprobe == 2  # 400 // 39 cells, an eighth of them
    assert opened["hnsw"].hnsw.efConstruction == kinds.EF_CONSTRUCTION
    assert opened["ivf-pq"].pq.M == 2 and opened["ivf-pq"].quantizer.ntotal == 0  # the centres lie beside the head
    shared = faiss.read_index(str(next(folders["ivf-pq"].glob("quantiser-*.faiss"))))
    assert (shared.nlist, shared.quantizer.ntotal, shared.ntotal) == (10, 10, 0)


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_the_same_rows_make_the_same_files(make_index, kind):
    rows = unit_rows(500, dims=16)
    one, other = (make_index(rows, kind=kind, name=name) for name in "ab")
    assert files_in(one) == files_in(other)
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files_in(one))


def test_a_graph_is_built_by_as_many_threads_as_are_asked_for_and_others_by_all(tmp_path, monkeypatch):
    rows, threads = unit_rows(400, dims=16), []
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: 7)
    monkeypatch.setattr(faiss, "omp_set_num_threads", threads.append)
    for kind, asked in (("hnsw", 1), ("hnsw", 2), ("ivf", 2)):
        with IndexBuilder(tmp_path / kind, dims=16, kind=kind, graph_threads=asked) as builder:
            builder.add(rows, entries_of(range(400)))
            builder.finish({"holds": "images", "backbone": {}})
    assert threads == [1, 7, 2, 7, 7]


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_a_single_row_can_be_indexed(make_index, kind, capfd):
    rows = unit_rows(1)
    assert len(RetrievalIndex.open(make_index(rows, kind=kind)).search(torch.from_numpy(rows[0]))) == 1
    assert capfd.readouterr().err == ""  # faiss warns of few rows a cell by itself


def test_a_graph_keeps_as_many_candidates_as_are_asked_for(make_index):
    rows = unit_rows(600, dims=16)
    index = RetrievalIndex.open(make_index(rows, kind="hnsw"))
    assert len(index.search(torch.from_numpy(rows[0]), top=400)) == 400


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--kind tree: give one of flat, hnsw, ivf"):
        IndexBuilder(tmp_path / "x", dims=8, kind="tree")


def test_without_faiss_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(CapabilityError, match=r"pip install 'vladapt\[retrieval\]'"):
        IndexBuilder(tmp_path / "x", dims=8)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no such advice")
@pytest.mark.parametrize(("kind", "times"), [("flat", 1), ("ivf-pq", 0)])
def test_rows_that_are_all_compared_are_read_ahead_once(make_index, monkeypatch, kind, times):
    index, advised = RetrievalIndex.open(make_index(unit_rows(30), kind=kind)), []
    monkeypatch.setattr(os, "posix_fadvise", lambda *how: advised.append(how[1:]))
    for _ in range(2):
        index.search(torch.from_numpy(unit_rows(1)[0]))
    assert advised == [(0, 0, os.POSIX_FADV_WILLNEED)] * times


# Whole or not at all


def test_what_fails_half_way_leaves_the_old_index(make_index, tmp_path):
    folder = make_index(unit_rows(4))
    before = {name: (folder / name).read_bytes() for name in files_in(folder)}
    with pytest.raises(KeyboardInterrupt), IndexBuilder(folder, dims=8) as builder:
        builder.add(unit_rows(2), [Entry("a"), Entry("b")])
        raise KeyboardInterrupt
    assert {name: (folder / name).read_bytes() for name in files_in(folder) - {".lock"}} == before
    assert {path.name for path in tmp_path.iterdir()} == {"an.index", "vladapt-cache"} & set(os.listdir(tmp_path))


def test_what_fails_half_way_leaves_no_new_folders(tmp_path):
    with pytest.raises(ValueError), IndexBuilder(tmp_path / "new" / "deeper" / "x", dims=8):
        raise ValueError
    assert not (tmp_path / "new").exists()


def test_an_index_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to index"), IndexBuilder(tmp_path / "x", dims=8) as builder:
        builder.finish({})
    assert not (tmp_path / "x").exists()


def test_a_folder_of_other_things_is_not_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(DataError, match="holds something other than an index"):
        IndexBuilder(tmp_path / "photos", dims=8)
    with pytest.raises(DataError, match="a file, not a folder"):
        IndexBuilder(tmp_path / "photos" / "a.png", dims=8)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    with (
        open("/dev/full", "wb") as full,
        pytest.raises(DataError, match="cannot be written there"),
        IndexBuilder(tmp_path / "x", dims=8) as builder,
    ):
        monkeypatch.setattr(EntryWriter, "add", lambda self, entries: full.write(bytes(1 << 20)))
        builder.add(unit_rows(5), [Entry(str(i)) for i in range(5)])
    assert not (tmp_path / "x").exists()


# Damage


def damage(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize(
    "change",
    [lambda b: b[:-3], lambda b: b"", lambda b: b + b"x", lambda b: b[:9] + bytes([b[9] ^ 1]) + b[10:]],
    ids=["cut", "empty", "longer", "one bit"],
)
def test_damage_is_one_line_that_names_the_file(make_index, name, change):
    folder = make_index(unit_rows(20))
    damage(folder, name, change)
    with pytest.raises(DataError) as error:
        RetrievalIndex.open(folder)
    assert str(folder / name) in str(error.value) and "damaged" in str(error.value)


def test_damage_far_from_the_beginning_of_a_file_is_found_where_all_of_it_is_read(make_index):
    folder = make_index(unit_rows(500, dims=32))
    index = RetrievalIndex.open(folder)
    index.verify()
    damage(folder, f"{SEGMENT}/vectors.faiss", lambda b: b[:-5] + bytes([b[-5] ^ 1]) + b[-4:])
    with pytest.raises(DataError, match=r"vectors\.faiss: damaged, not what was written"):
        RetrievalIndex.open(folder).verify()


@pytest.mark.parametrize("name", sorted({*FILES, "index.json"}))
def test_a_missing_file_is_one_line(make_index, name):
    folder = make_index(unit_rows(20))
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        RetrievalIndex.open(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 99}, "reads formats 1 and 2"),
        ({"entries": 19}, "tells of 19 entries, its segments hold 20"),
        ({"dims": 9}, "of width 8"),
        ({"dims": "8"}, "'dims' is not usable"),
        ({"kind": "tree"}, "'kind' is not usable"),
        ({"kind": "ivf-pq"}, "'quantiser' is not usable"),
        ({"segments": None}, "'segments' is not usable"),
        ({"segments": []}, "'segments' is not usable"),
        ({"segments": [{"name": "../../other", "entries": 20, "files": {}}]}, "'segments' is not usable"),
        ({"segments": [{"name": "1", "entries": 20, "files": {"../x": {}}}]}, "'segments' is not usable"),
        ({"segments": [{"name": "00000001", "entries": 20, "files": {}}]}, "not what was written"),
        ({"segments": [{"name": "2", "entries": 20, "files": {}}]}, "missing"),
        ({"backbone": None}, "'backbone' is not usable"),
        ({"entries": 0}, "'entries' is not usable"),
    ],
)
def test_facts_that_do_not_fit_are_one_line(make_index, changes, said):
    folder = make_index(unit_rows(20))
    resigned(folder, **changes)
    with pytest.raises(DataError, match=said):
        RetrievalIndex.open(folder)


def test_a_head_that_was_edited_is_damaged(make_index):
    folder = make_index(unit_rows(3))
    damage(folder, "index.json", lambda b: b.replace(b'"images"', b'"imagez"'))
    with pytest.raises(DataError, match=r"index\.json: damaged, not what was written"):
        RetrievalIndex.open(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_facts_that_are_no_json_object_are_one_line(make_index, content):
    folder = make_index(unit_rows(3))
    (folder / "index.json").write_text(content)
    with pytest.raises(DataError, match="damaged"):
        RetrievalIndex.open(folder)


def test_what_is_no_index_is_said(tmp_path):
    with pytest.raises(DataError, match="no such index"):
        RetrievalIndex.open(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no index\.json there"):
        RetrievalIndex.open(tmp_path)


# The backbone


def test_another_backbone_is_refused(make_index):
    index = RetrievalIndex.open(make_index(unit_rows(3)))
    index.check_backbone(SimpleNamespace(spec="toy", fingerprint="abc"))
    with pytest.raises(CapabilityError, match=r"made with backbone 'toy' \(abc\), not with 'toy' as it is now \(xyz\)"):
        index.check_backbone(SimpleNamespace(spec="toy", fingerprint="xyz"))
    with pytest.raises(CapabilityError, match="rows of width 8"):
        index.search(torch.ones(9))
