"""Shards read one after the other: the order of an epoch, what is read of them, what is held out, what is refused."""

import json
import pickle
import tarfile

import numpy as np
import pytest
from forked import run_ranks
from tar_shards import png, shard, simple

from vladapt.core.data.pairs.shard_list import counted, reads_in_a_row, shards_at
from vladapt.core.data.pairs.shard_reader import ShardOrder, ShardReader, ShardRun, count_samples, samples_of
from vladapt.core.data.pairs.shard_set import HeldOut, read_shard_set
from vladapt.core.errors import ConfigError, DataError

COUNTS = [7, 0, 200, 13, 90]


def order(counts=COUNTS, firsts=None, seed=3, block=40):
    counts = np.array(counts)
    return ShardOrder(np.zeros_like(counts) if firsts is None else np.array(firsts), counts, seed, block)


def sequence(order, epoch, begin, end, start=0):
    """(shard, number in it) of each sample in turn."""
    for runs, chosen in order.blocks(epoch, begin, end, start):
        samples = [(run.shard, run.first + i) for run in runs for i in range(run.count)]
        yield from (samples[at] for at in chosen)


def epoch_of(order, streams, epoch=0):
    length = len(order) // streams
    return [list(sequence(order, epoch, v * length, (v + 1) * length)) for v in range(streams)]


@pytest.mark.parametrize("streams", [1, 2, 3, 5])
def test_streams_read_equally_many_samples_and_none_twice(streams):
    every = {(shard, i) for shard, count in enumerate(COUNTS) for i in range(count)}
    parts = epoch_of(order(), streams)
    seen = [sample for part in parts for sample in part]
    assert {len(part) for part in parts} == {310 // streams}
    assert len(seen) == len(set(seen)) and set(seen) <= every and len(every) - len(seen) < streams


def test_each_epoch_has_its_own_order_and_the_same_seed_the_same():
    first, second = (epoch_of(order(), 1, epoch)[0] for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)
    assert first == epoch_of(order(), 1)[0] != epoch_of(order(seed=4), 1)[0]
    assert [shard for shard, _ in first] != sorted(shard for shard, _ in first)
    assert [i for shard, i in first if shard == 2] != sorted(i for shard, i in first if shard == 2)


@pytest.mark.parametrize("start", [0, 1, 39, 40, 41, 100, 154, 155])
def test_a_stream_goes_on_anywhere_as_if_it_had_not_stopped(start):
    whole = list(sequence(order(), 2, 155, 310))
    assert list(sequence(order(), 2, 155, 310, start)) == whole[start:]


def test_what_goes_on_reads_nothing_before_its_block():
    runs = [run for runs, _ in order(block=10).blocks(0, 0, 310, start=305) for run in runs]
    assert sum(run.count for run in runs) <= 10


def test_the_beginnings_of_shards_that_are_held_out_do_not_come():
    held = order(counts=[5, 8], firsts=[2, 0])
    assert set(epoch_of(held, 1)[0]) == {(0, i) for i in range(2, 7)} | {(1, i) for i in range(8)}


def test_the_order_of_ten_million_samples_costs_as_much_as_their_shards():
    """Counted: what is held is an entry per shard, and a stretch is found without those before it."""
    large = order(counts=[10_000] * 1000, block=1000)
    assert len(large) == 10_000_000 and large.firsts.nbytes + large.counts.nbytes <= 16 * 1000
    runs, chosen = next(large.blocks(0, 9_000_000, 9_500_000, start=250_000))
    assert sum(run.count for run in runs) == 1000 and len(chosen) <= 1000


# reading ---------------------------------------------------------------------------------------------------------


def test_samples_come_with_the_bytes_of_images_and_texts_and_nothing_else(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    members = {
        "a/1.JPG": png(1),
        "a/1.txt": "one",
        "a/1.pyd": pickle.dumps(Evil()),
        "a/1.pickle": pickle.dumps(Evil()),
        "2.png": png(2),
        "2.json": json.dumps({"caption": "two", "negatives": ["zwei"]}),
        "2.txt": "x" * ((1 << 20) + 1),
        "only.pyd": pickle.dumps(Evil()),
        "3.txt": "no image",
    }
    path = shard(tmp_path / "s.tar", members)
    found = list(samples_of(str(path)))
    assert [sample.name for sample in found] == ["s.tar:a/1", "s.tar:2", "s.tar:only", "s.tar:3"]
    assert found[0].members.keys() - {""} == {"jpg", "txt"} and found[0].image == png(1)
    assert found[1].texts({}).captions == ["two"] and found[1].texts({}).texts == {"negative": ["zwei"]}
    for broken in found[2:]:
        with pytest.raises(DataError, match="no image"):
            broken.texts({})
    assert count_samples(str(path)) == 4
    for first in range(5):
        assert [sample.name for sample in samples_of(str(path), first)] == [sample.name for sample in found[first:]]


def test_links_and_sparse_files_and_ways_out_are_not_read(tmp_path):
    link = tarfile.TarInfo("1.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    sparse = tarfile.TarInfo("2.png")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
    members = {"1.txt": "one", "l": link, "s": sparse, "../3.png": png(3), "../3.txt": "three"} | simple(5, start=4)
    found = list(samples_of(str(shard(tmp_path / "s.tar", members))))
    assert [(sample.name, sample.image) for sample in found][:2] == [("s.tar:1", None), ("s.tar:0004", png(4))]


def test_a_shard_that_is_cut_short_gives_lost_samples_in_place_of_the_rest(tmp_path):
    path = shard(tmp_path / "s.tar", simple(10))
    path.write_bytes(path.read_bytes()[:7000])
    assert 0 < count_samples(str(path)) < 10
    found = list(ShardReader([str(path)]).read(ShardRun(0, 0, 10)))
    assert len(found) == 10 and not found[0].lost and found[9].lost
    with pytest.raises(DataError, match=r"s.tar: cut short or damaged .* everything after that is lost"):
        found[-1].texts({})


def test_a_shard_with_fewer_samples_than_counted_says_which_is_missing(tmp_path):
    path = shard(tmp_path / "s.tar", simple(3))
    found = list(ShardReader([str(path)]).read(ShardRun(0, 1, 3)))
    assert [sample.lost for sample in found] == ["", "", "s.tar: ends before sample 3"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"\x1f\x8b" + bytes(600), "packed; unpack it"), (b"hello" * 300, "not a tar file")],
)
def test_what_is_no_plain_tar_file_is_refused(tmp_path, content, reason):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        next(samples_of(str(path)))


def test_without_the_library_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    with pytest.raises(ConfigError, match=r"needs webdataset, which is not installed; pip install 'vladapt\[shards\]'"):
        next(samples_of(str(shard(tmp_path / "s.tar", simple(1)))))


def test_a_reader_goes_on_in_an_open_shard_and_back_in_none(tmp_path, monkeypatch):
    from vladapt.core.data.pairs import shard_reader

    paths = [str(shard(tmp_path / f"{i}.tar", simple(6, start=10 * i))) for i in range(2)]
    opened = []
    monkeypatch.setattr(
        shard_reader, "samples_of", lambda shard, first=0: opened.append((shard, first)) or samples_of(shard, first)
    )
    reader = ShardReader(paths)
    names = [
        sample.name
        for run in (ShardRun(0, 1, 2), ShardRun(0, 4, 2), ShardRun(1, 0, 1), ShardRun(1, 1, 1))
        for sample in reader.read(run)
    ]
    assert names == ["0.tar:0001", "0.tar:0002", "0.tar:0004", "0.tar:0005", "1.tar:0010", "1.tar:0011"]
    assert opened == [(paths[0], 1), (paths[1], 0)]


# which shards, how many samples ----------------------------------------------------------------------------------


@pytest.fixture
def five(tmp_path):
    folder = tmp_path / "set"
    for number in range(5):
        shard(folder / f"{number:05d}.tar", simple(8, start=100 * number))
    return folder


def test_shards_are_counted_once_and_the_counts_kept(five, tmp_path, monkeypatch):
    from vladapt.core.data.pairs import shard_list

    shards, said = shards_at(f"{five}/{{00000..00004}}.tar"), []
    assert shards == shards_at(str(five)) and [shard[-9:] for shard in shards[:2]] == ["00000.tar", "00001.tar"]
    assert counted(shards, tmp_path, said.append).tolist() == [8] * 5 and "Counting the samples of 5 shards" in said[0]
    monkeypatch.setattr(shard_list, "count_samples", lambda shard: pytest.fail("counted again"))
    assert counted(shards, tmp_path, said.append).tolist() == [8] * 5 and len(said) == 1


@pytest.mark.parametrize("kind", ["sizes", "index", "stats"])
def test_files_of_counts_beside_the_shards_are_believed(five, tmp_path, monkeypatch, kind):
    from vladapt.core.data.pairs import shard_list

    monkeypatch.setattr(shard_list, "count_samples", lambda shard: pytest.fail("counted"))
    names = [f"{number:05d}.tar" for number in range(5)]
    if kind == "sizes":
        (five / "sizes.json").write_text(json.dumps(dict.fromkeys(names, 7)))
    elif kind == "index":
        (five / "index.json").write_text(json.dumps({"shardlist": [{"url": name, "nsamples": 7} for name in names]}))
    else:
        for name in names:
            (five / name.replace(".tar", "_stats.json")).write_text(json.dumps({"successes": 7}))
    assert counted(shards_at(str(five)), tmp_path).tolist() == [7] * 5


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "not JSON"), ("[1]", "no numbers of samples;"), ('{"00000.tar": 8}', "no number of samples for 00001.tar")],
)
def test_a_damaged_file_of_counts_is_refused(five, tmp_path, content, reason):
    (five / "sizes.json").write_text(content)
    with pytest.raises(DataError, match=rf"sizes.json: .*{reason}"):
        counted(shards_at(str(five)), tmp_path)


def test_small_sets_are_read_by_an_index_and_large_and_remote_ones_in_a_row(five, monkeypatch):
    from vladapt.core.data.pairs import shard_list

    asked = {order: reads_in_a_row(str(five), order) for order in ("auto", "global", "shards")}
    assert asked == {"auto": False, "global": False, "shards": True}
    assert reads_in_a_row("s3://bucket/{000..002}.tar", "auto") and not reads_in_a_row("pairs.csv", "auto")
    with pytest.raises(DataError, match=r"order=global: s3://bucket/1.tar is not a file on a disk"):
        reads_in_a_row("s3://key:word@bucket/1.tar?token=abc", "global")
    with pytest.raises(DataError, match=r"order=shards: pairs.csv has no tar shards"):
        reads_in_a_row("pairs.csv", "shards")
    monkeypatch.setattr(shard_list, "LARGE_BYTES", 1000)
    assert reads_in_a_row(str(five), "auto") and not reads_in_a_row(str(five), "global")


# what is held out ------------------------------------------------------------------------------------------------


def read(folder, tmp_path, seed=1, columns=None, **held_out):
    held_out = HeldOut(**{"val_samples": 3, "test_samples": 2, **held_out})
    return read_shard_set(str(folder), held_out, seed=seed, cache=tmp_path / "cache", columns=columns, max_pixels=1000)


def trained_on(train):
    reader = train.reader()
    runs = [ShardRun(n, int(first), int(count)) for n, (first, count) in enumerate(zip(train.firsts, train.counts))]
    return {sample.name for run in runs for sample in reader.read(run)}


def test_a_fixed_number_is_held_out_and_not_trained_on(five, tmp_path):
    train, val, test = read(five, tmp_path)
    captions = [{pair.captions[0] for pair in part} for part in (val, test)]
    trained = {f"picture {int(name.rpartition(':')[2])}" for name in trained_on(train)}
    assert (len(train), len(val), len(test)) == (35, 3, 2) and len(trained) == 35
    assert not captions[0] & captions[1] and not trained & (captions[0] | captions[1])
    assert val.load_image(0).shape == (4, 4, 3) and set(val.splits) == {"val"}
    assert any("Val: 3 samples of" in note for note in train.notes)
    again = read(five, tmp_path)
    assert again[0].digest == train.digest and [p.captions for p in again[1]] == [p.captions for p in val]
    assert read(five, tmp_path, seed=2)[0].digest != train.digest


def test_no_more_than_a_tenth_is_held_out_of_a_set(five, tmp_path):
    train, val, test = read(five, tmp_path, val_samples=2000, test_samples=0)
    assert (len(train), len(val), test) == (36, 4, None)


def test_given_shards_are_held_out_up_to_the_number(five, tmp_path):
    train, val, test = read(five, tmp_path, val_shards="00001.tar", test_shards="{00003,00004}.tar", test_samples=10)
    assert (len(train), len(val), len(test)) == (16, 3, 10)
    assert {name[:5] for name in trained_on(train)} == {"00000", "00002"}
    with pytest.raises(ConfigError, match=r"data.val_shards=val-\*.tar: matches none of the 5 shards"):
        read(five, tmp_path, val_shards="val-*.tar")


def test_shards_whose_names_tell_splits_are_held_out(tmp_path):
    for number, name in enumerate(("train-0", "train-1", "val-0", "test-0")):
        shard(tmp_path / "set" / f"{name}.tar", simple(6, start=10 * number))
    train, val, test = read(tmp_path / "set", tmp_path, val_samples=10, test_samples=5)
    assert (len(train), len(val), len(test)) == (12, 6, 5)
    assert {name[:5] for name in trained_on(train)} == {"train"}


def test_the_first_samples_say_which_texts_and_numbers_there_are(tmp_path):
    members = {}
    for i in range(40):
        record = {"caption": f"picture {i}", "negative": "no", "age": [i, 2]}
        members |= {f"{i:03d}.png": png(i), f"{i:03d}.json": json.dumps(record)}
    folder = shard(tmp_path / "set" / "0.tar", members).parent
    train, _, _ = read(folder, tmp_path, columns={"age": "numbers", "sex": "text"})
    assert train.fields == {"negative", "age"} and train.further_columns == {"age": "numbers"}
    samples = dict(enumerate(train.reader().read(ShardRun(0, int(train.firsts[0]), 3))))
    block = train.block_of(samples)
    assert block.numbers(1, "age") == (float(block[1].captions[0].split()[1]), 2.0)
    assert block.load_image(0).size == (4, 4)


def test_a_set_without_usable_samples_says_why(tmp_path):
    members = {name: content for name, content in simple(30).items() if name.endswith(".png")}
    folder = shard(tmp_path / "set" / "0.tar", members).parent
    with pytest.raises(DataError, match=r"none of its first samples can be used .*no caption"):
        read(folder, tmp_path, val_samples=0, test_samples=0)


def test_a_missing_shard_is_named(five, tmp_path):
    (five / "sizes.json").write_text(json.dumps({f"{number:05d}.tar": 8 for number in range(6)}))
    with pytest.raises(DataError, match=r"1 of 6 files are missing, the first is .*00005.tar"):
        read(f"{five}/{{00000..00005}}.tar", tmp_path)
    shards = [*shards_at(str(five)), str(five / "gone.tar")]
    with pytest.raises(DataError, match=r"gone.tar: no such file; restore it, or leave it out of --data"):
        list(ShardReader(shards).read(ShardRun(5, 0, 1)))


@pytest.mark.parametrize("size", [-1, -512, -1024, -10_000])
def test_a_header_that_leads_back_is_no_loop_without_end(tmp_path, size):
    path = shard(tmp_path / "s.tar", simple(4))
    raw = bytearray(path.read_bytes())
    raw[1024 + 124 : 1024 + 136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)  # of the second member
    raw[1024 + 148 : 1024 + 156] = b" " * 8
    raw[1024 + 148 : 1024 + 156] = f"{sum(raw[1024:1536]):06o}\0 ".encode()
    path.write_bytes(raw)
    found = list(ShardReader([str(path)]).read(ShardRun(0, 0, 4)))
    assert len(found) == 4 and found[3].lost


def test_ranks_that_see_different_shards_end_with_one_line(five, tmp_path):
    code = f"""
from vladapt.core.data.pairs.shard_list import counted, shards_at
from vladapt.core.runtime.distributed import rank, together
from pathlib import Path
together(lambda: counted(shards_at("{five}")[: 5 - rank()], Path("{tmp_path}")))
"""
    for done in run_ranks(["-c", code]):
        assert done.returncode == 1
        line = "--data: rank 1 (4) sees different shards from rank 0 (5); give all processes the same files"
        assert line in done.stderr.splitlines()[-1]


def test_ranks_share_the_counting(five, tmp_path):
    code = f"""
from vladapt.core.data.pairs import shard_list
from vladapt.core.runtime.distributed import together
from pathlib import Path
seen, count = [], shard_list.count_samples
shard_list.count_samples = lambda shard: seen.append(shard[-9:-4]) or count(shard)
counts = together(lambda: shard_list.counted(shard_list.shards_at("{five}"), Path("{tmp_path}")))
print(seen, counts.tolist())
"""
    told = [done.stdout.strip() for done in run_ranks(["-c", code])]
    assert told == ["['00000', '00002', '00004'] [8, 8, 8, 8, 8]", "['00001', '00003'] [8, 8, 8, 8, 8]"]


# lists -----------------------------------------------------------------------------------------------------------


def pair_list(folder, weights):
    """A list of pairs of tars: (tar, key) -> weight."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vladapt.core.data.pairs.pair_list import list_schema

    rows = [
        {"id": f"{tar}:{key}", "weight": weight, "source": f"{tar}.tar", "key": key, "row": -1, "caption": None}
        for (tar, key), weight in weights.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, list_schema()), folder / "LIST.parquet")
    return str(folder / "LIST.parquet")


def test_pairs_of_a_list_are_read_in_sequence_as_often_as_they_weigh(tmp_path):
    shard(tmp_path / "a.tar", simple(60))
    shard(tmp_path / "b.tar", simple(60, start=60))
    weights = {("a", f"{n:04d}"): 1.0 for n in range(0, 60, 3)}
    weights |= {("b", f"{n:04d}"): 2.5 for n in range(60, 120, 2)}
    place = pair_list(tmp_path, weights)
    assert reads_in_a_row(place, "shards") and not reads_in_a_row(place, "auto")
    train, val, test = read_shard_set(place, HeldOut(3, 2), seed=0, cache=tmp_path / "cache")
    seen = {}
    for number, count in enumerate(train.counts.tolist()):
        for sample in train.reader().read(ShardRun(number, 0, count)):
            assert not sample.lost
            key = (sample.name.partition(".")[0], sample.key)
            seen[key] = seen.get(key, 0) + 1
    held = {(pair.captions[0], 1) for part in (val, test) for pair in part}
    assert len(held) == len(val) + len(test) == 5
    left = {key for key in weights if (f"picture {int(key[1])}", 1) not in held}
    assert set(seen) == left, "what is held out is not trained on, however often it counts"
    assert all(count == 1 if tar == "a" else count in (2, 3) for (tar, _), count in seen.items())
    assert {count for (tar, _), count in seen.items() if tar == "b"} == {2, 3}
    assert train.name == "LIST" and "read whole" in " ".join(train.notes)
    again, *_ = read_shard_set(place, HeldOut(3, 2), seed=0, cache=tmp_path / "cache")
    other, *_ = read_shard_set(
        pair_list(tmp_path, dict(list(weights.items())[:-1])), HeldOut(3, 2), seed=0, cache=tmp_path / "cache"
    )
    assert again.digest == train.digest != other.digest
    start = train.reader().read(ShardRun(1, 7, 3))
    assert [s.key for s in start] == [s.key for s in list(train.reader().read(ShardRun(1, 0, 12)))[7:10]]


def test_a_list_of_what_lies_elsewhere_is_read_in_sequence(tmp_path, monkeypatch):
    shard(tmp_path / "a.tar", simple(12))
    place = pair_list(tmp_path, {("s3://bucket/a", f"{n:04d}"): 1.0 for n in range(0, 12, 2)})
    assert reads_in_a_row(place, "auto") and not reads_in_a_row(place, "global")
    from vladapt.core.data.pairs import shard_reader

    asked, opened = [], shard_reader.open_stream
    monkeypatch.setattr(shard_reader, "open_stream", lambda name: asked.append(name) or opened(str(tmp_path / "a.tar")))
    train, val, _ = read_shard_set(place, HeldOut(1, 0), seed=0, cache=tmp_path / "cache")
    assert set(asked) == {"s3://bucket/a.tar"} and len(train) == 6 and val is None


@pytest.mark.parametrize("weight", [-1.0, 300.0, float("nan")])
def test_weights_that_no_sequence_has_are_refused(tmp_path, weight):
    shard(tmp_path / "a.tar", simple(12))
    place = pair_list(tmp_path, {("a", "0003"): weight})
    with pytest.raises(DataError, match="a:0003 has the weight"):
        read_shard_set(place, HeldOut(1, 0), seed=0, cache=tmp_path / "cache")
