"""EDA: each of its changes, how much of a text they touch, and that words only change places or go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.data.pairs.augment_text import TextAugment
from vladapt.core.errors import ConfigError

TEXT = "a big dog, runs over the wet grass in the park"
WORDS = ["red", "dog", "cat", "on", "a", "mat.", "very,", "Big"]
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)


def results(text=TEXT, runs=400, **options):
    augment = TextAugment(**options)
    return [augment(text, np.random.default_rng(seed)) for seed in range(runs)]


@given(words, st.integers(0, 999))
def test_words_only_move_or_go(text, seed):
    augmented = TextAugment()(text, np.random.default_rng(seed))
    left = text.split()
    for word in augmented.split():
        left.remove(word)
    assert augmented and augmented == TextAugment()(text, np.random.default_rng(seed))


def test_words_are_swapped_and_left_out():
    found = results()
    assert any(sorted(text.split()) == sorted(TEXT.split()) and text != TEXT for text in found)
    assert any(len(text.split()) < len(TEXT.split()) for text in found)


def test_a_swap_moves_two_words_at_alpha_of_one_tenth_and_more_at_more():
    def moved(text):
        return sum(a != b for a, b in zip(text.split(), TEXT.split(), strict=True))

    def most_moved(**options):
        return max(moved(t) for t in results(**options) if len(t.split()) == len(TEXT.split()))

    assert most_moved() == 2 < most_moved(alpha=0.4)


def test_alpha_is_the_share_of_words_left_out():
    text = " ".join(["word"] * 2000)
    shares = [1 - len(t.split()) / 2000 for t in results(text, 30, alpha=0.25)]
    assert any(abs(share - 0.25) < 0.05 for share in shares)


def test_never_all_words_are_left_out():
    assert {len(text.split()) for text in results("red dog", alpha=1.0)} == {1, 2}


def test_one_word_stays():
    assert set(results("dog", 20)) == {"dog"}


@pytest.mark.parametrize("alpha", [0, -0.1, 1.1])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ConfigError, match="alpha"):
        TextAugment(alpha=alpha)
