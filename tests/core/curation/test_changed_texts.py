"""Texts that a stage changes: in its decisions, in the list, in what is trained on, and in new tars."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tar_shards import png, shard

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curation.lists import KeptPairs, write_list
from vladapt.core.curation.tars import write_tars
from vladapt.core.data.pairs.pair_list import list_rows, listed_shards
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.pairs.shard_reader import members_of
from vladapt.core.engine.curate import curate
from vladapt.core.engine.curate_write import write_kept
from vladapt.core.errors import DataError
from vladapt.core.registry import build_curator
from vladapt.core.shards import ShardPlace

TEXTS = ["Obama speaks", "a dog in the park", "Obama and a dog", "a red car", "Paris by night", "Obama"]
NEW = {0: "a politician speaks", 2: "a politician and a dog", 4: "a city by night", 5: "a politician"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A tar; the third sample has its caption in a .json too, the sixth a list of captions there."""
    folder = tmp_path_factory.mktemp("pool")
    members = {}
    for number, text in enumerate(TEXTS):
        members |= {f"in/{number:04d}.png": png(number), f"in/{number:04d}.txt": text}
    members["in/0002.json"] = json.dumps({"caption": TEXTS[2], "label": "dog", "uid": 7})
    members["in/0005.json"] = json.dumps(["Obama"])
    (folder / "hypernyms.tsv").write_text("Obama\ta politician\nParis\ta city\n")
    return folder, shard(folder / "pool.tar", dict(sorted(members.items())))


@pytest.fixture(scope="module")
def written(pool):
    folder, tar = pool
    options = {"hypernyms": str(folder / "hypernyms.tsv"), "rewrite": True, "rare": 0, "language": "any"}
    with pytest.MonkeyPatch.context() as patch:  # pictures here are small, captions short
        patch.setattr("vladapt.core.curators.cc12m.RULES", {"cc12m": _any_size()})
        made = curate("cc12m", [tar], folder / "curated", options=options)
    return made, write_kept(folder / "curated", folder / "out", write=("list", "tars"), samples=4)


def _any_size():
    from dataclasses import replace

    from vladapt.core.curators.cc12m import RULES

    return replace(RULES["cc12m"], side=0, words=(0, 99))


def contents(path):
    """Key -> {extension: bytes}."""
    made = {}
    for key, info, content in members_of(str(path)):
        made.setdefault(key, {})[info.name.rpartition("/")[2].partition(".")[2]] = content.read()
    return made


def test_decisions_hold_other_texts_and_nulls_where_a_text_stays(written):
    made, _ = written
    rows = pq.read_table(made.folder).to_pylist()
    assert [row["caption"] for row in rows] == [NEW.get(number) for number in range(6)]
    assert (made.kept, made.rewritten) == (6, 4)
    record = json.loads((made.folder / "_state" / "curation.json").read_text())
    assert record["rewritten"] == 4
    assert "4 pairs are kept with another text." in written[1].written["card"].read_text()


def test_a_list_trains_on_them(written, pool):
    listed = written[1].written["list"]
    assert [row["caption"] for row in list_rows(listed)] == [NEW.get(number) for number in range(6)]
    pairs = read_pairs(listed, split="train")
    assert [pair.captions for pair in pairs] == [(NEW.get(number, text),) for number, text in enumerate(TEXTS)]
    with pytest.raises(DataError, match="texts that curation changed, which are not read in sequence; write tars"):
        listed_shards(listed, 0)
    assert [sample["txt"].decode() for sample in contents(pool[1]).values()] == TEXTS, "the pool stays as it is"


def test_new_tars_have_them_and_what_they_were(written):
    folder = written[1].written["tars"]
    first, second = contents(folder / "00000.tar"), contents(folder / "00001.tar")
    assert first["in/0000"] == {"txt": NEW[0].encode(), "original.txt": TEXTS[0].encode(), "png": png(0)}
    assert first["in/0001"] == {"txt": TEXTS[1].encode(), "png": png(1)}
    record = {"caption": NEW[2], "label": "dog", "uid": 7, "original_caption": TEXTS[2]}
    assert json.loads(first["in/0002"]["json"]) == record
    assert json.loads(second["in/0005"]["json"]) == {"original_captions": ["Obama"]}
    pairs = read_pairs(folder, split="train")
    assert [pair.captions for pair in pairs] == [(NEW.get(number, text),) for number, text in enumerate(TEXTS)]


def decided(folder, captions):
    """A folder of decisions that keep all: id -> its text, None where it stays."""
    folder.mkdir(parents=True)
    rows = {
        "id": list(captions),
        "keep": [True] * len(captions),
        "weight": pa.array([1.0] * len(captions), pa.float32()),
    }
    rows |= {"reason": [""] * len(captions), "caption": pa.array(list(captions.values()), pa.string())}
    pq.write_table(pa.table(rows), folder / "part-00000000.parquet")
    return ShardPlace(str(folder))


def test_of_several_changes_the_last_counts_and_rows_of_parquet_files_have_theirs(tmp_path):
    from vladapt.core.shards import Manifest

    first = decided(tmp_path / "first", {"a": "one", "b": "two", "c": None})
    second = decided(tmp_path / "second", {"c": None, "b": "second", "a": None})
    for order, expected in (([first, second], ["one", "second", None]), ([second, first], ["one", "two", None])):
        assert KeptPairs.of(order).captions.to_pylist() == expected
    table = {"id": list("abc"), "jpg": [png(n) for n in range(3)], "text": ["own a", "own b", "own c"]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    sources = Manifest.of(
        [str(tmp_path / "rows.parquet")], ShardPlace(str(tmp_path / "made")), tmp_path / "cache"
    ).sources
    write_list(KeptPairs.of([first, second]), sources, ShardPlace(str(tmp_path / "out")))
    rows = list(list_rows(tmp_path / "out" / "LIST.parquet"))
    assert [row["caption"] for row in rows] == ["one", "second", "own c"]
    write_tars(tmp_path / "out" / "LIST.parquet", ShardPlace(str(tmp_path / "tars")))
    made = [
        {name: text for name, text in each.items() if "txt" in name}
        for each in contents(tmp_path / "tars" / "00000.tar").values()
    ]
    changed = [{"txt": new, "original.txt": old} for new, old in ((b"one", b"own a"), (b"second", b"own b"))]
    assert made == [*changed, {"txt": b"own c"}]


MATCHES = {"good": (0.9, 0.9), "saved": (0.2, 0.7), "lost": (0.2, 0.4), "bare": (np.nan, 0.8), "none": (np.nan, np.nan)}


def test_blip_puts_a_caption_that_matches_in_place_of_a_text_that_does_not():
    columns = {"itm": [each[0] for each in MATCHES.values()], "caption_itm": [each[1] for each in MATCHES.values()]}
    pairs = PairTable.of(list(MATCHES), caption=[f"by a model: {name}" for name in MATCHES], **columns)
    made = build_curator("blip", captions=True).decide_all(pairs)
    keep = dict(zip(pairs.names(), made.keep))
    assert keep == {"bare": True, "good": True, "lost": False, "none": False, "saved": True}
    new = {name: text for name, text in zip(pairs.names(), made.captions) if text is not None}
    assert new == {"bare": "by a model: bare", "saved": "by a model: saved"}
    plain = build_curator("blip").decide_all(pairs)
    assert plain.captions is None and plain.keep.sum() == 1
    strict = build_curator("blip", captions=True, threshold=0.75).decide_all(pairs)
    assert strict.keep.sum() == 2


def test_captions_that_do_not_match_their_image_are_not_listed(pool, written, tmp_path):
    captions = tmp_path / "captions"
    captions.mkdir()
    table = {"id": [f"pool:in/{number:04d}" for number in range(6)], "caption": [f"model {n}" for n in range(6)]}
    pq.write_table(pa.table({**table, "caption_itm": [0.1, 0.9, 0.5, 0.51, 0.0, 1.0]}), captions / "part-0.parquet")
    made = write_kept(pool[0] / "curated", tmp_path / "out", captions=captions)
    rows = list(list_rows(made.written["list"]))
    assert [row["synthetic"] for row in rows] == [None, "model 1", None, "model 3", None, "model 5"]
    pq.write_table(pa.table({**table, "caption_itm": [0.1] * 6}), captions / "part-0.parquet")
    with pytest.raises(DataError, match="captions of none of these pairs that match their images"):
        write_kept(pool[0] / "curated", tmp_path / "out", captions=captions)
