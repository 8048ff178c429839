"""Windows of one picture joined: boxes kept once, scores blended, outlines moved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.contracts.items import DomainData, Item
from vladapt.core.errors import DataError
from vladapt.domains.open_vocab.data.outlines import decode, encode
from vladapt.domains.open_vocab.inference.joined import (
    JoinedMap,
    falling,
    join_boxes,
    moved_outline,
    picture_window,
    pictures_of,
    whole_pictures,
)
from vladapt.domains.open_vocab.inference.predictions import PredictedBoxes
from vladapt.domains.open_vocab.inference.saving import save_boxes, save_maps

NONE = np.zeros((2, 2), bool)


def found(*rows, outlines=None):
    """Rows of (x0, y0, x1, y1, score, label)."""
    table = np.array(rows, float).reshape(-1, 6)
    return PredictedBoxes(table[:, :4], table[:, 4], table[:, 5].astype(int), outlines)


def test_a_thing_that_two_windows_see_is_kept_once_the_surer_one():
    parts = [((0, 0, 40, 40), found((30, 10, 38, 20, 0.6, 0))), ((20, 0, 40, 40), found((11, 10, 19, 20, 0.9, 0)))]
    joined = join_boxes(parts, (40, 60), NONE)
    assert joined.boxes.tolist() == [[31, 10, 39, 20]] and joined.scores.tolist() == [0.9]


def test_a_thing_cut_at_a_window_s_edge_yields_to_the_whole_though_it_is_surer():
    parts = [((0, 0, 40, 40), found((34, 10, 40, 20, 0.9, 0))), ((20, 0, 40, 40), found((14, 10, 34, 20, 0.5, 0)))]
    joined = join_boxes(parts, (40, 60), NONE)
    assert joined.boxes.tolist() == [[34, 10, 54, 20]]
    at_the_picture_s_end = [((0, 0, 40, 40), found((0, 10, 6, 20, 0.9, 0)))]
    assert len(join_boxes(at_the_picture_s_end, (40, 60), NONE).scores) == 1


def test_other_things_other_names_and_boxes_of_one_window_stay():
    one, other = (0, 0, 40, 40), (20, 0, 40, 40)
    parts = [(one, found((30, 10, 38, 20, 0.6, 0), (30, 10, 38, 21, 0.5, 0))), (other, found((10, 10, 18, 20, 0.9, 1)))]
    assert len(join_boxes(parts, (40, 60), NONE).scores) == 3
    assert len(join_boxes(parts, (40, 60), ~np.eye(2, dtype=bool)).scores) == 1  # names that share no thing
    far = [(one, found((2, 2, 8, 8, 0.6, 0))), (other, found((30, 10, 38, 20, 0.9, 0)))]
    assert join_boxes(far, (40, 60), NONE).scores.tolist() == [0.9, 0.6]


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.integers(0, 6), st.integers(0, 6))
def test_a_moved_outline_is_that_of_the_picture(seed, height, width, top, left):
    mask = (np.random.default_rng(seed).random((height, width)) < 0.5).astype(np.uint8)
    size = (height + top + 2, width + left + 3)
    whole = np.zeros(size, bool)
    whole[top : top + height, left : left + width] = mask
    outline = moved_outline(encode(mask), (left, top, width, height), size)
    assert (decode(outline) == whole).all() and outline == encode(whole.astype(np.uint8))


def test_outlines_come_along_with_their_boxes():
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3, 1:4] = 1
    parts = [((2, 1, 4, 4), found((1, 1, 4, 3, 0.9, 0), outlines=[encode(mask)]))]
    joined = join_boxes(parts, (6, 8), NONE)
    assert decode(joined.outlines[0])[2:4, 3:6].all() and decode(joined.outlines[0]).sum() == 6


def test_scores_are_blended_by_weights_that_fall_to_the_edges_and_few_rows_are_held():
    generator, size = torch.Generator().manual_seed(0), (20, 18)
    windows = [(left, top, 8, 8) for top in (0, 6, 12) for left in (0, 5, 10)]
    scores = [torch.rand(3, 8, 8, generator=generator) for _ in windows]
    total, weight = torch.zeros(3, *size), torch.zeros(size)
    joined, held = JoinedMap(size, lambda blended: blended.argmax(dim=0, keepdim=True)), 0
    for (left, top, wide, high), one in zip(windows, scores):
        joined.add((left, top, wide, high), one)
        held = max(held, len(joined.weight))
        of_window = falling(high)[:, None] * falling(wide)
        total[:, top : top + high, left : left + wide] += of_window * one
        weight[top : top + high, left : left + wide] += of_window
    assert (joined.finished() == (total / weight).argmax(dim=0).numpy()).all() and held == 8
    assert falling(8)[0] < 0.05 < 0.9 < falling(8)[4]


def test_what_no_window_shows_has_no_class():
    joined = JoinedMap((6, 8), lambda blended: blended.argmax(dim=0, keepdim=True))
    joined.add((4, 2, 4, 3), torch.ones(2, 3, 4))
    classes = joined.finished()
    assert (classes[2:5, 4:] == 0).all() and (classes == -1).sum() == 6 * 8 - 12


def test_windows_are_told_from_pictures_that_are_whole():
    def item(name, **decode):
        return Item(name, Path(name), decode)

    one, other = (
        item("a#0_0", box=[0, 0, 8, 8], **{Item.WHOLE: [8, 12]}),
        item("a#0_4", window=[4, 0, 8, 8], **{Item.WHOLE: [8, 12]}),
    )
    plain = item("b", box=[1, 2, 3, 4])
    runs = [
        (name, size, [of for of, _ in pairs])
        for name, size, pairs in pictures_of((i, None) for i in (one, other, plain))
    ]
    assert runs == [("a", (8, 12), [one, other]), ("b", None, [plain])]
    assert (picture_window(one), picture_window(other)) == ((0, 0, 8, 8), (4, 0, 8, 8))

    class Data:
        items = (one, other, plain)

    pictures = whole_pictures(Data)
    assert pictures["a"].decode == {} and pictures["b"] == plain


def test_a_picture_too_large_to_be_shown_is_saved_without_one(tmp_path):
    def load(item):
        raise DataError("too large")

    items = [Item(f"a#0_{left}", Path("a"), {"box": [left, 0, left + 8, 8], Item.WHOLE: [8, 12]}) for left in (0, 4)]
    data = DomainData(items, (), load)
    mask = np.zeros((8, 12), np.uint8)
    mask[2:5, 3:9] = 1
    maps = save_maps([{"id": "a", "size": [8, 12], "masks": {"roof": encode(mask)}}], data, ("pond", "roof"), tmp_path)
    assert [file.name for file in maps] == ["a.png", "classes.json"] and maps[0].parent.name == "masks"
    row = {"id": "a", "size": [8, 12], "boxes": [[1, 2, 3, 4]], "scores": [0.9], "labels": ["roof"]}
    assert [file.name for file in save_boxes([row], data, ("pond", "roof"), tmp_path)] == ["predictions.json"]
