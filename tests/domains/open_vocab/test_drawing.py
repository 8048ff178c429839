"""Pictures of what was found: where colours are, what stays as it is, how large and legible they come out."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from vladapt.domains.open_vocab import drawing
from vladapt.domains.open_vocab.drawing import LEGIBLE, colour_of, draw_boxes, draw_classes, palette

GREY = np.full((400, 500, 3), 120, np.uint8)


def _is(pixel, colour) -> bool:
    return tuple(int(v) for v in pixel) == tuple(colour)


def test_neighbouring_classes_have_colours_that_differ():
    colours = np.array([colour_of(label) for label in range(40)], dtype=int)
    assert len({tuple(colour) for colour in colours}) == 40 and colours.min() >= 0 and colours.max() <= 255
    assert min(np.abs(one - other).max() for one, other in pairwise(colours)) > 60


def test_a_box_is_an_outline_in_its_class_colour_and_its_text_above():
    drawn = draw_boxes(GREY, np.array([[100, 150, 200, 250]]), [3], ["cat 0.97"])
    assert drawn.shape == GREY.shape and drawn.dtype == np.uint8 and (GREY == 120).all()
    assert all(_is(drawn[y, x], colour_of(3)) for y, x in ((150, 190), (250, 150), (200, 100), (200, 200)))
    assert _is(drawn[200, 150], (120, 120, 120)) and _is(drawn[148, 101], colour_of(3))
    bare = draw_boxes(GREY, np.array([[100, 150, 200, 250]]), [3], [""])
    assert (drawn != bare).any(axis=2)[:150].sum() > 200


@pytest.mark.parametrize("box", [[0, 0, 20, 20], [480, 0, 500, 30], [-30, -30, 600, 600], [490, 390, 500, 400]])
def test_texts_stay_inside_the_picture(box):
    drawn = draw_boxes(GREY, np.array([box]), [0], ["a rather long name 0.50"])
    bare = draw_boxes(GREY, np.array([box]), [0], [""])
    assert drawn.shape == GREY.shape and (drawn != bare).any()


def test_a_text_longer_than_the_picture_begins_in_it():
    drawn = draw_boxes(GREY, np.array([[50, 200, 90, 240]]), [0], ["word " * 60])
    assert drawn.shape == GREY.shape


def test_no_box_leaves_the_picture_as_it_is():
    assert (draw_boxes(GREY, np.zeros((0, 4)), [], [], []) == GREY).all()


def test_masks_tint_their_pixels_in_the_boxes_colour():
    mask = np.zeros((400, 500), bool)
    mask[300:320, 300:330] = True
    drawn = draw_boxes(GREY, np.array([[10, 200, 50, 250]]), [1], ["x"], [mask])
    expected = np.round(0.55 * 120 + 0.45 * np.array(colour_of(1)))
    assert np.abs(drawn[310, 310] - expected).max() <= 1 and _is(drawn[330, 310], (120, 120, 120))


def test_small_images_are_enlarged_whole_times_with_their_boxes_and_masks():
    small = np.full((32, 48, 3), 120, np.uint8)
    mask = np.zeros((32, 48), bool)
    mask[20:30, 30:40] = True
    drawn = draw_boxes(small, np.array([[4, 10, 24, 28]]), [2], ["x 0.50"], [mask])
    times = drawn.shape[0] // 32
    assert drawn.shape == (32 * times, 48 * times, 3) and times == LEGIBLE // 48
    assert _is(drawn[28 * times, 14 * times], colour_of(2)) and _is(drawn[20 * times, 14 * times], (120, 120, 120))
    assert not _is(drawn[25 * times, 35 * times], (120, 120, 120))
    assert draw_boxes(np.zeros((1, 1, 3), np.uint8), np.zeros((0, 4)), [], []).shape == (LEGIBLE, LEGIBLE, 3)


def test_a_map_is_tinted_by_class_with_a_key_of_those_that_are_there():
    classes = np.full((400, 500), 255)
    classes[:100], classes[100:200], classes[200:300] = 0, 1, 2
    drawn = draw_classes(GREY, classes, ["background", "cat", "dog", "emu"], hidden=[0])
    key = drawn[400:]
    assert drawn.shape[1:] == (500, 3) and 15 < len(key) < 60
    assert _is(drawn[50, 50], (120, 120, 120)) and _is(drawn[350, 50], (120, 120, 120))
    assert np.abs(drawn[150, 50] - (0.55 * 120 + 0.45 * np.array(colour_of(1)))).max() <= 1
    shown = {tuple(int(v) for v in pixel) for pixel in key.reshape(-1, 3)}
    assert colour_of(1) in shown and colour_of(2) in shown
    assert colour_of(0) not in shown and colour_of(3) not in shown


def test_the_key_of_many_classes_takes_more_lines_and_none_has_none():
    classes = np.arange(40).repeat(5000).reshape(400, 500)
    names = [f"a class {number}" for number in range(40)]
    many = draw_classes(GREY, classes, names)
    assert len(many) - 400 > 3 * (len(draw_classes(GREY, classes // 40, names)) - 400)
    assert (draw_classes(GREY, np.full((400, 500), 255), names) == GREY).all()


def test_classes_of_any_number_have_a_colour_and_a_name():
    classes = np.full((400, 500), 300)
    names = [str(number) for number in range(400)]
    assert _is(draw_classes(GREY, np.full((400, 500), 255), names)[10, 10], GREY[0, 0]) is False
    assert not _is(draw_classes(GREY, classes, names)[10, 10], GREY[0, 0])


def test_a_palette_has_the_colours_of_its_classes_and_white_for_what_is_ignored():
    colours = np.array(palette(3)).reshape(256, 3)
    assert [tuple(colour) for colour in colours[:3].tolist()] == [colour_of(label) for label in range(3)]
    assert (colours[3:] == 255).all()


def test_texts_do_not_cover_each_other(monkeypatch):
    """Three names for one thing, a neighbour, one at the lower edge; the surest, which comes last, is above its box."""
    tags, original = [], drawing._tag
    monkeypatch.setattr(drawing, "_tag", lambda *given: tags.append(original(*given)) or tags[-1])
    boxes = [[10, 300, 90, 399], [105, 145, 200, 250], *[[100, 150, 200, 250]] * 3]
    draw_boxes(GREY, np.array(boxes), range(5), ["cat 0.41", "hose 0.55", "cat 0.66", "hose 0.79", "raccoon 0.97"])
    assert len(tags) == 5 and tags[0][3] == 150 and tags[0][0] == 100
    for one, other in combinations(tags, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert all(x0 >= 0 and y0 >= 0 and x1 <= 500 and y1 <= 400 for x0, y0, x1, y1 in tags)


def test_more_texts_than_there_is_room_for_are_still_drawn():
    drawn = draw_boxes(GREY, np.array([[0, 0, 490, 390]] * 60), range(60), ["a name 0.50"] * 60)
    assert drawn.shape == GREY.shape
