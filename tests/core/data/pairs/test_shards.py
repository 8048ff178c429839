"""WebDataset shards: samples read where they lie, a kept index, and nothing trusted that a tar file says."""

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tar_shards import png, shard, simple

from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.images import decode_bytes
from vladapt.core.data.pairs import shard_index as shard_index_module
from vladapt.core.data.pairs.pair_splits import assign_pair_splits
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.errors import ConfigError, DataError


def captions(pairs):
    return {pair.id: pair.captions for pair in pairs}


def indices_kept():
    return sorted((FileHashes().root / "shards").glob("*.parquet"))


def test_samples_are_grouped_by_key_wherever_they_stand(tmp_path):
    members = {
        "b/x.y.jpg": png(1),  # the extension begins at the first dot: no image
        "1.txt": "one",
        "a/2.JPG": png(2),
        "1.png": png(1),
        "a/2.json": json.dumps({"caption": "two", "negatives": ["zwei"], "split": "val", "label": "cat", "url": "u"}),
        "3.webp": png(3),
        "3.txt": " three ",
        "3.json": json.dumps({"caption": "three", "text": "other"}),
        "3.cls": "7",
        "4.jpeg": png(4),
        "4.json": '["four", "vier"]',
        "5.img_content": png(5),
        "5.caption": "five",
    }
    pairs = read_pairs(shard(tmp_path / "s.tar", members))
    assert captions(pairs) == {
        "s.tar:1": ("one",),
        "s.tar:a/2": ("two",),
        "s.tar:3": ("three",),
        "s.tar:4": ("four", "vier"),
        "s.tar:5": ("five",),
    }
    assert pairs[1].texts == {"negative": ("zwei",)} and pairs[1].split == "val"
    assert pairs.class_names == ("7", "cat") and pairs.labels.tolist() == [-1, 1, 0, -1, -1]


def test_images_are_read_from_their_bytes_in_the_file(tmp_path):
    path = shard(tmp_path / "s.tar", simple(5))
    pairs = read_pairs(path)
    pair = pairs[3]
    assert path.read_bytes()[pair.offset : pair.offset + pair.size] == png(3) == pairs.image_bytes(3)
    assert pair.source == str(path) and pairs.image_sizes(np.array([3]))[0] == len(png(3))
    assert np.array_equal(pairs.load_image(3), decode_bytes(png(3), "x"))
    again = pickle.loads(pickle.dumps(pairs.select([4])))
    assert again[0].id == "s.tar:0004" and again.load_image(0)[0, 0, 0] == 4


def test_several_shards_are_one_set(tmp_path):
    for number in range(12):
        shard(tmp_path / f"s-{number:02d}.tar", simple(3, start=3 * number))
    folder, braces = read_pairs(tmp_path), read_pairs(tmp_path / "s-{00..11}.tar")
    assert len(folder) == folder.total == 36 and list(folder) == list(braces)
    assert [pair.captions[0] for pair in folder] == [f"picture {number}" for number in range(36)]
    assert folder[35].id == "s-11.tar:0035" and folder.load_image(35)[0, 0, 0] == 35
    assert [len(folder.split(name)) for name in folder.splits] == [28, 4, 4]
    assert len(read_pairs(tmp_path / "s-{03,10}.tar")) == 6


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("s-{0..2}.tar", "2 of 3 files are missing, the first is .*s-1.tar"),
        ("s-{0..}.tar", "braces {0..} mean nothing"),
        ("s-{2..0}.tar", "mean nothing"),
        ("s-{0..99999999}.tar", "mean nothing"),
        ("s-{0..999}{0..999}{0..9}.tar", "more than 1,000,000 files"),
    ],
)
def test_braces_that_do_not_work_are_refused(tmp_path, pattern, match):
    shard(tmp_path / "s-0.tar", simple(1))
    with pytest.raises(DataError, match=match):
        read_pairs(tmp_path / pattern)


def test_names_of_shards_tell_the_split_where_they_tell_several(tmp_path):
    shard(tmp_path / "a" / "x-train-00.tar", simple(2))
    shard(
        tmp_path / "a" / "x-val-00.tar", simple(1, start=5) | {"9.png": png(), "9.json": '{"text":"x","split":"test"}'}
    )
    assert [pair.split for pair in read_pairs(tmp_path / "a")] == ["train", "train", "val", "test"]
    alone = read_pairs(tmp_path / "a" / "x-val-00.tar")
    assert [pair.split for pair in alone] == ["train", "test"]
    shard(tmp_path / "b" / "test" / "0.tar", simple(1))
    shard(tmp_path / "b" / "train" / "0.tar", simple(1))
    pairs = read_pairs(tmp_path / "b")
    assert {pair.id: pair.split for pair in pairs} == {"test/0.tar:0000": "test", "train/0.tar:0000": "train"}


def test_the_index_is_kept_and_used(tmp_path, monkeypatch):
    path = shard(tmp_path / "s.tar", simple(3) | {"9.png": png()})
    first = read_pairs(path)
    assert len(indices_kept()) == 1
    monkeypatch.setattr(shard_index_module, "_walk", lambda path: pytest.fail("walked again"))
    second = read_pairs(path)
    assert list(first) == list(second) and first.skipped == second.skipped == [
        ("s.tar:9", "no caption (.txt, or .json with a caption)")
    ]


def test_a_changed_shard_is_indexed_anew(tmp_path):
    path = shard(tmp_path / "s.tar", simple(3))
    read_pairs(path)
    shard(path, simple(8))
    assert len(read_pairs(path)) == 8 and len(indices_kept()) == 2


def test_a_shard_in_the_place_of_another_is_indexed_anew(tmp_path, put_in_place):
    path, stranger = (
        shard(tmp_path / "s.tar", simple(3)),
        shard(tmp_path / "t.tar", simple(3) | {"0000.txt": "another"}),
    )
    read_pairs(path)
    put_in_place(stranger, path)
    assert ("another",) in {pair.captions for pair in read_pairs(path)}


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:300] + b"\xff" * 60 + b[360:]]
)
def test_a_damaged_index_is_made_anew(tmp_path, damage):
    path = shard(tmp_path / "s.tar", simple(3))
    first = read_pairs(path)
    (kept,) = indices_kept()
    intact = kept.read_bytes()
    kept.write_bytes(damage(intact))
    assert list(read_pairs(path)) == list(first) and len(kept.read_bytes()) == len(intact)


def test_a_shard_that_is_cut_short_gives_what_is_whole(tmp_path):
    path = shard(tmp_path / "s.tar", simple(6))
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmember("0003.png")
    path.write_bytes(whole[: third.offset_data + 20])
    pairs = read_pairs(path)
    assert len(pairs) == 3 and pairs.skipped == [("s.tar:0003.png", "cut off where the file ends")]
    assert any("s.tar: it ends within a member; it is cut short" in note for note in pairs.notes)
    path.write_bytes(whole[: third.offset])  # at the border of two members
    pairs = read_pairs(path)
    assert len(pairs) == 3 and any("no end mark" in note for note in pairs.notes)
    path.write_bytes(whole[: third.offset + 100])  # within a header
    pairs = read_pairs(path)
    assert len(pairs) == 3 and any("cut short" in note for note in pairs.notes)


def test_a_damaged_header_is_told(tmp_path):
    path = shard(tmp_path / "s.tar", simple(6))
    with tarfile.open(path) as archive:
        third = archive.getmember("0003.png").offset
    content = bytearray(path.read_bytes())
    content[third : third + 200] = b"\x07" * 200
    path.write_bytes(content)
    pairs = read_pairs(path)
    assert len(pairs) == 3 and any(f"no end mark at byte {third}" in note for note in pairs.notes)


def test_a_complete_shard_has_no_such_note(tmp_path):
    assert not any("cut short" in note for note in read_pairs(shard(tmp_path / "s.tar", simple(2))).notes)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 11_000), noise=st.binary(min_size=1, max_size=40), cut=st.integers(0, 3000))
def test_no_damage_ends_in_anything_but_pairs_or_one_line(tmp_path, place, noise, cut):
    path = shard(tmp_path / "s.tar", simple(4))
    content = bytearray(path.read_bytes())
    content[place : place + len(noise)] = noise
    path.write_bytes(content[: len(content) - cut])
    try:
        pairs = read_pairs(path)
    except DataError as error:
        assert "\n" not in str(error)
        return
    for row in range(len(pairs)):
        assert pairs[row].captions and len(pairs.image_bytes(row)) == pairs[row].size


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_members_that_could_do_harm_are_skipped(tmp_path):
    members = {
        "/etc/1.png": png(),
        "/etc/1.txt": "x",
        "../2.png": png(),
        "a/../../3.txt": "x",
        "C:\\4.png": png(),
        "5.png": special("5.png", tarfile.SYMTYPE, "/etc/passwd"),
        "6.png": special("6.png", tarfile.LNKTYPE, "ok.png"),
        "7.png": special("7.png", tarfile.CHRTYPE),
        "8.png": special("8.png", tarfile.FIFOTYPE),
        "folder": special("folder", tarfile.DIRTYPE),
        ".hidden.png": png(),
        "README": "no extension",
        "ok.png": png(),
        "ok.txt": "fine",
    }
    pairs = read_pairs(shard(tmp_path / "s.tar", members))
    assert captions(pairs) == {"s.tar:ok": ("fine",)}
    reasons = dict(pairs.skipped)
    assert [reasons[f"s.tar:{name}"] for name in ("/etc/1.png", "../2.png", "a/../../3.txt", "C:\\4.png")] == [
        "a path that leaves the folder, not read"
    ] * 4
    assert reasons["s.tar:5.png"] == reasons["s.tar:6.png"] == "a link, not followed"
    assert reasons["s.tar:7.png"] == reasons["s.tar:8.png"] == "a device, not read"
    assert reasons["s.tar:README"].startswith("has no extension") and len(pairs.skipped) == 10
    assert {file.name for file in Path(tmp_path).iterdir()} == {"s.tar", "vladapt-cache"}  # nothing was unpacked


def test_samples_that_cannot_be_used_are_listed(tmp_path):
    members = simple(1) | {
        "a.png": png(),
        "b.txt": "x",
        "c.png": b"",
        "c.txt": "x",
        "d.png": png(),
        "d.txt": b"\xff\xfe",
        "e.png": png(),
        "e.json": "{",
        "f.png": png(),
        "f.txt": "x" * ((1 << 20) + 1),
        "g.png": png(),
        "g.jpg": png(),
        "g.txt": "g",
        "h.png": png(),
        "h.json": '{"caption": {"a": 1}}',
    }
    pairs = read_pairs(shard(tmp_path / "s.tar", members))
    assert set(captions(pairs)) == {"s.tar:0000", "s.tar:g"}
    reasons = {name.removeprefix("s.tar:"): reason for name, reason in pairs.skipped}
    assert reasons == {
        "a": "no caption (.txt, or .json with a caption)",
        "b": "no image",
        "c": "empty image (0 bytes)",
        "d": "its .txt is not UTF-8 text",
        "e": reasons["e"],
        "f": "no caption (.txt, or .json with a caption)",
        "f.txt": "a text of more than 1048576 bytes",
        "g.jpg": "a second image of its sample",
        "h": 'caption is not a text: {"a": 1}',
    }
    assert reasons["e"].startswith("its .json is not valid JSON") and pairs.total == 2 + len(pairs.skipped)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"empty file \(0 bytes\)"),
        (b"\x1f\x8b" + b"x" * 600, "packed"),
        (b"x" * 5000, "not a tar file"),
        (b"x", "not a tar"),
    ],
)
def test_what_is_no_plain_tar_file_is_refused(tmp_path, content, match):
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(DataError, match=rf"s.tar: {match}"):
        read_pairs(tmp_path / "s.tar")


def test_a_shard_without_samples_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"s.tar: holds no image-text pair"):
        read_pairs(shard(tmp_path / "s.tar", {}))
    with pytest.raises(DataError, match=r"none of its 1 rows can be used; the first is t.tar:1 \(no caption"):
        read_pairs(shard(tmp_path / "t.tar", {"1.png": png()}))


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"s.tar:1: split 'trian'; did you mean train"):
        read_pairs(shard(tmp_path / "s.tar", {"1.png": png(), "1.json": '{"text": "x", "split": "trian"}'}))


def test_columns_are_no_option_of_shards(tmp_path):
    with pytest.raises(ConfigError, match="image_column does not apply to tar shards"):
        read_pairs(shard(tmp_path / "s.tar", simple(1)), image_column="x")


def test_links_out_of_the_folder_are_no_shards(tmp_path):
    shard(tmp_path / "other" / "s.tar", simple(1))
    shard(tmp_path / "set" / "s.tar", simple(1))
    (tmp_path / "set" / "t.tar").symlink_to(tmp_path / "other" / "s.tar")
    assert set(captions(read_pairs(tmp_path / "set"))) == {"s.tar:0000"}


def test_copies_in_shards_stay_together_when_compared(tmp_path):
    members = {}
    for number in range(40):
        members |= {f"{number:02d}.png": png(number // 2), f"{number:02d}.txt": "x"}
    pairs = read_pairs(shard(tmp_path / "s.tar", members))
    assigned = assign_pair_splits(pairs.with_split([""] * 40), hashes=FileHashes())
    assert all(assigned[2 * i].split == assigned[2 * i + 1].split for i in range(20))


def test_long_names_and_other_tar_formats_are_read(tmp_path):
    name = "folder/" + "n" * 180
    for number, form in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        path = shard(tmp_path / f"{number}.tar", {f"{name}.png": png(), f"{name}.txt": "x"}, format=form)
        assert captions(read_pairs(path)) == {f"{number}.tar:{name}": ("x",)}
