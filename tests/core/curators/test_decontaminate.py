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
    captions = lines(
        folder / "captions.jsonl",
        {"id": "test-0", "caption": "no such one"},
        {"id": "a", "caption": f"  {text.upper()}! "},
        {"id": "test-3", "caption": text},
        {"id": "test-59", "caption": f"{text}."},
    )
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
        (name, tables["captions"], "a", "listed: caption of a test set") for name in PAIRS.names(np.flatnonzero(same))
    ]
    assert f"{same.sum()} pairs that stay have a caption of a test set" in survey.notes[-1]
    with_image = decided(**options, caption_cosine=-1.0)[0]
    assert np.array_equal(~with_image.keep, same)
    images = np.load(tests)["image_features"][[3, 59]]
    of_caption = PAIRS.unit("image_features") @ (images / np.linalg.norm(images, axis=1, keepdims=True)).T
    values = np.sort(of_caption.max(axis=1)[same])
    middle = float(values[np.diff(values).argmax() :][:2].mean())
    some = decided(**options, caption_cosine=middle)[0]
    assert np.array_equal(~some.keep, same & (of_caption.max(axis=1) >= middle))
    assert 0 < (~some.keep).sum() < same.sum()
    assert np.array_equal(some.scores["test_row"][~some.keep], np.array([3, 59])[of_caption.argmax(axis=1)][~some.keep])
    asked = decided(**options, caption_cosine=1.0, captions=True)[0]
    assert np.array_equal(~asked.keep, same)
    assert np.array_equal(~decided(tests=tables["captions"], captions=True)[0].keep, same)


def test_a_caption_that_many_unrelated_images_share_drops_few_of_them(tmp_path):
    centre, names = 0.4 * unit(1, 1), [f"i{n}" for n in range(300)]
    test, pool = unit(300, 2) + centre, unit(500, 3) + centre
    pool[7] = test[4] + 0.25 * unit(1, 4)[0]
    features = tmp_path / "tests.npz"
    np.savez(features, image_features=test, ids=names)
    pairs = PairTable.of([f"{n:03d}" for n in range(500)], image_features=pool, text=["a dog"] * 500)
    table = lines(tmp_path / "of.jsonl", *({"id": name, "text": "A dog."} for name in names))
    decision, survey, listed = decided(pairs, tests=f"{features},{table}")
    assert 1 <= (~decision.keep).sum() <= 0.1 * 500 and ("007", str(features), "i4") in [each[:3] for each in listed]
    assert len(listed) == 500
    for nameless in (
        lines(tmp_path / "no.jsonl", {"text": "a dog"}),
        lines(tmp_path / "x.jsonl", {"id": "x", "text": "a dog"}),
    ):
        decision, survey, listed = decided(pairs, tests=f"{features},{nameless}", cosine=1.0)
        assert decision.keep.all() and len(listed) == 500
        assert any("No caption has the id of a test image" in note for note in survey.notes)


@pytest.mark.parametrize("noise", [0.1, 0.05, 0.02, 0.005, 0.0])
@pytest.mark.parametrize("count", [300, 30])
def test_an_encoder_to_which_all_images_are_alike_drops_no_unrelated_ones(noise, count, tmp_path):
    if count == 30 and not noise:
        return  # of 30 equal rows nothing tells that the encoder is narrow
    random = np.random.default_rng(6)
    test, pool = (1 + noise * random.normal(size=(rows, 64)) for rows in (count, 500))
    digests = [f"{n:064x}" for n in range(500)]
    pairs = PairTable.of([f"{n:03d}" for n in range(500)], image_features=pool, sha256=digests)
    np.save(tmp_path / "tests.npy", test)
    table = lines(tmp_path / "t.jsonl", {"sha256": digests[9]})
    decision, survey, _ = decided(pairs, tests=f"{tmp_path}/tests.npy,{table}")
    assert not decision.keep[9] and (~decision.keep).sum() <= 1 + (0.04 if count == 300 else 0.1) * 500
    unusable = noise < 0.01
    assert unusable == ("too alike to this encoder" in " ".join(survey.notes))
    assert unusable == np.isinf(survey.whole["limits"]).all()
    if unusable:
        assert (~decision.keep).sum() == 1
        assert not decided(pairs, tests=f"{tmp_path}/tests.npy,{table}", cosine=0.5)[0].keep.any()


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
        assert 0.5 <= like < copy < 0.9999
        cosines = images.features @ images.features.T
        np.fill_diagonal(cosines, -1)
        np.testing.assert_allclose(like, np.quantile(cosines.max(axis=1), 0.95), atol=1e-3)
    shuffled = _held_out.HeldOutImages(wide.features[::-1].copy(), wide.ids, wide.places, wide.set_of)
    np.testing.assert_allclose(shuffled.limits(), wide.limits(), rtol=1e-5)
    twice = _held_out.HeldOutImages(np.tile(wide.features, (2, 1)), wide.ids * 2, ("x", "y"), np.repeat([0, 1], 300))
    np.testing.assert_allclose(twice.limits(), wide.limits(), rtol=1e-5, err_msg="a set that is given twice")
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


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A dog, running!", "a_dog running", True),
        ("C++ code", "C# code", False),
        ("C++ code", "C code", False),
        ("किताब", "कताब", False),  # combining vowels
        ("ที่", "ทา", False),
        ("น้ำ", "น้ำ!", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("soft\u00adware \u2764\ufe0f", "software \u2764", True),
        ("!?", "", True),
    ],
)
def test_captions_are_equal_up_to_case_and_punctuation_in_every_script(one, other, same):
    assert (_held_out.normalised_caption(one) == _held_out.normalised_caption(other)) == same


def test_hashes_are_read_in_the_spellings_that_programs_write(tmp_path):
    def read(*values):
        (table,) = _held_out.read_tables([lines(tmp_path / "h.jsonl", *({"phash": value} for value in values))])
        return table.columns["phash"]

    assert read("00ff00ff00ff00ff", "8000000000000001") == [0x00FF00FF00FF00FF, 2**63 + 1]
    assert read("E0C0000000000000", "1234567890123456", None) == [0xE0C0 << 48, 0x1234567890123456, 0]
    assert read("1234567890123456", "007", -1, "0x10", 5) == [1234567890123456, 7, 2**64 - 1, 16, 5]
    for bad in ("ff", "f" * 17, "0x" + "f" * 17, str(2**64), "1.5"):
        with pytest.raises(
            DataError, match=r"column 'phash' holds .*; give hashes of 64 bits, as whole numbers or as 16 hex"
        ):
            read(bad)


def test_more_test_rows_than_a_score_can_number_are_refused(tables, monkeypatch):
    monkeypatch.setattr(d, "MOST_ROWS", 3)
    with pytest.raises(DataError, match=r"tests: 4 images and rows .* of which 3 can be numbered; give some"):
        decided(tests=tables["hashes"])


def test_bad_input_is_one_line(tmp_path, tests):
    with pytest.raises(ConfigError, match="no test sets; give tests=PATH,PATH"):
        build_curator("decontaminate")
    with pytest.raises(DataError, match=r"of encoder .* embed both with one backbone|numbers per row"):
        narrow = tmp_path / "narrow.npy"
        np.save(narrow, unit(3, 0, width=4))
        decided(tests=str(narrow))
    with pytest.raises(DataError, match=r"has none of the columns sha256, pixels_sha256, phash, text"):
        decided(tests=lines(tmp_path / "none.jsonl", {"id": "a", "label": "b"}))
    with pytest.raises(DataError, match=r"column 'phash' holds 'zz'; give hashes of 64 bits"):
        decided(tests=lines(tmp_path / "hash.jsonl", {"phash": "zz"}))
    with pytest.raises(DataError, match=r"gone\.csv: no such file or folder"):
        decided(tests=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match="no column 'image_features'"):
        build_curator("decontaminate", tests=tests).decide_all(PairTable.of(["a"], text=["b"]))
