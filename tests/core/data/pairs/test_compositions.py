"""Drawn scenes whose captions have the same words."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt.core.data.pairs.compositions import COUNT, KINDS, draw_composition, drawn_compositions


@pytest.mark.parametrize("kind", KINDS)
def test_partners_have_the_same_words_and_another_picture(kind):
    for number, each in enumerate(drawn_compositions(kind, 12, seed=3)):
        partner = each.partner
        assert partner.partner == each and partner.key == each.key
        assert each.caption not in (partner.caption, partner.turned_caption)
        if kind != COUNT:  # of which one is "a", without a plural
            words = [sorted(text.replace("an ", "a ").split()) for text in (each.caption, partner.caption)]
            assert words[0] == words[1]
        one, other = draw_composition(each, number), draw_composition(partner, number)
        assert one.shape == other.shape == (96, 96, 3) and one.dtype == np.uint8
        assert (one[0, 0] == other[0, 0]).all() and (one != other).mean() > 0.005
        assert np.array_equal(one, draw_composition(each, number))


def test_turned_captions_say_the_same_of_the_other_thing_first():
    for kind in KINDS:
        for each in drawn_compositions(kind, 6, seed=1):
            first, second = (part.words for part in each.parts)
            assert each.caption.startswith(first) and each.caption.endswith(second)
            assert each.turned_caption.startswith(second) and each.turned_caption.endswith(first)
    place = drawn_compositions("place", 1, seed=0)[0]
    sides = {"left", "right"}
    assert sides & set(place.caption.split()) != sides & set(place.turned_caption.split())


@pytest.mark.parametrize("kind", KINDS)
def test_no_caption_is_drawn_twice_and_those_of_a_test_set_can_be_left_out(kind):
    def said(scenes):
        both = (one for each in scenes for one in (each, each.partner))
        return [frozenset((each.caption, each.turned_caption)) for each in both]

    held_out = drawn_compositions(kind, 50, seed=1)
    others = drawn_compositions(kind, 160, seed=2, without=held_out)
    assert len(others) == 160 and len({text for each in said([*held_out, *others]) for text in each}) == 4 * 210
    assert drawn_compositions(kind, 50, seed=1) == held_out != drawn_compositions(kind, 50, seed=2)


def test_there_are_as_many_colour_scenes_as_the_page_of_the_function_says():
    assert len(drawn_compositions("colour", 230, seed=0)) == 225
