"""Panoptic quality against its definition, and what counts as a mistake."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.domains.open_vocab.scores.detection import Truth
from vladapt.domains.open_vocab.scores.panoptic import VOID, PanopticCounts, true_segments

SIDE = 8
NAMES = ("cat", "dog", "sky")


def segments(*regions: tuple[int, int, slice, slice]) -> np.ndarray:
    """(SIDE, SIDE, 2): ground of no class, and regions of (class, instance, rows, columns)."""
    made = np.zeros((SIDE, SIDE, 2), dtype=np.int64)
    made[..., 0] = len(NAMES)
    for label, instance, rows, columns in regions:
        made[rows, columns] = (label, instance)
    return made


def scored(*pairs: tuple[np.ndarray, np.ndarray], stuff=(), novel=()):
    counts = PanopticCounts(NAMES, stuff)
    for truth, found in pairs:
        counts.add(truth, found)
    return counts.scores(novel)


TOP, BOTTOM, LEFT, RIGHT = slice(0, 4), slice(4, 8), slice(0, 4), slice(4, 8)


def test_what_is_found_as_it_is_has_all():
    truth = segments((0, 1, TOP, LEFT), (1, 2, BOTTOM, RIGHT))
    found = segments((0, 9, TOP, LEFT), (1, 4, BOTTOM, RIGHT))
    scores = scored((truth, found), novel=["dog"])
    assert scores.metrics == {"PQ": 1, "SQ": 1, "RQ": 1, "base_PQ": 1, "novel_PQ": 1, "harmonic_PQ": 1}
    assert scores.per_class["sky"] == {"PQ": None, "SQ": None, "RQ": None}


def test_the_definition():
    truth = segments((0, 1, TOP, LEFT), (0, 2, BOTTOM, LEFT), (1, 3, TOP, RIGHT))
    # a cat by 3 of 4 columns (IoU 0.75), a cat not found, a dog called a cat
    found = segments((0, 1, TOP, slice(0, 3)), (0, 2, TOP, RIGHT))
    scores = scored((truth, found))
    assert scores.per_class["cat"]["SQ"] == pytest.approx(0.75)
    assert scores.per_class["cat"]["RQ"] == pytest.approx(1 / (1 + 0.5 + 0.5))
    assert scores.per_class["cat"]["PQ"] == pytest.approx(0.375)
    assert scores.per_class["dog"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0}
    assert scores.metrics["PQ"] == pytest.approx(0.375 / 2)


def test_two_objects_found_as_one_are_not_found():
    truth = segments((0, 1, TOP, LEFT), (0, 2, TOP, RIGHT))
    found = segments((0, 1, TOP, slice(0, 8)))
    assert scored((truth, found)).metrics["PQ"] == 0


def test_regions_of_stuff_are_one():
    truth = segments((2, 1, TOP, LEFT), (2, 2, BOTTOM, RIGHT))
    found = segments((2, 5, TOP, LEFT), (2, 5, BOTTOM, RIGHT))
    assert scored((truth, found), stuff=["sky"]).metrics["PQ"] == 1
    assert scored((truth, found)).metrics["PQ"] == 0


def test_what_is_found_on_bare_ground_is_a_mistake_and_on_ignored_objects_none():
    found = segments((0, 1, TOP, LEFT), (0, 2, BOTTOM, RIGHT))
    bare = scored((segments((0, 1, TOP, LEFT)), found))
    assert bare.metrics["RQ"] == pytest.approx(1 / 1.5)
    ignored = scored((segments((0, 1, TOP, LEFT), (VOID, 0, BOTTOM, RIGHT)), found))
    assert ignored.metrics["RQ"] == 1


def test_an_annotation_becomes_segments_and_mms_map_another():
    square = [[0.0, 0, 4, 0, 4, 4, 0, 4]]
    other = [[4.0, 4, 8, 4, 8, 8, 4, 8]]
    third = [[0.0, 4, 4, 4, 4, 8, 0, 8]]
    truth = Truth(
        boxes=[[0, 0, 4, 4], [4, 4, 8, 8], [0, 4, 4, 8]],
        labels=[1, 0, 0],
        outlines=[square, other, third],
        ignored=[False, False, True],
        size=(SIDE, SIDE),
    )
    wanted = segments((1, 1, TOP, LEFT), (0, 2, BOTTOM, RIGHT), (VOID, 0, BOTTOM, LEFT))
    np.testing.assert_array_equal(true_segments(truth, len(NAMES), (SIDE, SIDE)), wanted)
    pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
    panoptic = np.full((SIDE, SIDE), 2)  # the model knows two names: this is none of them
    panoptic[TOP, LEFT], panoptic[BOTTOM, RIGHT] = 0 + 1000, 1 + 2000
    counts = PanopticCounts(NAMES)
    counts.add_sample(truth, panoptic, np.array([1, 0]))  # its names, in another order
    assert counts.scores().metrics["PQ"] == 1
    empty = Truth(boxes=[], labels=[])
    assert (true_segments(empty, 3, (2, 3)) == [3, 0]).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=16, max_size=16), st.randoms())
def test_order_and_numbers_of_instances_mean_nothing(cells, random):
    truth = np.array(cells).reshape(4, 4, 2)
    again = truth.copy()
    names = list(range(10, 14))
    random.shuffle(names)
    again[..., 1] = np.array(names)[truth[..., 1]]
    assert scored((truth, again)).metrics["PQ"] == pytest.approx(1.0)
    both = scored((truth, again), (again, truth[::-1].copy())).metrics
    assert 0 <= both["PQ"] <= min(both["SQ"], both["RQ"]) + 1e-9
