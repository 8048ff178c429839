"""Drawings of everyday things: the same ones every time, each thing unlike the others, and varied in itself."""

import numpy as np
import pytest

from vladapt.core.errors import UnknownNameError
from vladapt.core.forgetting.drawings import OTHER_NAMES, THINGS, draw
from vladapt.core.forgetting.drawings.pen import (
    FINER,
    SIDE,
    Pen,
    arc,
    box,
    mirrored,
    moved,
    rounded_box,
    smooth,
    star_outline,
)


def sheet(name: str, number: int) -> np.ndarray:
    """The thing alone, RGBA; its alpha says where it is."""
    pen = Pen(np.random.default_rng(number), outlined=number % 2 == 0)
    THINGS[name](pen)
    return np.asarray(pen.sheet)


def extent(alpha: np.ndarray) -> tuple[float, float, float]:
    rows, columns = np.nonzero(alpha)
    return rows.mean(), columns.mean(), float(np.hypot(np.ptp(rows), np.ptp(columns)))


@pytest.mark.parametrize("name", THINGS)
def test_a_drawing_is_a_function_of_name_and_number(name):
    first = draw(name, 0)
    assert first.shape == (SIDE, SIDE, 3) and first.dtype == np.uint8
    assert np.array_equal(first, draw(name, 0))
    assert not np.array_equal(first, draw(name, 1))


@pytest.mark.parametrize("name", THINGS)
def test_the_thing_is_whole_and_large_enough_to_see(name):
    for number in range(6):
        alpha = sheet(name, number)[..., 3]
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert not border.any(), f"{name} {number} is cut off"
        assert 0.01 < (alpha > 0).mean() < 0.6


@pytest.mark.parametrize("name", THINGS)
def test_place_size_and_colours_vary(name):
    rows, columns, sizes = zip(*(extent(sheet(name, n)[..., 3]) for n in range(8)))
    assert np.ptp(rows) > 10 * FINER and np.ptp(columns) > 10 * FINER
    assert max(sizes) > 1.1 * min(sizes)
    means = np.array([draw(name, n).mean(axis=(0, 1)) for n in range(8)])
    assert np.ptp(means, axis=0).max() > 20


def test_every_thing_has_an_outline_of_its_own():
    """The same pen, by the same seed, is placed alike: what differs is the thing."""
    shapes = {name: sheet(name, 3)[..., 3] > 0 for name in THINGS}
    names = list(shapes)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both, either = shapes[one] & shapes[other], shapes[one] | shapes[other]
            assert both.sum() / either.sum() < 0.93, f"{one} and {other} look alike"


def test_some_drawings_are_outlined_and_some_are_not():
    outlined, flat = Pen(np.random.default_rng(0), True), Pen(np.random.default_rng(0), False)
    for pen in (outlined, flat):
        pen.fill(box(-0.5, -0.5, 0.5, 0.5), (200, 0, 0))
    inked = [(np.asarray(pen.sheet)[..., :3] == pen.ink).all(axis=2).sum() for pen in (outlined, flat)]
    assert inked[0] > 100 and inked[1] == 0


def test_a_hole_shows_the_background():
    pen = Pen(np.random.default_rng(0), outlined=False)
    pen.disc(0, 0, 0.9, (200, 0, 0))
    before = (np.asarray(pen.sheet)[..., 3] > 0).sum()
    pen.hole(arc(0, 0, 0.45))
    assert (np.asarray(pen.sheet)[..., 3] > 0).sum() == pytest.approx(0.75 * before, rel=0.03)


def test_other_words_name_nothing_that_is_drawn():
    assert len(OTHER_NAMES) == len(set(OTHER_NAMES)) == 100
    drawn = {word for name in THINGS for word in name.split()}
    assert not drawn & set(OTHER_NAMES)


def test_an_unknown_thing_is_refused_with_what_there_is():
    with pytest.raises(UnknownNameError, match="no drawing of 'unicorn'; there are: sun, moon"):
        draw("unicorn", 0)


def test_outlines():
    assert np.allclose(np.hypot(*(arc(0.1, 0.2, 0.5) - (0.1, 0.2)).T), 0.5)
    quarter = arc(0, 0, 1, 0.5, 0, 90)
    assert np.allclose(quarter[0], (1, 0)) and np.allclose(quarter[-1], (0, 0.5))
    corners = rounded_box(-1, -0.5, 1, 0.5, 0.2)
    assert np.allclose(corners.max(axis=0), (1, 0.5)) and np.abs(corners).sum(axis=1).max() < 1.5
    radii = np.hypot(*star_outline(5, 0.4).T)
    assert np.allclose(radii[::2], 1) and np.allclose(radii[1::2], 0.4)
    assert np.allclose(moved(np.array([(1.0, 0.0)]), x=1, scale=2, turn=90), [(1, 2)])
    assert mirrored([(0, -1), (1, 0), (0, 1)]) == [(0, -1), (1, 0), (0, 1), (-1, 0)]


def test_a_smooth_curve_goes_through_its_points():
    points = [(0, 0), (1, 0), (1, 1), (0, 1)]
    for closed in (True, False):
        curve = smooth(points, closed=closed)
        assert all(np.hypot(*(curve - point).T).min() < 1e-9 for point in points)
        assert np.hypot(*np.diff(curve, axis=0).T).max() < 0.2
    assert np.allclose(smooth(points, closed=False)[[0, -1]], [points[0], points[-1]])
