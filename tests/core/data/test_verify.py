"""Unreadable samples are found before anything is trained, and the verdict is remembered."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.contracts.items import DomainData, Item
from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.detect import read_any
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.verify import check_skipped, check_tolerated, count_shown_before, drop_unreadable
from vladapt.core.errors import DataError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def test_a_truncated_image_is_left_out_and_listed(folder):
    broken = folder / "a" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = drop_unreadable(read_class_folders(folder), FileHashes())
    assert len(data.items) == 39
    [(name, reason)] = data.skipped
    assert "0.png" in name and reason and "\n" not in reason


def test_more_than_five_percent_stops(folder):
    for name in ("a/0.png", "a/2.png", "b/1.png"):
        (folder / name).write_text("no image")
    with pytest.raises(DataError, match=r"3 of 40 images cannot be read, more than 5%; the first is .*0\.png"):
        drop_unreadable(read_class_folders(folder), FileHashes())


@pytest.mark.parametrize(("bad", "total", "stops"), [(1, 20, False), (2, 39, True), (5, 100, False), (6, 100, True)])
def test_the_limit_is_five_percent(bad, total, stops):
    skipped = [(str(i), "broken") for i in range(bad)]
    if stops:
        with pytest.raises(DataError):
            check_skipped(skipped, total)
    else:
        check_skipped(skipped, total)


@pytest.mark.parametrize(
    ("bad", "total", "tolerate", "stops"),
    [(1, 2, 0.05, False), (1, 1000, 0.0, True), (1, 1, 1.0, True), (3, 4, 1.0, False), (4, 4, 1.0, True)],
)
def test_one_is_always_tolerated_but_with_0_and_never_all(bad, total, tolerate, stops):
    skipped = [(str(i), "broken") for i in range(bad)]
    if stops:
        with pytest.raises(DataError, match=f"{bad} of {total} images cannot be read"):
            check_skipped(skipped, total, tolerate)
    else:
        check_skipped(skipped, total, tolerate)


def _set(readable, unreadable, **fields):
    items = [Item(name, Path(name)) for name in readable]
    return DomainData(items, (), lambda item: None, skipped=[(name, "broken") for name in unreadable], **fields)


def test_all_samples_of_a_file_count_as_one():
    volumes = [f"{n}.nii#{k}" for n in range(4) for k in range(1, 11)]
    check_tolerated(_set(volumes[10:], volumes[:10]))  # one volume of four, a quarter of the slices
    with pytest.raises(DataError, match="2 of 4 images cannot be read, more than 5%"):
        check_tolerated(_set(volumes[20:], volumes[:20]))
    stretches = [f"{n}.mp4#t={k},{k + 64.5}" for n in range(3) for k in range(0, 640, 64)]
    with pytest.raises(DataError, match="2 of 5 clips cannot be read, more than 30%"):
        check_tolerated(_set(stretches, ["a.mp4", "b.mp4"], kind="clips", tolerate=0.3))
    check_tolerated(_set(stretches, ["a.mp4", "b.mp4"], tolerate=0.4))


def test_a_file_that_can_be_read_in_part_counts_in_part():
    rows = [f"{n}.parquet#{k}" for n in range(3) for k in range(100)]
    check_tolerated(_set(rows, ["0.parquet#500", "1.parquet#500", "2.parquet#500"]))  # 3 of 303
    with pytest.raises(DataError, match="10 of 100 images cannot be read"):  # of the only file its samples count
        check_tolerated(_set(rows[:90], rows[90:100]))


def test_what_is_skipped_later_counts_once():
    data = _set([f"{n}.png" for n in range(20)], ["a.png"], tolerate=0.05)
    check_tolerated(data, [("a.png", "broken")])
    with pytest.raises(DataError, match="2 of 21 images"):
        check_tolerated(data, [("0.png", "gone")])


def test_a_second_check_decodes_nothing(folder, monkeypatch):
    data = read_class_folders(folder)
    drop_unreadable(data, FileHashes())

    def fails(item):
        raise AssertionError("decoded again")

    data.load = fails
    assert len(drop_unreadable(data, FileHashes()).items) == 40


def test_changed_bytes_are_judged_anew(folder):
    drop_unreadable(read_class_folders(folder), FileHashes())
    (folder / "a" / "0.png").write_text("no image")
    assert len(drop_unreadable(read_class_folders(folder), FileHashes()).skipped) == 1


def test_a_limit_is_not_remembered(folder):
    hashes = FileHashes(folder.parent / "cache")
    with pytest.raises(DataError, match=r"the limit is 1 "):
        drop_unreadable(read_any(folder, max_pixels=1), hashes)
    assert not drop_unreadable(read_any(folder), hashes).skipped


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 9 bytes")])
def test_that_memory_was_short_is_not_remembered(folder, error):
    def short(item):
        raise error

    data = read_class_folders(folder)
    with pytest.raises(DataError, match=r"40 of 40 images cannot be read.*more memory than there is; lower --workers"):
        drop_unreadable(replace(data, load=short), FileHashes())
    assert len(drop_unreadable(data, FileHashes()).items) == 40


def test_what_is_remembered_names_no_place(folder):
    (folder / "a" / "bad.png").write_bytes(b"no image")
    hashes = FileHashes(folder.parent / "cache")
    kept = drop_unreadable(read_class_folders(folder), hashes)
    assert kept.skipped == [("a/bad.png", "not an image, despite its name; replace it or leave it out")]


def test_a_file_that_became_a_pipe_is_not_opened(folder):
    data = read_class_folders(folder)
    (folder / "a" / "0.png").unlink()
    os.mkfifo(folder / "a" / "0.png")
    (folder / "a" / "2.png").unlink()
    kept = drop_unreadable(data, FileHashes(folder.parent / "cache"))
    assert len(kept.items) == 38
    assert "a pipe, not a file" in dict(kept.skipped)["a/0.png"] and "No such file" in dict(kept.skipped)["a/2.png"]


def test_a_moment_was_shown_where_its_seconds_meet_and_any_other_digest_where_it_is_the_same():
    before = ["own clip 2 5", "https://a b", "c d e f"]
    assert count_shown_before(["x clip 4.5 inf", "x clip 0 inf", "clip"], before) == 3
    assert count_shown_before(["x clip 5 9", "x other 2 5"], before) == 0
    assert count_shown_before(["https://a b", "c d e f", "https://a"], before) == 2
