"""MetaCLIP: which entries a text contains, and how often pairs with frequent entries are kept."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import subsets

from vladapt import ConfigError, DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators._entries import Automaton, EntryList, read_entries, spaced
from vladapt.core.registry import build_curator

SYMBOLS = "ab .,猫犬'"
strings = st.text(SYMBOLS, min_size=1, max_size=5)


def test_matches_counts_and_probabilities_are_the_released_ones(agrees):
    agrees(subsets.metaclip)


@settings(max_examples=60)
@given(st.lists(strings, min_size=1, max_size=12), st.text(SYMBOLS, max_size=20))
def test_an_entry_matches_where_it_is_a_substring_between_spaces(entries, text):
    entry, _ = EntryList(entries, unspaced=False).matches([text])
    assert entry.tolist() == [n for n, each in enumerate(entries) if f" {each} " in spaced(text)]


@settings(max_examples=60)
@given(st.lists(strings, min_size=1, max_size=12), st.text(SYMBOLS, max_size=20))
def test_no_space_is_needed_beside_ideographs_and_punctuation(entries, text):
    free = "猫犬.,'"
    padded = [f"{' ' * (e[0] not in free)}{e}{' ' * (e[-1] not in free)}" for e in entries]
    entry, _ = EntryList(entries, unspaced=True).matches([text])
    assert entry.tolist() == [n for n, each in enumerate(padded) if each in spaced(text)]


@settings(max_examples=60)
@given(strings)
def test_an_entry_that_is_called_dead_is_in_no_text_and_others_are_in_one(entry):
    text = f" {entry} ".replace(" . ", ".").replace(" , ", ",").removeprefix(" ").removesuffix(" ")
    assert EntryList([entry], unspaced=False).never[0] == (f" {entry} " not in spaced(text))


@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=8), st.text("abc", max_size=30))
def test_the_automaton_finds_every_place(patterns, text):
    found = {(at, n) for at, ends in Automaton(enumerate(patterns)).find(text) for n in ends}
    places = range(len(text))
    assert found == {(at, n) for n, each in enumerate(patterns) for at in places if text[: at + 1].endswith(each)}


def test_case_order_and_repeats():
    entry, text = EntryList(["dog", "hot dog", "Dog"], True).matches(["dog hot dog dog", "Dog!", "", "hotdog"])
    assert list(zip(entry, text)) == [(0, 0), (1, 0), (2, 1)]
    entry, _ = EntryList(["dog", "hot dog", "dog show"], True).matches(["hot dog show dog"], longest=True)
    assert entry.tolist() == [0, 1]


FREQUENT = ["a dog"] * 60 + ["a rare bird and a dog"] * 3 + ["nothing here"] * 5
PAIRS = PairTable.of([f"{n:03d}" for n in range(len(FREQUENT))], text=FREQUENT)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    path = tmp_path_factory.mktemp("entries") / "entries.json"
    path.write_text(json.dumps(["dog", "rare bird", "u.s.", "cat"]), encoding="utf-8")
    return str(path)


def test_rare_entries_are_kept_and_frequent_ones_drawn(entries):
    kept = np.zeros(len(PAIRS))
    for seed in range(200):
        kept += build_curator("metaclip", metadata=entries, limit=9, seed=seed).decide_all(PAIRS).keep
    assert (kept[60:63] == 200).all()
    assert not kept[63:].any()
    assert abs(kept[:60].mean() / 200 - 9 / 63) < 0.01


def test_the_expected_number_of_an_entry_is_its_limit(entries):
    decision = build_curator("metaclip", metadata=entries, limit=9).decide_all(PAIRS)
    assert decision.scores["metaclip"][:60].sum() == pytest.approx(60 * 9 / 63)
    assert decision.rules == ("no entry matches", "its entries are frequent")


def test_weights_are_the_probabilities(entries):
    online = build_curator("metaclip", metadata=entries, limit=9, weights=True).decide_all(PAIRS)
    assert online.keep.sum() == 63
    np.testing.assert_allclose(online.weight[:63], [9 / 63] * 60 + [1] * 3, rtol=1e-6)


def test_dead_entries_and_what_is_balanced_are_told(entries):
    survey = build_curator("metaclip", metadata=entries, limit=9).survey(PAIRS)
    assert survey.whole["never"].tolist() == [2]
    assert survey.whole["count"].tolist() == [63, 3, 0, 0]
    assert "1 of 4 entries match more texts" in survey.notes[0]
    assert any("entries that can never match: 1 (u.s.);" in note for note in survey.notes)
    assert "5 of 68 texts contain no entry" in survey.notes[-1]
    assert any("lower limit" in note for note in build_curator("metaclip", metadata=entries).survey(PAIRS).notes)


def test_every_option_changes_the_choice(tmp_path):
    path = tmp_path / "entries.txt"
    path.write_text("a dog\ndog\nrare bird\n'\n", encoding="utf-8")
    table = PairTable.of([f"{n:03d}" for n in range(70)], text=[*FREQUENT, "'tis", "dog"])
    options = {"metadata": str(path), "limit": 9}
    first = build_curator("metaclip", **options).decide_all(table).scores["metaclip"]
    for changed in ({"limit": 2}, {"tail_share": 0.03}, {"unspaced": False}, {"longest": True}):
        given = {"metadata": str(path)} if "tail_share" in changed else options
        other = build_curator("metaclip", **given | changed).decide_all(table).scores["metaclip"]
        assert not np.array_equal(first, other), changed
    drawn = [build_curator("metaclip", **options, seed=seed).decide_all(table).keep for seed in (0, 1)]
    assert not np.array_equal(*drawn)


def lists_per_language(tmp_path, **lists):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(lists), encoding="utf-8")
    return str(path)


def test_each_language_has_its_list_and_a_limit_of_the_same_tail(tmp_path):
    texts = ["a dog"] * 40 + ["a bird"] * 10 + ["ein Hund"] * 4 + ["ein Vogel"] + ["ein dog", "猫が好き", "un chat"]
    language = ["en"] * 50 + ["de"] * 6 + ["ja", "fr"]
    table = PairTable.of([f"{n:03d}" for n in range(len(texts))], text=texts, language=language)
    path = lists_per_language(tmp_path, en=["dog", "bird"], de=["Hund", "Vogel"], ja=["猫"])
    curator = build_curator("metaclip", metadata=path, limit=11)
    assert curator.reads == ("text", "language")
    survey = curator.survey(table)
    assert survey.whole["limit"].tolist() == [11, 1, 1]
    scores = curator.decide(table, survey).scores["metaclip"]
    assert scores[[0, 40, 50, 54, 55, 56, 57]] == pytest.approx([11 / 40, 1, 1 / 4, 1, 0, 1, 0])
    german = build_curator("metaclip", metadata=path, limit=4, reference="de").survey(table)
    assert german.whole["limit"].tolist() == [10, 4, 1]
    shared = build_curator("metaclip", metadata=path, tail_share=0.9).survey(table)
    assert shared.whole["limit"].tolist() == [40, 4, 1]


def test_languages_match_in_any_spelling_and_those_without_a_list_are_told(tmp_path):
    language = ["EN", "en-US", "en_GB", "de", "fr", "fr", "", "zh-Hant", "zh-HANS", "zh"]
    table = PairTable.of([f"{n}" for n in range(10)], text=["a dog"] * 7 + ["猫"] * 3, language=language)
    path = lists_per_language(tmp_path, en=["dog"], **{"zh-hant": ["猫"], "zh-Hans": ["犬"]})
    curator = build_curator("metaclip", metadata=path, reference="EN")
    survey = curator.survey(table)
    assert curator.decide(table, survey).keep.tolist() == [True] * 3 + [False] * 4 + [True, False, True]
    assert "4 of 10 texts are in languages without a list: fr 2, none 1, de 1" in survey.notes
    plain = lists_per_language(tmp_path, en=["dog"], de=["dog"], fr=["dog"], zh=["猫"])
    notes = build_curator("metaclip", metadata=plain).survey(table.among(np.arange(6))).notes
    assert not any("without a list" in note for note in notes)


def test_what_cannot_be_used_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="metadata=FILE"):
        build_curator("metaclip")
    path = lists_per_language(tmp_path, de=["Hund"])
    with pytest.raises(DataError, match="no column 'language'"):
        build_curator("metaclip", metadata=path).decide_all(PAIRS)
    table = PairTable.of(["a"], text=["ein Hund"], language=["de"])
    with pytest.raises(ConfigError, match="no list for 'en'"):
        build_curator("metaclip", metadata=path).decide_all(table)
    for content in ("{}", "[1]", '{"en": "dog"}', "3"):
        bad = tmp_path / "bad.json"
        bad.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="not a list of entries"):
            read_entries(bad)
