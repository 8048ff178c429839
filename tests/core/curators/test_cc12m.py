"""Filters of Conceptual Captions: each rule, rare words and their hypernyms, tags and labels."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import cc12m
from vladapt.core.curators.cc12m import hypernymized, names_label, rewritten
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import build_curator

USUAL = "a dog on the grass"
ODD = {
    "narrow": {"width": 400},
    "wide": {"width": 1300},
    "foreign": {"language": "de"},
    "short": {"text": "dog grass"},
    "again": {"text": "dog dog dog on the grass"},
    "rare": {"text": "a dog on the trampoline"},
    "boilerplate": {"text": "Stock photo of the dog"},
}


@pytest.fixture(scope="module")
def pairs():
    """Thirty that are fine, and one that breaks each rule."""
    usual = {"text": USUAL, "language": "en", "width": 500, "height": 500}
    rows = {**{f"fine-{number:02d}": {} for number in range(30)}, **ODD}
    columns = {name: [each.get(name, value) for each in rows.values()] for name, value in usual.items()}
    return PairTable.of(list(rows), **columns, shown=["grass, tree" if "fine" in name else "cat|dog" for name in rows])


def dropped(decision, pairs):
    """Id -> rule."""
    return {
        name: decision.rules[reason - 1]
        for name, reason in zip(pairs.names(), decision.reason)
        if reason and "fine" not in name
    }


def test_each_rule_of_cc12m_drops_what_breaks_it(pairs):
    decision = build_curator("cc12m").decide_all(pairs)
    assert dropped(decision, pairs) == {
        "narrow": "a side of 400 pixels or less",
        "wide": "sides beyond 2.5 to 1",
        "foreign": "not in language en",
        "short": "not 3 to 256 words",
        "again": "more than 20 % of the words repeated",
        "rare": "a rare word",
        "boilerplate": "a rare word",
    }
    assert decision.keep.sum() == 30


def test_cc3m_is_stricter_with_shapes_and_boilerplate_and_milder_with_rare_words(pairs):
    decision = build_curator("cc12m", rules="cc3m").decide_all(pairs)
    assert dropped(decision, pairs)["wide"] == "sides beyond 2 to 1"
    assert dropped(decision, pairs)["boilerplate"] == "begins like boiler-plate"
    assert "short" not in dropped(decision, pairs)
    few = pairs.among(np.arange(len(ODD) + 10))
    assert build_curator("cc12m", rules="cc3m").decide_all(few).keep.any(), "five of a word are enough"
    assert not build_curator("cc12m").decide_all(few).keep.any()


def test_the_words_of_a_survey_are_read_once_for_all_blocks(pairs):
    curator, other = build_curator("cc12m", rare=2), build_curator("cc12m", rare=99)
    survey = curator.survey(pairs)
    stored = survey.whole["common"]
    assert curator._common(stored) is curator._common(stored)
    kept = [curator.decide(pairs.among(rows), survey).keep for rows in pairs.blocks(7)]
    assert np.array_equal(np.concatenate(kept), curator.decide_all(pairs).keep)
    assert not curator.decide(pairs, other.survey(pairs)).keep.any(), "another survey has other words"


def test_rare_is_counted_in_the_pool_and_can_be_left_out(pairs):
    assert "rare" in dropped(build_curator("cc12m", rare=2).decide_all(pairs), pairs)
    assert not {"rare", "boilerplate"} & dropped(build_curator("cc12m", rare=0).decide_all(pairs), pairs).keys()
    assert not build_curator("cc12m", rare=99).decide_all(pairs).keep.any()
    numbers = PairTable.of(["a"], text=["route 66 to 2nd"], language=["en"], width=[500], height=[500])
    assert "a rare word" in build_curator("cc12m", rare=2).decide_all(numbers).rules
    assert build_curator("cc12m", rare=1).decide_all(numbers).keep.all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("abcd", min_size=1, max_size=2), max_size=60), st.integers(1, 5), st.integers(1, 9))
def test_common_words_are_counted_in_parts_and_whatever_hashes_they_share(words, rare, buckets):
    counts = Counter(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cc12m, "BUCKETS", buckets)
        common = cc12m.common_words(lambda: (Counter(words[place::3]) for place in range(3)), rare)
    assert common == sorted(word for word in counts if counts[word] >= rare)


def test_hypernyms_save_captions_with_rare_names(pairs, tmp_path):
    (tmp_path / "hypernyms.tsv").write_text("Trampoline\tgrass\nfoo bar\tdog\n")
    curator = build_curator("cc12m", hypernyms=str(tmp_path / "hypernyms.tsv"))
    assert "rare" not in dropped(curator.decide_all(pairs), pairs)


def test_the_longest_phrase_is_replaced():
    table = {("barack", "obama"): "politician", ("barack",): "name", ("new", "york"): "big city"}
    text = "Barack Obama, in New-York; barack NEW york!"
    assert hypernymized(text, table) == "politician, in New-York; name big city!"
    assert hypernymized(text, {}) == text
    assert rewritten(text, [(0, 6)], table) == "<PERSON> Obama, in New-York; name big city!"


def test_a_label_of_the_image_must_be_named(pairs):
    decision = build_curator("cc12m", labels="shown", rare=0).decide_all(pairs)
    assert decision.keep.sum() == 32, "those of cats or dogs that say dog and break no other rule, too"
    other = build_curator("cc12m", labels="language", rare=0).decide_all(pairs)
    assert set(dropped(other, pairs)) == set(ODD) and not other.keep.any()
    assert names_label(["a", "hot", "dog"], "cat; hot dog") and not names_label(["a", "hotdog"], "dog,,")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A pipeline of spaCy that knows a handful of words."""
    spacy = pytest.importorskip("spacy")
    pipeline, path = spacy.blank("en"), tmp_path_factory.mktemp("tagger")
    ruler = pipeline.add_pipe("attribute_ruler")
    for word, tag in {"a": "DET", "the": "DET", "dog": "NOUN", "grass": "NOUN", "on": "ADP"}.items():
        ruler.add([[{"LOWER": word}]], {"POS": tag})
    pipeline.to_disk(path)
    return str(path)


def test_parts_of_speech_are_asked_for_where_there_is_a_tagger(tagger):
    texts = [USUAL, "dog likes grass", "a big red", "a dog runs fast"]
    sizes = {name: [500] * 4 for name in ("width", "height")}
    pairs = PairTable.of(list("abcd"), text=texts, language=["en"] * 4, **sizes)
    decision = build_curator("cc12m", tagger=tagger, rare=0).decide_all(pairs)
    assert dropped(decision, pairs) == {"b": "no determiner", "c": "no noun"}
    decision = build_curator("cc12m", tagger=tagger, rare=0, rules="cc3m").decide_all(pairs)
    assert dropped(decision, pairs)["d"] == "no preposition"


@pytest.fixture(scope="module")
def namer(tmp_path_factory):
    """A pipeline of spaCy that knows two persons, a place, and no more."""
    spacy = pytest.importorskip("spacy")
    pipeline, path = spacy.blank("en"), tmp_path_factory.mktemp("namer")
    ruler = pipeline.add_pipe("entity_ruler")
    names = {"Ann Lee": "PERSON", "Bo": "PER", "Rome": "GPE"}
    ruler.add_patterns([{"label": label, "pattern": name} for name, label in names.items()])
    pipeline.to_disk(path)
    return str(path)


def rewriting(texts, **options):
    sizes = {name: [500] * len(texts) for name in ("width", "height")}
    pairs = PairTable.of([f"{n:02d}" for n in range(len(texts))], text=texts, language=["en"] * len(texts), **sizes)
    return build_curator("cc12m", **options).decide_all(pairs)


def test_captions_are_written_anew_and_texts_stay(namer, tmp_path):
    (tmp_path / "hypernyms.tsv").write_text("Rome\ta city\nperson\thuman\n")
    texts = ["Ann Lee and Bo, in Rome!", "a dog in the park", "BO is no dog; a person"]
    files = {"hypernyms": str(tmp_path / "hypernyms.tsv"), "tagger": namer}
    both = rewriting(texts, **files, rewrite=True, persons=True, rare=0).captions
    assert both == ["<PERSON> and <PERSON>, in a city!", None, "BO is no dog; a human"]
    assert rewriting(texts, **files, persons=True, rare=0).captions == ["<PERSON> and <PERSON>, in Rome!", None, None]
    only = rewriting(texts, **files, rewrite=True, rare=0).captions
    assert only == ["Ann Lee and Bo, in a city!", None, "BO is no dog; a human"]
    assert rewriting(texts, **files, rare=0).captions is None


def test_a_person_is_no_rare_word(namer):
    texts = [f"{name} with the dog" for name in ("Ann Lee", "Bo", "Cy")]
    rare = "a rare word"
    named, plain = rewriting(texts, rare=2, persons=True, tagger=namer), rewriting(texts, rare=2)
    assert [named.rules[reason - 1] == rare for reason in named.reason] == [False, False, True]
    assert [plain.rules[reason - 1] == rare for reason in plain.reason] == [True, True, True]


def test_what_rewriting_lacks_is_told(tagger):
    with pytest.raises(ConfigError, match="rewrite needs hypernyms; give hypernyms="):
        build_curator("cc12m", rewrite=True)
    with pytest.raises(ConfigError, match="persons needs tagger; give tagger="):
        build_curator("cc12m", persons=True)
    with pytest.raises(DataError, match="tells no names of persons"):
        build_curator("cc12m", persons=True, tagger=tagger).check(("text", "language"))


def test_what_is_not_asked_for_is_noted(pairs, tagger):
    notes = build_curator("cc12m").survey(pairs).notes
    assert any("noun, determiner" in note and "spaCy" in note for note in notes)
    assert any("labels=" in note for note in notes)
    assert len(build_curator("cc12m", tagger=tagger, labels="shown", rare=0).survey(pairs).notes) == 0


def test_bad_input_is_one_line(pairs, tmp_path):
    with pytest.raises(DataError, match="not a pipeline of spaCy"):
        build_curator("cc12m", tagger=str(tmp_path / "absent")).decide_all(pairs)
    (tmp_path / "bare.tsv").write_text("dog\n")
    with pytest.raises(DataError, match="'dog' has no tab and value behind it"):
        build_curator("cc12m", hypernyms=str(tmp_path / "bare.tsv")).decide_all(pairs)
    with pytest.raises(DataError, match="no column 'tags'"):
        build_curator("cc12m", labels="tags").decide_all(pairs)
