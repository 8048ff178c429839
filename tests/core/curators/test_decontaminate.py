"""Decontamination: copies and near copies of test images, told by bytes, hashes, features and captions."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import ConfigError, DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import _held_out
from vladapt.core.curators import decontaminate as d
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def unit(count, seed, width=16):
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def decided(pairs=PAIRS, **options):
    curator = build_curator("decontaminate", **options)
    survey = curator.survey(pairs)
    decision = curator.decide(pairs, survey)
    return decision, survey, list(d.matches(pairs, survey, decision))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """One row that is pair 3 byte by byte, one that is pair 5 by pixels, one near the hash of pair 8, and captions."""
    folder = tmp_path_factory.mktemp("tables")
    digest, pixels = PAIRS.strings("sha256"), PAIRS.strings("pixels_sha256")
    near = int(PAIRS.numbers("phash")[8]) ^ 0b111
    hashes = lines(
        folder / "hashes.jsonl",
        {"id": "other", "sha256": "f" * 64, "pixels_sha256": "e" * 64, "phash": 1},
        {"id": "three", "sha256": digest[3].upper()},
        {"id": "five", "pixels_sha256": pixels[6]},
        {"id": "eight", "phash": hex(near)},
    )
    text = PAIRS.strings("text")[2]
    captions = lines(folder / "captions.jsonl", {"caption": "no such one"}, {"caption": f"  {text.upper()}! "})
    return {"hashes": hashes, "captions": captions, "caption": text}


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    """Features: nearly those of pair 4, and others."""
    features = np.concatenate([unit(59, 5), PAIRS.unit("image_features", np.array([4]))])
    features[59] += 0.01 * unit(1, 6)[0]
    path = tmp_path_factory.mktemp("tests") / "tests.npz"
    np.savez(path, image_features=features, ids=[f"test-{n}" for n in range(60)])
    return str(path)


def test_equal_bytes_pixels_and_near_hashes_are_dropped_and_listed(tables):
    decision, _, listed = decided(tests=tables["hashes"])
    assert [(name, test, why) for name, _, test, why in listed] == [
        ("id-0003", "three", "bytes of a test image"),
        ("id-0006", "five", "pixels of a test image"),
        ("id-0007", "five", "pixels of a test image"),
        ("id-0008", "eight", "near copy of a test image by its hash"),
    ]
    assert {place for _, place, _, _ in listed} == {tables["hashes"]}
    assert np.flatnonzero(~decision.keep).tolist() == [3, 6, 7, 8]
    assert np.flatnonzero(~decided(tests=tables["hashes"], distance=2)[0].keep).tolist() == [3, 6, 7]


def test_near_features_are_dropped_with_the_test_that_they_are_near_to(tests):
    decision, survey, listed = decided(tests=tests, cosine=0.99)
    assert ("id-0004", tests, "test-59", "near copy of a test image by its features") in listed
    cosines = PAIRS.unit("image_features") @ np.load(tests)["image_features"].T
    np.testing.assert_allclose(decision.scores["test_cosine"], cosines.max(axis=1), atol=1e-3)
    assert np.array_equal(decision.scores["test_row"], cosines.argmax(axis=1))
    assert np.array_equal(decision.keep, decision.scores["test_cosine"] < 0.99)
    assert decided(tests=tests, cosine=0.6)[0].keep.sum() < decision.keep.sum()
    assert f"{tests}: {(~decision.keep).sum()} pairs are dropped" in " ".join(survey.notes)


def test_a_caption_drops_with_an_image_like_it_and_alone_is_listed(tables, tests):
    same = np.array([text == tables["caption"] for text in PAIRS.strings("text")])
    assert same.sum() > 1
    options = {"tests": f"{tests},{tables['captions']}", "cosine": 1.0}
    alone, survey, listed = decided(**options, caption_cosine=1.0)
    assert alone.keep.all() and np.array_equal(alone.scores["test_caption"] > 0, same)
    assert [(name, place, test, why) for name, place, test, why in listed] == [
        (name, tables["captions"], "1", "listed: caption of a test set") for name in PAIRS.names(np.flatnonzero(same))
    ]
    assert f"{same.sum()} pairs that stay have a caption of a test set" in survey.notes[-1]
    with_image = decided(**options, caption_cosine=-1.0)[0]
    assert np.array_equal(~with_image.keep, same)
    middle = float(np.median(alone.scores["test_cosine"][same]))
    some = decided(**options, caption_cosine=middle)[0]
    assert np.array_equal(~some.keep, same & (alone.scores["test_cosine"] >= np.float32(middle)))
    assert 0 < (~some.keep).sum() < same.sum()
    asked = decided(**options, caption_cosine=1.0, captions=True)[0]
    assert np.array_equal(~asked.keep, same)
    assert np.array_equal(~decided(tests=tables["captions"], captions=True)[0].keep, same)


def test_the_first_rule_tells_the_test_and_rows_go_on_from_set_to_set(tables, tests, tmp_path):
    digest = PAIRS.strings("sha256")[4]
    both = lines(tmp_path / "both.jsonl", {"sha256": "0"}, {"sha256": digest})
    decision, survey, listed = decided(tests=f"{tables['hashes']},{both},{tests}", cosine=0.99)
    assert ("id-0004", both, "1", "bytes of a test image") in listed
    assert survey.whole["test_places"].tolist() == [tests, tables["hashes"], both]
    assert decision.scores["test_row"][4] == 60 + 4 + 1


def test_limits_follow_from_how_alike_test_images_are_to_the_encoder():
    def of(spread, seed=0):
        rows = unit(1, 1) + spread * unit(300, seed)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return _held_out.HeldOutImages(rows.astype(np.float32), tuple(map(str, range(300))), ("x",), np.zeros(300, int))

    wide, narrow = of(3.0), of(0.7)
    assert wide.limits() < narrow.limits()
    for images in (wide, narrow):
        copy, like = images.limits()
        assert 0.5 <= like < copy <= 0.99
        cosines = images.features @ images.features.T
        np.fill_diagonal(cosines, -1)
        np.testing.assert_allclose(like, np.median(cosines.max(axis=1)), atol=1e-3)
    shuffled = _held_out.HeldOutImages(wide.features[::-1].copy(), wide.ids, wide.places, wide.set_of)
    np.testing.assert_allclose(shuffled.limits(), wide.limits(), rtol=1e-5)
    few = _held_out.HeldOutImages(wide.features[:39], wide.ids[:39], wide.places, wide.set_of[:39])
    assert few.limits() == (0.95, 0.85)


def test_of_many_test_images_near_copies_are_found_in_cells(monkeypatch):
    features = unit(3000, 3)
    pool = np.concatenate([features[:200] + 0.02 * unit(200, 4), unit(200, 7)])
    pairs = PairTable.of([f"{n:04d}" for n in range(400)], image_features=pool)
    images = _held_out.HeldOutImages(features, tuple(map(str, range(3000))), ("x",), np.zeros(3000, int))
    exact = images.nearest(pairs)
    monkeypatch.setattr(_held_out, "SEARCHED_WHOLE", 100)
    cosines, nearest = images.nearest(pairs)
    assert nearest[:200].tolist() == list(range(200))
    np.testing.assert_allclose(cosines[:200], exact[0][:200], atol=1e-5)
    assert (cosines <= exact[0] + 1e-5).all()


def test_tables_are_read_from_parquet_and_csv_too(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "shards").mkdir()
    pq.write_table(
        pa.table({"id": ["a"], "phash": pa.array([2**63 + 1], pa.uint64())}), tmp_path / "shards/part-0.parquet"
    )
    pq.write_table(pa.table({"id": ["b"], "text": ["Hi"]}), tmp_path / "shards/part-1.parquet")
    (tmp_path / "t.csv").write_text("key,sha256\nx,ab\ny,\n")
    pq.write_table(pa.table({"id": ["b"], "image_features": [[1.0]]}), tmp_path / "part-0.parquet")
    assert _held_out.has_features(str(tmp_path)) and not _held_out.has_features(str(tmp_path / "shards"))
    shards, csv = _held_out.read_tables([str(tmp_path / "shards"), str(tmp_path / "t.csv")])
    assert shards.ids == ("a", "b") and shards.columns == {"phash": [2**63 + 1, 0], "text": ["", "Hi"]}
    assert csv.ids == ("0", "1") and csv.columns == {"sha256": ["ab", ""]}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_the_first_equal_row_and_the_nearest_hash(rows, others):
    first = [others.index(each) if each and each in others else -1 for each in rows]
    ours = d.equal_to(np.array(rows, np.uint64).reshape(-1, 1), np.array(others, np.uint64).reshape(-1, 1))
    assert ours.tolist() == first
    hashes, theirs = np.array(rows, np.uint64), np.array(others, np.uint64)
    told = [(bin(a ^ b).count("1"), n) for a in rows for n, b in enumerate(others) if a and b]
    wanted = []
    for a in rows:
        near = [(bin(a ^ b).count("1"), n) for n, b in enumerate(others) if a and b and bin(a ^ b).count("1") <= 1]
        wanted.append(min(near, default=(0, -1))[1])
    assert d.nearest_hashes(hashes, theirs, 1).tolist() == wanted, told


def test_bad_input_is_one_line(tmp_path, tests):
    with pytest.raises(ConfigError, match="no test sets; give tests=PATH,PATH"):
        build_curator("decontaminate")
    with pytest.raises(DataError, match=r"of encoder .* embed both with one backbone|numbers per row"):
        narrow = tmp_path / "narrow.npy"
        np.save(narrow, unit(3, 0, width=4))
        decided(tests=str(narrow))
    with pytest.raises(DataError, match=r"has none of the columns sha256, pixels_sha256, phash, text"):
        decided(tests=lines(tmp_path / "none.jsonl", {"id": "a", "label": "b"}))
    with pytest.raises(DataError, match=r"column 'phash' holds 'zz'; give whole numbers"):
        decided(tests=lines(tmp_path / "hash.jsonl", {"phash": "zz"}))
    with pytest.raises(DataError, match=r"gone\.csv: no such file or folder"):
        decided(tests=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match="no column 'image_features'"):
        build_curator("decontaminate", tests=tests).decide_all(PairTable.of(["a"], text=["b"]))
