"""Tars of a process that was killed as by `kill -9`, which no handler sees: so it is a process of its own."""

import os
import signal
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import run
from tar_shards import shard, simple

from vladapt.core.curation.lists import LIST, KeptPairs, write_list
from vladapt.core.curation.tars import write_tars
from vladapt.core.runtime.files import PARTIAL
from vladapt.core.shards import Manifest, ShardPlace
from vladapt.core.shards.place import STATE

WRITE = """
import os, signal, sys, tarfile
from vladapt.core.curation.tars import write_tars
from vladapt.core.shards import ShardPlace

left = {members}

def addfile(self, *member, original=tarfile.TarFile.addfile):
    global left
    left -= 1
    original(self, *member)
    if left == 0:
        self.fileobj.flush()
        os.kill(os.getpid(), signal.SIGKILL)

def publish(self, partial, name, original=ShardPlace.publish):
    original(self, partial, name)
    if name == {tar!r}:
        os.kill(os.getpid(), signal.SIGKILL)

tarfile.TarFile.addfile, ShardPlace.publish = addfile, publish
write_tars(sys.argv[1], ShardPlace(sys.argv[2]), samples=4)
"""
NAMES = [f"{number:05d}.tar" for number in range(3)]


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A list of ten of twelve pairs, and its tars, written without a break."""
    folder = tmp_path_factory.mktemp("listed")
    tar = shard(folder / "pool.tar", simple(12))
    ids = [f"pool:{number:04d}" for number in range(12)]
    columns = {"id": ids, "keep": [number not in (3, 7) for number in range(12)], "reason": [""] * 12}
    (folder / "decisions").mkdir()
    weights = pa.array([1.0] * 12, pa.float32())
    pq.write_table(pa.table({**columns, "weight": weights}), folder / "decisions" / "part-00000000.parquet")
    sources = Manifest.of([str(tar)], ShardPlace(str(folder / "made")), folder / "cache").sources
    write_list(KeptPairs.of([ShardPlace(str(folder / "decisions"))]), sources, ShardPlace(str(folder)))
    write_tars(folder / LIST, ShardPlace(str(folder / "whole")), samples=4)
    return folder / LIST, folder / "whole"


@pytest.mark.parametrize(
    ("members", "tar", "there"),
    [(0, "00000.tar", 1), (8 + 3, "", 1), (0, "00002.tar", 3)],
    ids=["between two tars", "inside a tar", "before the sizes"],
)
def test_what_was_killed_goes_on_to_the_same_bytes(listed, tmp_path, members, tar, there):
    path, whole = listed
    out = tmp_path / "out"
    killed = run(["-c", WRITE.format(members=members, tar=tar), path, out])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(each.name for each in out.glob("*.tar")) == NAMES[:there]
    assert not (out / "sizes.json").exists()
    left = list((out / STATE).glob(f"{PARTIAL}*"))
    assert len(left) == 1
    for partial in left:
        os.utime(partial, (0, 0))  # as if it had been killed long ago
    made = write_tars(path, ShardPlace(str(out)), samples=4)
    assert not list((out / STATE).glob(f"{PARTIAL}*"))
    assert (made.tars, made.samples, made.before) == (3, 10, there)
    for name in (*NAMES, "sizes.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    with tarfile.open(out / NAMES[2]) as archive:
        assert len(archive.getnames()) == 4
