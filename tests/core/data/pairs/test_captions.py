"""Choosing texts: the same draw for the same numbers, every text reachable, each mode as published."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.data.pairs.augment_text import TextAugment
from vladapt.core.data.pairs.captions import (
    MODES,
    CaptionSampler,
    drawn_captions,
    first_sentence,
    sentences_of,
    sheared,
)
from vladapt.core.data.pairs.pair_set import Pair
from vladapt.core.errors import ConfigError

LONG = "A street at night. It rains, 3.5 mm an hour! Two people wait.\nThe bus is late"


def pair(*captions, **texts):
    return Pair("x", "x.jpg", None, None, captions, {name: tuple(more) for name, more in texts.items()})


def drawn(sampler, of, epochs=200):
    return Counter(sampler.choose(of, epoch, 0) for epoch in range(epochs))


TWO = pair("a dog runs", "the dog is fast", synthetic=["a brown dog that runs over green grass"])


@given(seed=st.integers(), epoch=st.integers(0, 9), row=st.integers(0, 99), view=st.integers(0, 3))
def test_a_choice_depends_on_its_numbers_alone(seed, epoch, row, view):
    for mode in MODES:
        chosen = CaptionSampler(mode, seed).choose(TWO, epoch, row, view)
        assert chosen == CaptionSampler(mode, seed).choose(TWO, epoch, row, view)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"row": 1}, {"view": 1}])
def test_each_number_changes_the_choices(change):
    many = pair(*(f"caption number {i}" for i in range(50)))

    def choices(seed=0, epoch=0, row=0, view=0):
        return [CaptionSampler("uniform", seed).choose(many, epoch, row + 100 * i, view) for i in range(20)]

    assert choices(**change) != choices()


def test_first_gives_the_original():
    assert set(drawn(CaptionSampler("first"), TWO)) == {"a dog runs"}


def test_captions_leaves_rewrites_out():
    assert set(drawn(CaptionSampler("captions"), TWO)) == set(TWO.captions)


def test_uniform_draws_captions_and_rewrites_alike():
    counts = drawn(CaptionSampler("uniform"), TWO, 900)
    assert set(counts) == {*TWO.captions, *TWO.texts["synthetic"]} and min(counts.values()) > 250


def test_a_text_of_one_word_gives_way_to_the_original():
    of = pair("a dog runs", "dog", synthetic=["Sorry"])
    assert set(drawn(CaptionSampler("uniform"), of)) == {"a dog runs"}


def test_shearing_cuts_rewrites_to_the_length_of_the_original():
    assert set(drawn(CaptionSampler("shear"), TWO)) == {*TWO.captions, "a brown dog"}
    assert sheared("one two", "a longer original text") == "one two"


def test_any_sentence_of_a_report_is_drawn_short_ones_too():
    of = pair("Normal. The heart is large.\nNo effusion.", "A second report.")
    wanted = {"Normal", "The heart is large", "No effusion", "A second report"}
    assert set(drawn(CaptionSampler("sentences"), of)) == wanted


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="first, captions, uniform, shear"):
        CaptionSampler("best")


def test_the_second_text_is_another_draw_and_augmented():
    sampler = CaptionSampler("first", augment=TextAugment(alpha=0.4))
    seconds = {sampler.second(TWO, epoch, 0) for epoch in range(40)}
    assert "runs dog a" in seconds and any(len(text.split()) < 3 for text in seconds)
    many = pair(*(f"caption number {i}" for i in range(500)))
    same = sum(CaptionSampler().second(many, e, 0) == CaptionSampler().choose(many, e, 0) for e in range(50))
    assert same < 5


def test_several_are_the_original_and_sentences_of_the_other_texts():
    of = pair("a street", LONG, synthetic=["Dark. Wet."])
    texts = CaptionSampler().several(of, 0, 0, 6)
    assert texts[0] == "a street" and len(texts) == 7
    assert set(texts[1:]) == {*sentences_of(LONG), "Dark", "Wet"}


def test_several_of_one_long_caption_are_its_own_sentences():
    texts = CaptionSampler().several(pair(LONG), 0, 0, 3)
    assert texts[0] == LONG and len(set(texts[1:])) == 3 and set(texts[1:]) <= set(sentences_of(LONG))


def test_the_short_text_is_the_field_or_the_first_sentence_of_the_chosen():
    sampler = CaptionSampler("first")
    assert sampler.short(pair(LONG, short=["a street"]), 0, 0) == "a street"
    assert sampler.short(pair(LONG), 0, 0) == "A street at night"
    assert {sampler.short(pair(LONG, short=["a", "b"]), epoch, 0) for epoch in range(20)} == {"a", "b"}


def test_other_texts_are_drawn_from_their_field():
    of = pair("a dog", negative=["a cat", "no dog"])
    assert {CaptionSampler().other(of, "negative", epoch, 0) for epoch in range(20)} == {"a cat", "no dog"}


def test_a_missing_negative_is_made_and_a_missing_rewrite_is_the_caption():
    of = pair("a black cat on a white rug")
    assert CaptionSampler().other(of, "negative", 0, 0) in ("a white cat on a black rug", "a black rug on a white cat")
    assert CaptionSampler().other(of, "synthetic", 0, 0) == of.captions[0]


def test_sentences_end_at_marks_before_space_and_at_lines():
    assert sentences_of(LONG) == ["A street at night", "It rains, 3.5 mm an hour", "Two people wait", "The bus is late"]
    assert sentences_of("one</s>two") == ["one", "two"] and sentences_of(" ... ") == ["..."]


def test_sentences_are_drawn_twice_only_where_they_run_out():
    chance = np.random.default_rng(0)
    assert len(set(drawn_captions(sentences_of(LONG), 4, chance))) == 4
    assert len(drawn_captions(sentences_of("One. Two."), 5, chance)) == 5
    assert {drawn_captions(sentences_of(LONG), 1, chance)[0] for _ in range(60)} == set(
        sentences_of(LONG)
    )  # the last one too


def test_the_first_sentence_ends_at_a_full_stop_before_a_space():
    assert first_sentence("v1.5 of\nit. More. Still") == "v1.5 of it"
    assert first_sentence("Just one.") == "Just one."
