"""File hashes are right, remembered, and shared without harm."""

import hashlib
import json
import os
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from forked import start

from vladapt.core.contracts.items import Item
from vladapt.core.data import file_hashes
from vladapt.core.data.file_hashes import MEMORIES, FileHashes, memory_of
from vladapt.core.data.verify import content_key
from vladapt.core.errors import DataError
from vladapt.core.runtime import reading


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """As if the files of these tests had been there for a while."""
    monkeypatch.setattr(reading, "SETTLED_NS", -1)


@pytest.fixture
def counted(monkeypatch):
    """Paths that were really read."""
    read, real = [], file_hashes.sha256_of
    monkeypatch.setattr(file_hashes, "sha256_of", lambda path: read.append(str(path)) or real(path))
    return read


def test_digest_is_the_files_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    assert FileHashes(tmp_path / "cache").sha256(tmp_path / "a") == hashlib.sha256(b"x" * (3 << 20)).hexdigest()


def test_threads_that_start_together_lose_no_hash(tmp_path, monkeypatch):
    files = [tmp_path / str(i) for i in range(8)]
    for file in files:
        file.write_text(file.name)
    hashes, read = FileHashes(tmp_path / "cache"), file_hashes.read_records
    hashes.sha256(files[0])  # there is something to read
    delays = iter(range(8))
    monkeypatch.setattr(file_hashes, "read_records", lambda path: (time.sleep(0.02 * next(delays)), read(path))[1])
    fresh = FileHashes(tmp_path / "cache")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(fresh.sha256, files))
    assert found == [hashlib.sha256(file.name.encode()).hexdigest() for file in files]


def test_a_second_object_reads_no_file_again(tmp_path, counted):
    (tmp_path / "a").write_bytes(b"abc")
    first = FileHashes(tmp_path / "cache").sha256(tmp_path / "a")
    assert FileHashes(tmp_path / "cache").sha256(tmp_path / "a") == first
    assert len(counted) == 1


def test_a_changed_file_is_hashed_anew(tmp_path):
    file, hashes = tmp_path / "a", FileHashes(tmp_path / "cache")
    file.write_bytes(b"abc")
    before = hashes.sha256(file)
    file.write_bytes(b"abd")
    os.utime(file, ns=(1, 1))
    assert hashes.sha256(file) != before


def replaced(file, stranger):
    os.replace(stranger, file)


def moved_away_and_copied(file, stranger):
    file.rename(file.with_name("moved away"))
    shutil.copy2(stranger, file)


def written_over(file, stranger):
    shutil.copy2(stranger, file)


def linked(file, stranger):
    file.unlink()
    os.link(stranger, file)


def extracted(file, stranger):
    with tarfile.open(file.with_name("an.tar"), "w") as tar:
        tar.add(stranger, file.name)
    with tarfile.open(file.with_name("an.tar")) as tar:
        tar.extractall(file.parent, filter="data")


@pytest.mark.parametrize("replace", [replaced, moved_away_and_copied, written_over, linked, extracted])
def test_another_file_of_equal_size_and_time_is_hashed_anew(tmp_path, replace):
    file, stranger = tmp_path / "a", tmp_path / "b"
    for path, content in ((file, b"abc"), (stranger, b"abd")):
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
    FileHashes(tmp_path / "cache").sha256(file)
    time.sleep(0.02)  # longer than the step of the file system's clock
    replace(file, stranger)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (3, 10**18)
    fresh = FileHashes(tmp_path / "cache")
    assert fresh.remembered(file) is None and fresh.sha256(file) == hashlib.sha256(b"abd").hexdigest()


def test_a_file_whose_next_change_might_not_show_is_not_remembered(tmp_path, counted, monkeypatch):
    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr(reading, "SETTLED_NS", 10**12)
    FileHashes(tmp_path / "cache").sha256(tmp_path / "a")
    FileHashes(tmp_path / "cache").sha256(tmp_path / "a")
    monkeypatch.setattr(reading, "SETTLED_NS", -1)
    without_inode = os.stat_result([0 if n == 1 else value for n, value in enumerate(os.stat(tmp_path / "a"))])
    FileHashes(tmp_path / "cache").sha256(tmp_path / "a", without_inode)
    FileHashes(tmp_path / "cache").sha256(tmp_path / "a", without_inode)
    assert len(counted) == 4


def test_records_without_an_inode_cost_one_hash(tmp_path, counted):
    file, hashes = tmp_path / "a", FileHashes(tmp_path / "cache")
    file.write_bytes(b"abc")
    memory = memory_of(hashes.path, str(file))
    memory.parent.mkdir(parents=True)
    record = [str(file), 3, file.stat().st_mtime_ns, hashlib.sha256(b"abd").hexdigest()]  # of what was there once
    memory.write_text("\n" + json.dumps(record))
    for _ in range(2):
        assert FileHashes(tmp_path / "cache").sha256(file) == hashlib.sha256(b"abc").hexdigest()
    assert len(counted) == 1


def test_damaged_lines_are_ignored_and_hashed_again(tmp_path, counted):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    hashes = FileHashes(tmp_path / "cache")
    hashes.sha256(tmp_path / "a")
    memory = memory_of(hashes.path, str(tmp_path / "a"))
    whole = memory.read_bytes()
    memory.write_bytes(b'\n{"not": "a record"}\n\xff\xfe\n' + whole[: len(whole) // 2])  # killed while writing
    assert FileHashes(tmp_path / "cache").sha256(tmp_path / "b") == hashlib.sha256(b"b").hexdigest()
    FileHashes(tmp_path / "cache").sha256(tmp_path / "a")
    FileHashes(tmp_path / "cache").sha256(tmp_path / "b")
    assert [os.path.basename(p) for p in counted] == ["a", "b", "a"]


def test_two_processes_write_one_memory(tmp_path):
    names = [f"{i}.bin" for i in range(60)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    code = (
        "import sys; from pathlib import Path; from vladapt.core.data.file_hashes import FileHashes;"
        "h = FileHashes(Path(sys.argv[1]));"
        "from vladapt.core.runtime import reading; reading.SETTLED_NS = -1;"
        "[h.sha256(p) for p in sys.argv[2:]]"
    )
    command = ["-c", code, tmp_path / "cache", *(tmp_path / n for n in names)]
    processes = [start(command) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    records = file_hashes.read_records(memory_of(FileHashes(tmp_path / "cache").path, str(tmp_path / "0.bin")))
    assert {os.path.basename(k[0]): v for k, v in records.items()} == {
        n: hashlib.sha256(n.encode()).hexdigest() for n in names
    }


def test_a_command_reads_the_memories_of_its_folders_alone(tmp_path, monkeypatch):
    folders = [tmp_path / f"{number}" for number in range(40)]
    for folder in folders:
        folder.mkdir()
        (folder / "a").write_text(folder.name)
        FileHashes(tmp_path / "cache").sha256(folder / "a")
    files = {memory_of(tmp_path / "cache" / "file-hashes", str(folder / "a")) for folder in folders}
    assert set((tmp_path / "cache" / "file-hashes").iterdir()) == files and 20 < len(files) < MEMORIES
    read, real = [], file_hashes.read_records
    monkeypatch.setattr(file_hashes, "read_records", lambda file: read.append(file) or real(file))
    hashes = FileHashes(tmp_path / "cache")
    assert hashes.remembered(folders[7] / "a") and hashes.remembered(folders[7] / "none") is None
    assert hashes.remembered(folders[7] / "a") and read == [memory_of(hashes.path, str(folders[7] / "a"))]


def test_the_one_file_of_older_versions_is_divided(tmp_path, counted):
    """By whoever comes first; where nobody may write, files are hashed again."""
    records = []
    for name in ("x/a", "y/b", "z/c"):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(name)
        records.append([*file_hashes._identity(file, os.stat(file)), hashlib.sha256(name.encode()).hexdigest()])
    (tmp_path / "cache").mkdir()
    old = tmp_path / "cache" / "file-hashes.jsonl"
    old.write_text("".join("\n" + json.dumps(record) for record in records) + '\n["torn')
    for _ in range(2):
        hashes = FileHashes(tmp_path / "cache")
        assert [hashes.sha256(record[0]) for record in records] == [record[-1] for record in records]
    assert not counted and [path.name for path in (tmp_path / "cache").iterdir()] == ["file-hashes"]


def test_default_folder_is_the_cache_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "elsewhere"))
    assert FileHashes().root == tmp_path / "elsewhere"


def test_unreadable_file_and_unwritable_memory_are_data_errors(tmp_path):
    with pytest.raises(DataError, match=r"none\.png"):
        FileHashes(tmp_path / "cache").sha256(tmp_path / "none.png")
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="VLADAPT_CACHE"):
        FileHashes(tmp_path / "file" / "cache").sha256(tmp_path / "a")


def test_content_key_tells_bytes_and_part_not_name(tmp_path):
    for name, content in [("a", b"same"), ("b", b"same"), ("c", b"other")]:
        (tmp_path / name).write_bytes(content)
    hashes = FileHashes(tmp_path / "cache")

    def key(name, **decode):
        return content_key(Item(id=name, source=tmp_path / name, decode=decode), hashes)

    assert key("a") == key("b") != key("c")
    assert key("a", frame=1, axis=0) == key("b", axis=0, frame=1) != key("a", frame=2, axis=0)
    assert key("a", digest="d1", index=0) == key("c", digest="d1", index=0) != key("a", index=0)
