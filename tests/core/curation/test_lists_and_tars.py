"""Kept pairs as a list, as new tars and as DataComp's array; the list as a set to train on."""

import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tar_shards import png, shard, simple

from vladapt.core.curation.lists import KeptPairs, Positions, write_list, write_uids
from vladapt.core.curation.tars import write_tars
from vladapt.core.data.pairs.pair_list import list_rows
from vladapt.core.data.pairs.pair_set import StoredImages
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.pairs.shard_reader import members_of
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.runtime.process import stops_like_ctrl_c
from vladapt.core.shards import Manifest, ShardPlace


def decided(folder, weights, dropped=(), rows_per_part=7):
    """A folder of decisions: id -> weight of what is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = sorted([*weights, *dropped])
    for number, start in enumerate(range(0, len(ids), rows_per_part)):
        some = ids[start : start + rows_per_part]
        table = {
            "id": some,
            "keep": [each in weights for each in some],
            "weight": pa.array([weights.get(each, 1.0) for each in some], pa.float32()),
            "reason": ["" if each in weights else "few words" for each in some],
            "score_clip": pa.array(np.linspace(0, 1, len(some)), pa.float32()),
        }
        pq.write_table(pa.table(table), folder / f"part-{number:08d}.parquet")
    return ShardPlace(str(folder))


def sources_of(tmp_path, *paths):
    return Manifest.of(list(map(str, paths)), ShardPlace(str(tmp_path / "made")), tmp_path / "cache").sources


def contents(path):
    """Key -> {extension: bytes}."""
    made = {}
    for key, info, content in members_of(str(path)):
        made.setdefault(key, {})[info.name.rpartition(".")[2]] = content.read()
    return made


@pytest.fixture
def tars(tmp_path):
    """Two tars of 12 samples, whose keys are the same in both; further members beside the usual ones."""
    for name, start in (("a", 0), ("b", 100)):
        members = {}
        for number in range(12):
            key = f"{number:04d}"
            members |= {
                f"{key}.png": png(start + number),
                f"{key}.txt": f"{name} {number}",
                f"{key}.json": json.dumps({"caption": f"{name} {number}", "synthetic": f"syn {number}"}),
                f"{key}.seg.npy": bytes([start + number]) * 700,
            }
        shard(tmp_path / "pool" / f"{name}.tar", members)
    return tmp_path / "pool"


def test_the_list_says_where_each_pair_lies_and_is_read_as_one_set(tmp_path, tars):
    weights = {"a:0003": 1.0, "a:0007": 2.0, "b:0003": 0.5, "b:0011": 1.0}
    place = decided(tmp_path / "decisions", weights, dropped=["a:0001", "b:0002"])
    out = ShardPlace(str(tmp_path / "out"))
    write_list(KeptPairs.of([place]), sources_of(tmp_path, tars), out)
    rows = list(list_rows(tmp_path / "out" / "LIST.parquet"))
    assert [(row["id"], row["weight"], row["key"]) for row in rows] == [
        (name, weight, name[2:]) for name, weight in weights.items()
    ]
    assert {row["source"] for row in rows} == {str(tars / "a.tar"), str(tars / "b.tar")}
    pairs = read_pairs(tmp_path / "out" / "LIST.parquet", split="train")
    assert [(pair.id, pair.captions, pair.texts["synthetic"]) for pair in pairs] == [
        ("a.tar:0003", ("a 3",), ("syn 3",)),
        ("a.tar:0007", ("a 7",), ("syn 7",)),
        ("b.tar:0003", ("b 3",), ("syn 3",)),
        ("b.tar:0011", ("b 11",), ("syn 11",)),
    ]
    assert pairs.weights.tolist() == [1, 2, 0.5, 1] and pairs.select([3, 1]).weights.tolist() == [1, 2]
    assert [pairs.load_image(row)[0, 0, 0] for row in range(4)] == [3, 7, 103, 111]


def test_of_a_tenth_kept_a_tenth_is_read(tmp_path, monkeypatch):
    shard(tmp_path / "pool.tar", simple(200))
    weights = {f"pool:{number:04d}": 1.0 for number in range(0, 200, 10)}
    kept = KeptPairs.of([decided(tmp_path / "decisions", weights)])
    write_list(kept, sources_of(tmp_path, tmp_path / "pool.tar"), ShardPlace(str(tmp_path)))
    pairs = read_pairs(tmp_path / "LIST.parquet", split="train")
    read, original = [], StoredImages.read
    monkeypatch.setattr(StoredImages, "read", lambda *args: read.append(original(*args)) or read[-1])
    for row in range(len(pairs)):
        pairs.load_image(row)
    size, images = (tmp_path / "pool.tar").stat().st_size, sum(len(png(n)) for n in range(0, 200, 10))
    assert len(pairs) == 20 and sum(map(len, read)) == images < size / 10
    assert f"({images / size:.1%})" in " ".join(pairs.notes) and pairs.weights is None
    assert len(b"".join(pairs.columns.captions.values.to_pylist())) == sum(
        len(pair.captions[0]) for pair in pairs
    )  # no others


def test_new_tars_hold_the_members_byte_by_byte_under_names_that_differ(tmp_path, tars):
    weights = {f"{name}:{number:04d}": 3.0 for name in "ab" for number in (2, 3, 9)}
    out = ShardPlace(str(tmp_path / "out"))
    write_list(KeptPairs.of([decided(tmp_path / "decisions", weights)]), sources_of(tmp_path, tars), out)
    made = write_tars(tmp_path / "out" / "LIST.parquet", out, samples=4)
    assert (made.tars, made.samples, made.before) == (2, 6, 0)
    first, second = contents(tmp_path / "out" / "00000.tar"), contents(tmp_path / "out" / "00001.tar")
    assert list(first) == ["0002", "0003", "0009", "1/0002"] and list(second) == ["0003", "0009"]
    old = contents(tars / "a.tar"), contents(tars / "b.tar")
    assert first["0009"] == old[0]["0009"] and first["1/0002"] == old[1]["0002"] and second["0009"] == old[1]["0009"]
    assert first["0009"]["npy"] == bytes([9]) * 700
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {"00000.tar": 4, "00001.tar": 2}
    assert len(read_pairs(tmp_path / "out", split="train")) == 6


def test_tars_go_on_where_they_were_stopped_and_are_not_mixed(tmp_path, tars, monkeypatch):
    weights = {f"a:{number:04d}": 1.0 for number in range(12)}
    out, listed = ShardPlace(str(tmp_path / "out")), tmp_path / "out" / "LIST.parquet"
    sources = sources_of(tmp_path, tars)
    write_list(KeptPairs.of([decided(tmp_path / "decisions", weights)]), sources, out)
    original = ShardPlace.publish
    monkeypatch.setattr(ShardPlace, "publish", lambda *a: 1 / 0 if a[2] == "00001.tar" else original(*a))
    with stops_like_ctrl_c() as stops, pytest.raises(ZeroDivisionError):
        write_tars(listed, out, samples=5)
    assert stops.kept == {"finished tars": str(tmp_path / "out")}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["00000.tar"]
    monkeypatch.undo()
    stamp = (tmp_path / "out" / "00000.tar").stat().st_mtime_ns
    made = write_tars(listed, out, samples=5)
    assert (made.tars, made.before) == (3, 1) and (tmp_path / "out" / "00000.tar").stat().st_mtime_ns == stamp
    whole = ShardPlace(str(tmp_path / "whole"))
    for part in range(2):
        write_tars(listed, whole, samples=5, part=(part, 2))
    for number in range(3):
        name = f"{number:05d}.tar"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    with pytest.raises(ConfigError, match="holds tars of 5 pairs each, and now it is 6; remove that folder"):
        write_tars(listed, out, samples=6)
    write_list(KeptPairs.of([decided(tmp_path / "weighted", dict.fromkeys(weights, 2.0))]), sources, out)
    assert write_tars(listed, out, samples=5).before == 3, "weights are not in tars"
    write_list(KeptPairs.of([decided(tmp_path / "others", {"a:0001": 1.0})]), sources, out)
    with pytest.raises(ConfigError, match="holds tars of other pairs, as before a removal; remove that folder"):
        write_tars(listed, out, samples=5)


def test_numbers_of_new_samples_and_keys_of_tars_are_told_apart(tmp_path):
    """Keys of img2dataset have nine digits, as the numbers have; a tar of ours has keys with numbers before them."""
    loose = tmp_path / "loose"
    loose.mkdir()
    for number in range(3):
        (loose / f"{number}.png").write_bytes(png(50 + number))
    keys = [f"{number:09d}" for number in range(3)]
    for name, some in (("a", [*keys, f"1/{keys[0]}"]), ("b", keys)):
        shard(tmp_path / f"{name}.tar", {f"{key}.png": png(10 + at) for at, key in enumerate(some)})
    paths = [loose, *(tmp_path / f"{name}.tar" for name in "ab")]
    sources = sources_of(tmp_path, *paths)
    tar_ids = [f"a:{key}" for key in (*keys, f"1/{keys[0]}")] + [f"b:{key}" for key in keys]
    weights = dict.fromkeys([*tar_ids, *(f"{loose}/{n}.png" for n in range(3))], 1.0)
    for order in (sources, sources[::-1]):
        out = ShardPlace(str(tmp_path / f"out-{order[0].name[-5:]}"))
        write_list(KeptPairs.of([decided(tmp_path / "decisions", weights)]), order, out)
        write_tars(out.path("LIST.parquet"), out)
        images = sorted(sample["png"] for sample in contents(out.path("00000.tar")).values())
        expected = [*range(10, 14), *range(10, 13), *range(50, 53)]
        assert images == sorted(png(number) for number in expected)


def test_a_list_is_there_at_every_moment(tmp_path, tars, monkeypatch):
    out, sources = ShardPlace(str(tmp_path / "out")), sources_of(tmp_path, tars)
    write_list(KeptPairs.of([decided(tmp_path / "first", {"a:0001": 1.0})]), sources, out)
    before = (tmp_path / "out" / "LIST.parquet").read_bytes()
    kept = KeptPairs.of([decided(tmp_path / "second", {"a:0002": 1.0})])
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr("os.replace", lambda *paths: 1 / 0)
        write_list(kept, sources, out)
    assert (tmp_path / "out" / "LIST.parquet").read_bytes() == before
    pq.write_table(pa.table({"id": ["b:0001"], "caption": ["x"]}), tmp_path / "captions.parquet")
    with pytest.raises(DataError, match="captions of none of these pairs"):
        write_list(kept, sources, out, captions=[str(tmp_path / "captions.parquet")])
    assert (tmp_path / "out" / "LIST.parquet").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["LIST.parquet"]


def test_images_of_parquet_files_and_folders_become_tars_with_their_captions(tmp_path):
    table = pa.table(
        {"uid": [f"u{n}" for n in range(6)], "jpg": [png(n) for n in range(6)], "text": [f"row {n}" for n in range(6)]}
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    folder = tmp_path / "loose"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(50 + number))
        (folder / f"{number}.txt").write_text(f"loose {number}")
    sources = sources_of(tmp_path, tmp_path / "rows.parquet", folder)
    weights = {"u1": 1.0, "u4": 1.0, f"{folder}/2.png": 2.0}
    kept = KeptPairs.of([decided(tmp_path / "decisions", weights)])
    out = ShardPlace(str(tmp_path / "out"))
    write_list(kept, sources, out)
    write_tars(tmp_path / "out" / "LIST.parquet", out)
    made = contents(tmp_path / "out" / "00000.tar")
    assert made["000000000"] == {"png": png(1), "txt": b"row 1", "json": b'{"id": "u1"}'}
    assert made["000000001"]["png"] == png(4) and made["000000002"]["png"] == png(52)
    with pytest.raises(DataError, match=r"rows.parquet holds images in groups of rows.*write tars"):
        read_pairs(tmp_path / "out" / "LIST.parquet")
    write_list(KeptPairs.of([decided(tmp_path / "alone", {f"{folder}/{n}.png": n for n in (1, 2)})]), sources[1:], out)
    pairs = read_pairs(tmp_path / "out" / "LIST.parquet", split="train")
    assert [(pair.id, pair.captions) for pair in pairs] == [("1.png", ("loose 1",)), ("2.png", ("loose 2",))]
    assert pairs.weights.tolist() == [1, 2] and pairs.load_image(1)[0, 0, 0] == 52


def test_the_array_is_that_of_datacomp(tmp_path):
    ids = ["ffffffffffffffff0000000000000001", "0000000000000002ffffffffffffffff", "0000000000000002000000000000000a"]
    kept = KeptPairs.of([decided(tmp_path / "decisions", dict.fromkeys(ids, 1.0))])
    assert write_uids(kept, ShardPlace(str(tmp_path))) == 3
    array = np.load(tmp_path / "uids.npy")
    assert array.dtype == np.dtype("u8,u8") and np.array_equal(array, np.sort(array))
    assert [f"{upper:016x}{lower:016x}" for upper, lower in array.tolist()] == sorted(ids)
    short = KeptPairs.of([decided(tmp_path / "short", {"00c": 1.0})])
    with pytest.raises(DataError, match="32 hexadecimal digits, and '00c' is not"):
        write_uids(short, ShardPlace(str(tmp_path)))


def test_what_is_in_no_source_is_refused_and_labels_with_colons_are_told_apart(tmp_path, tars):
    sources = sources_of(tmp_path, tars)
    kept = KeptPairs.of([decided(tmp_path / "decisions", {"a:0003": 1.0, "c:0001": 1.0})])
    with pytest.raises(DataError, match=r"1 of 2 pairs that are kept are in none of the sources \(c:0001\)"):
        write_list(kept, sources, ShardPlace(str(tmp_path / "out")))
    assert not (tmp_path / "out" / "LIST.parquet").exists()
    with pytest.raises(DataError, match="nothing is kept"):
        KeptPairs.of([decided(tmp_path / "none", {}, dropped=["a:0003"])])
    with pytest.raises(DataError, match="no decisions in it"):
        KeptPairs.of([ShardPlace(str(tars))])
    kept = KeptPairs.of([decided(tmp_path / "colons", {"a:0003": 1.0, "a:b:0004": 1.0})])
    shard(tmp_path / "x" / "a:b.tar", simple(5))
    shard(tmp_path / "x" / "a.tar", simple(5))
    write_list(kept, sources_of(tmp_path, tmp_path / "x"), ShardPlace(str(tmp_path / "out")))
    rows = list(list_rows(tmp_path / "out" / "LIST.parquet"))
    lies = {row["id"]: (row["source"].rpartition("/")[2], row["key"]) for row in rows}
    assert lies == {"a:0003": ("a.tar", "0003"), "a:b:0004": ("a:b.tar", "0004")}


def test_a_list_of_others_or_one_that_leads_away_is_refused(tmp_path, tars):
    pq.write_table(pa.table({"id": ["a"], "weight": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other.parquet: not a list of pairs"):
        read_pairs(tmp_path / "other.parquet")
    out = ShardPlace(str(tmp_path / "out"))
    write_list(KeptPairs.of([decided(tmp_path / "decisions", {"a:0003": 1.0})]), sources_of(tmp_path, tars), out)
    table = pq.read_table(tmp_path / "out" / "LIST.parquet")
    for source, problem in (("../pool/a.tar", "leaves the folder"), ("/etc/passwd", "neither a tar nor an image")):
        changed = table.set_column(2, "source", pa.array([source]))
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), tmp_path / "out" / "bad.parquet")
        with pytest.raises(DataError, match=problem):
            read_pairs(tmp_path / "out" / "bad.parquet")
    for weight in (-1.0, float("nan"), 0.0):
        changed = table.set_column(1, "weight", pa.array([weight], pa.float32()))
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), tmp_path / "out" / "bad.parquet")
        with pytest.raises(DataError, match="weights must be numbers"):
            read_pairs(tmp_path / "out" / "bad.parquet")
    (tmp_path / "out" / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_pairs(tmp_path / "out" / "bad.parquet")


def test_a_sample_that_is_gone_is_told(tmp_path, tars):
    out = ShardPlace(str(tmp_path / "out"))
    weights = {"a:0003": 1.0, "a:0404": 1.0}
    write_list(KeptPairs.of([decided(tmp_path / "decisions", weights)]), sources_of(tmp_path, tars), out)
    pairs = read_pairs(tmp_path / "out" / "LIST.parquet", split="train")
    assert len(pairs) == 1 and pairs.total == 2 and pairs.skipped == [("a.tar:0404", "no such sample in the tar")]
    with pytest.raises(DataError, match=r"1 samples that are kept are not in it \(0404\)"):
        write_tars(tmp_path / "out" / "LIST.parquet", out)
    assert not list((tmp_path / "out").glob("*.tar"))


def test_lists_below_their_sources_can_be_moved_together(tmp_path):
    shard(tmp_path / "set" / "pool.tar", simple(4))
    kept = KeptPairs.of([decided(tmp_path / "decisions", {"pool:0002": 1.0})])
    write_list(kept, sources_of(tmp_path, tmp_path / "set" / "pool.tar"), ShardPlace(str(tmp_path / "set")))
    (tmp_path / "set").rename(tmp_path / "moved")
    assert read_pairs(tmp_path / "moved" / "LIST.parquet", split="train").load_image(0)[0, 0, 0] == 2


def test_ids_are_found_by_their_hashes():
    ids = pa.array([f"id {number}" for number in range(5000)])
    assert Positions(ids).of(["id 17", "id", "id 4999"]).tolist() == [17, -1, 4999]
    assert Positions(ids[:0]).of(["id 17"]).tolist() == [-1] and len(Positions(ids).of([])) == 0


def test_several_decisions_keep_what_all_of_them_keep_and_weights_multiply(tmp_path):
    first = decided(tmp_path / "first", {f"{n:03d}": 0.5 for n in range(20)}, dropped=["900"])
    second = decided(tmp_path / "second", {f"{n:03d}": 1 + n for n in range(0, 40, 3)})
    kept = KeptPairs.of([first, second])
    assert kept.ids.to_pylist() == [f"{n:03d}" for n in range(0, 20, 3)]
    assert kept.weights.tolist() == [0.5 * (1 + n) for n in range(0, 20, 3)]
    twice = decided(tmp_path / "twice", {"a": 1.0})
    shutil.copy(tmp_path / "twice" / "part-00000000.parquet", tmp_path / "twice" / "part-00000001.parquet")
    with pytest.raises(DataError, match="the id 'a' occurs twice"):
        KeptPairs.of([twice])
    (tmp_path / "twice" / "part-00000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"part-00000001.parquet: not a part of decisions"):
        KeptPairs.of([twice])


def test_members_come_with_their_headers(tmp_path):
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a" * 150 + ".txt", ".hidden.txt"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 2, 77
            archive.addfile(info, io.BytesIO(b"hi"))
    ((key, info, content),) = [(k, i, c.read()) for k, i, c in members_of(str(tmp_path / "long.tar"))]
    assert key == "a" * 150 and info.mtime == 77 and content == b"hi"
