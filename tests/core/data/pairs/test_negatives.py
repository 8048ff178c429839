"""Hard negatives: two words of a kind change places, and the text is never the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.data.pairs.augment_text import kind_of_word
from vladapt.core.data.pairs.negatives import swap_negative


def made(text):
    return {swap_negative(text, np.random.default_rng(seed)) for seed in range(40)}


def test_adjectives_and_nouns_change_places():
    assert made("a black cat on a white rug.") == {"a white cat on a black rug.", "a black rug on a white cat."}


def test_numbers_verbs_and_plurals_are_known():
    assert "three dogs and two cats" in made("two dogs and three cats")
    assert "two cats and three dogs" in made("two dogs and three cats")
    assert "a girl sitting while a boy running" in made("a girl running while a boy sitting")


def test_a_word_of_one_kind_alone_is_left_in_place():
    assert made("a red dog sees a cat") == {"a red cat sees a dog"}


def test_articles_follow_their_words():
    assert made("an elephant near a boy") == {"a boy near an elephant"}
    assert made("A umbrella near a owl") == {"A owl near a umbrella"}  # what was wrong is not our business


def test_capitals_stay_where_they_were():
    assert made("Dog and cat") == {"Cat and dog"}


def test_unknown_words_change_places_and_function_words_do_not():
    assert made("the zup is of qua") == {"the qua is of zup"}


def test_function_words_alone_change_places():
    assert made("in here") == {"here in"}


@pytest.mark.parametrize("text", ["dog", "dog Dog", ""])
def test_a_text_without_two_words_is_denied(text):
    assert made(text) == {f"no {text}"}


@given(st.text(max_size=60), st.integers(0, 99))
def test_a_negative_differs_and_is_repeatable(text, seed):
    negative = swap_negative(text, np.random.default_rng(seed))
    assert negative != text and negative == swap_negative(text, np.random.default_rng(seed))


def test_plurals_have_the_kind_of_their_singular():
    assert [kind_of_word(word) for word in ("dogs", "boxes", "puppies", "red", "benches")] == [
        *("noun", None, "noun", "adjective", "noun")
    ]
