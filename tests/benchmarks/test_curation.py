"""benchmarks/curation.py: its drawn pairs, what is told of a choice, and its intervals."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def pools(benchmarks):
    return importlib.import_module("curation_pool")


@pytest.fixture(scope="module")
def proof(benchmarks):
    return importlib.import_module("curation")


@pytest.fixture(scope="module")
def pool(pools):
    return pools.drawn_pool(800, 3)


def test_the_truth_of_each_pair_is_what_its_kind_says(pools, pool):
    places = {name: number for number, name in enumerate(pools.NAMES)}
    for row, kind in enumerate(pool.kind):
        text, name = pool.texts[row], pools.NAMES[pool.facts[row, 0]]
        said = [places[each] for each in places if f" {each}" in f" {text}"]
        if kind in (pools.CLEAN, *pools.COPIES, "one wrong word", "blank picture", "picture of text"):
            assert said == [places[name]]
        elif kind == "empty caption":
            assert text == ""
        elif kind == "caption fits everything":
            assert not said and text
        else:
            near = len({*name.split()} & {*pools.NAMES[said[0]].split()}) == 1
            assert said != [places[name]] and near == (kind == "caption of a near class")
    assert (np.ptp(pool.images[pool.kind == "blank picture"], axis=(1, 2)) == 0).all()
    assert set(pool.kind) == {pools.CLEAN, *pools.WRONG, *pools.COPIES}


def test_one_wrong_word_is_one_word(pools, pool):
    for row in np.flatnonzero(pool.kind == "one wrong word"):
        right = pools.whole_caption(pool.facts[row]).split()[3:]
        assert sum(one != other for one, other in zip(right, pool.texts[row].split()[-len(right) :], strict=True)) == 1


def test_exact_copies_are_equal_and_near_copies_are_not(pools, pool):
    clean = {pool.images[row].tobytes(): pool.texts[row] for row in np.flatnonzero(pool.kind == pools.CLEAN)}
    for row in np.flatnonzero(np.isin(pool.kind, list(pools.COPIES))):
        same = clean.get(pool.images[row].tobytes())
        assert (same == pool.texts[row]) if pool.kind[row] == pools.EXACT else same is None


def test_other_seeds_are_other_pairs_and_equal_seeds_are_equal(pools):
    one, again, other = (pools.drawn_pool(60, seed) for seed in (3, 3, 4))
    assert again.texts == one.texts and np.array_equal(again.images, one.images)
    assert other.texts != one.texts


def test_tests_have_each_combination_as_often_and_no_fault(pools):
    tests = pools.test_pairs(5, 1)
    assert len(set(tests.texts)) == len(tests.texts) == 24 * 3 * 4 * 2 and not tests.wrong.any()
    assert set(np.bincount(tests.facts[:, 0])) == {24}


def test_what_is_dropped_is_held_against_the_truth(proof, pools, pool):
    told = proof.recovered(pool, pool.wrong)
    assert told["precision"] == told["recovered"] == 1 and told["dropped"][pools.CLEAN] == 0
    copies = proof.recovered(pool, pool.kind == pools.EXACT)
    assert copies["precision"] == copies["recovered"] == 0 and copies["dropped"][pools.EXACT] == 1
    assert proof.recovered(pool, np.zeros(800, bool))["precision"] is None


def test_an_interval_is_students_of_paired_differences(proof):
    mean, half = proof.difference([0.5, 0.6, 0.9, 0.7, 0.8], [0.4, 0.4, 0.6, 0.3, 0.3])
    assert mean == pytest.approx(0.3) and half == pytest.approx(2.776445 * 0.025**0.5 / 5**0.5)


@pytest.mark.thorough
def test_a_round_goes_from_a_pool_to_a_table(proof, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(proof, "SCORERS_PAIRS", 130)
    words = ["x", "random", "s-cliploss", "--seeds", "1", "--pairs", "300", "--samples", "128", "--store"]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path)])
    proof.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[0] for row in rows] == ["| `random`", "| `s-cliploss`"] * 2
    kept = [json.loads(path.read_text())["kept"] for path in tmp_path.glob("seed-0/*s.json")]
    assert kept == [90]
