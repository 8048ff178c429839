"""LAION's filter: each rule, and what its notes own up to."""

import numpy as np
import pytest

from vladapt.core.contracts.curator import PairTable
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import build_curator

GIVEN = {"column": "similarity", "encoder": "ViT-B-32"}


@pytest.fixture(scope="module")
def pairs():
    """The first is fine; each other breaks one rule."""
    return PairTable.of(
        list("abcdefg"),
        text=["a dog", "ein Hund", "dog", "a dog", "a dog", "a dog", "a dog"],
        language=["en", "de", "en", "en", "en", "en", "en"],
        bytes=np.array([5000, 9000, 9000, 4999, 9000, 9000, 9000]),
        similarity=np.array([0.28, 0.4, 0.4, 0.4, 0.2799, np.nan, 0.4], np.float32),
        punsafe=np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.6], np.float32),
        pwatermark=np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1, np.nan], np.float32),
    )


def test_each_rule_drops_what_breaks_it(pairs):
    decision = build_curator("laion", **GIVEN).decide_all(pairs)
    reasons = ["", *decision.rules]
    assert [reasons[each] for each in decision.reason] == [
        "",
        "not in language en",
        "fewer than 5 characters",
        "a file below 5000 bytes",
        "CLIP score below 0.28",
        "CLIP score below 0.28",
        "",
    ]
    np.testing.assert_array_equal(decision.scores["clip_score"], pairs.numbers("similarity"))


def test_a_score_just_below_the_threshold_is_below_it():
    some = PairTable.of(
        list("ab"),
        text=["a dog"] * 2,
        language=["en"] * 2,
        bytes=np.array([9000, 9000]),
        similarity=np.array([0.28, 0.28 - 1e-9]),
    )
    assert build_curator("laion", **GIVEN).decide_all(some).keep.tolist() == [True, False]


CHANGES = [
    ({"language": "de"}, "b"),
    ({"characters": 3}, "acg"),
    ({"characters": 6}, ""),
    ({"file_bytes": 0}, "adg"),
    ({"threshold": 0.27}, "aeg"),
    ({"unsafe": 0.5}, "a"),
    ({"watermark": 0.8}, "a"),
    ({"watermark": 0.5}, ""),
    ({"unsafe": 0.05, "unsafe_column": "pwatermark"}, ""),
    ({"watermark": 0.5, "watermark_column": "punsafe"}, "a"),
]


@pytest.mark.parametrize(("options", "kept"), CHANGES)
def test_options_change_what_is_kept(pairs, options, kept):
    decision = build_curator("laion", **GIVEN, **options).decide_all(pairs)
    assert "".join(np.array(list("abcdefg"))[decision.keep]) == kept


@pytest.mark.parametrize("language", ["EN", "en-US", "en_GB"])
def test_a_language_is_the_same_in_any_spelling(pairs, language):
    assert build_curator("laion", **GIVEN, language=language).decide_all(pairs).keep[0]
    spelled = PairTable.of(
        ["a"],
        text=["a dog"],
        language=[language],
        bytes=np.array([9000]),
        similarity=np.array([0.5]),
    )
    assert build_curator("laion", **GIVEN).decide_all(spelled).keep.all()
    assert not build_curator("laion", **GIVEN, language="DE").decide_all(spelled).keep.any()
    assert build_curator("laion", **GIVEN, language="ANY").decide_all(spelled).keep.all()


def test_notes_name_the_encoder_and_the_safety_steps_that_are_not_done(pairs):
    notes = build_curator("laion", **GIVEN).survey(pairs).notes
    assert "ViT-B-32" in notes[0] and "0.28" in notes[0]
    assert "hash lists" in notes[1] and "classifiers" in notes[1]


def test_bad_input_is_one_line(pairs):
    with pytest.raises(ConfigError, match="a threshold holds for one encoder; give encoder=, which made similarity"):
        build_curator("laion", column="similarity")
    with pytest.raises(DataError, match="no column 'pnsfw'"):
        build_curator("laion", **GIVEN, unsafe=0.5, unsafe_column="pnsfw").decide_all(pairs)
    with pytest.raises(DataError, match="no column 'image_features'"):
        build_curator("laion").decide_all(pairs)
