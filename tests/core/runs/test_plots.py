"""The curve of accuracy over shots, and the pictures of a page."""

from __future__ import annotations

import base64
import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.errors import DataError
from vladapt.core.runs.plots import accuracy_over_shots, mean_and_deviation, mean_and_error, spread_apart
from vladapt.core.runs.sections import data_uri

NAMES = ["zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "ape", "ape-t", "coop"]


def rows(shots=(1, 4, 16), **extra):
    return [
        {"adapter": name, "shots": count, "seed": seed, "accuracy": 0.3 + 0.01 * i * count / 4 + 0.01 * seed, **extra}
        for i, name in enumerate(NAMES)
        for count in shots
        for seed in (1, 2, 3)
    ]


def test_it_writes_a_png_and_an_svg_that_name_every_adapter(tmp_path):
    png, svg = accuracy_over_shots(rows(), tmp_path / "curve")
    assert (png, svg) == (tmp_path / "curve.png", tmp_path / "curve.svg")
    assert Image.open(png).size[0] > 1000
    text = svg.read_text()
    assert all(f">{name}</text>" in text for name in NAMES)
    assert "accuracy (%)" in text and all(f">{count}</text>" in text for count in (1, 4, 16))


def test_the_same_rows_make_the_same_files(tmp_path):
    first = [path.read_bytes() for path in accuracy_over_shots(rows(), tmp_path / "a")]
    second = [path.read_bytes() for path in accuracy_over_shots(rows(), tmp_path / "b")]
    other = [path.read_bytes() for path in accuracy_over_shots(rows(shots=(1, 2, 16)), tmp_path / "c")]
    assert first == second
    assert first[0] != other[0] and first[1] != other[1]


def test_several_labels_are_drawn_by_auroc_and_undefined_scores_are_left_out(tmp_path):
    scored = rows(auroc=0.8, **{"auroc/opacity": 0.8})
    scored[0]["auroc"] = None
    _, svg = accuracy_over_shots(scored, tmp_path / "curve")
    assert "macro AUROC" in svg.read_text() and "accuracy (%)" not in svg.read_text()
    _, svg = accuracy_over_shots(scored, tmp_path / "asked", metric="accuracy")
    assert "accuracy (%)" in svg.read_text()


def test_one_number_of_shots_and_no_zero_shot_can_be_drawn(tmp_path):
    only = [row for row in rows(shots=(4,)) if row["adapter"] == "ape"]
    _, svg = accuracy_over_shots(only, tmp_path / "curve")
    assert ">ape</text>" in svg.read_text() and "zero-shot" not in svg.read_text()


def test_zero_shot_is_a_dashed_line(tmp_path):
    _, svg = accuracy_over_shots([row for row in rows() if row["adapter"] == "zero-shot"], tmp_path / "dashed")
    assert "stroke-dasharray" in svg.read_text()
    _, svg = accuracy_over_shots([row for row in rows() if row["adapter"] == "ape"], tmp_path / "solid")
    assert "stroke-dasharray" not in svg.read_text()


def test_where_nothing_can_be_written_one_line_says_so(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        accuracy_over_shots(rows(), tmp_path / "nowhere" / "curve")


def test_the_error_bar_is_the_standard_error_of_the_mean():
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(3**-0.5))
    assert mean_and_error([4.0]) == (4.0, 0.0)


@settings(max_examples=50, deadline=None)
@given(places=st.lists(st.floats(0, 1), max_size=8).map(sorted))
def test_names_keep_their_order_and_their_distance(places):
    moved = spread_apart(places, 0.05)
    assert len(moved) == len(places)
    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(moved))
    assert sum(moved) == pytest.approx(sum(places))  # a crowd stays where it was


def test_names_that_do_not_touch_stay_at_their_place():
    assert spread_apart([0.1, 0.5, 0.9], 0.05) == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (np.zeros((400, 100, 3), np.uint8), (42, 168)),
        (np.ones((10, 10, 3), np.float32), (10, 10)),
        (np.zeros((5, 20, 30, 3), np.uint8), (30, 20)),
        (np.zeros((1, 1, 3), np.uint8), (1, 1)),
    ],
    ids=["large", "float", "clip", "one pixel"],
)
def test_any_decoded_image_makes_a_small_picture(image, size):
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(image).split(",")[1])))
    assert picture.size == size and picture.mode == "RGB"


def test_float_pictures_keep_their_brightness():
    image = np.full((8, 8, 3), 0.5, np.float32)
    image[0, 0] = np.nan
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(image).split(",")[1])))
    assert abs(picture.getpixel((6, 6))[0] - 128) < 4


def test_over_splits_the_bar_is_the_standard_deviation_and_the_plot_says_so(tmp_path):
    _, seeds = accuracy_over_shots(rows(), tmp_path / "seeds")
    _, splits = accuracy_over_shots([{**row, "split": row["seed"]} for row in rows()], tmp_path / "splits")
    assert "standard error over seeds" in seeds.read_text()
    assert "standard deviation over splits" in splits.read_text()
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0) and mean_and_deviation([4.0]) == (4.0, 0.0)


def test_the_largest_class_is_a_line_unless_it_lies_far_below(tmp_path):
    def drawn(level, name):
        floor = [{**row, "adapter": "largest-class", "accuracy": level} for row in rows()]
        return accuracy_over_shots([*rows(), *floor], tmp_path / name)[1].read_text()

    assert ">largest-class</text>" in drawn(0.25, "near") and ">largest-class</text>" not in drawn(0.05, "far")


def test_kinds_of_tasks_are_the_axis_where_rows_have_them(tmp_path):
    """Zero-shot is a curve then, with a point per kind, and no dashed level."""
    kinds = ("all", "1-4 of 64", "stream, low")
    of_tasks = [
        {"adapter": name, "shots": 0, "seed": 1, "tasks": kind, "accuracy": 0.5 + 0.1 * place}
        for name in ("zero-shot", "stat-a")
        for place, kind in enumerate(kinds)
    ]
    _, svg = accuracy_over_shots(of_tasks, tmp_path / "curve")
    text = svg.read_text()
    assert all(f">{kind}</text>" in text for kind in kinds) and ">kind of tasks</text>" in text
    assert "labelled images per class" not in text and "stroke-dasharray" not in text
    _, svg = accuracy_over_shots([{**row, "tasks": ""} for row in of_tasks], tmp_path / "shots")
    assert "stroke-dasharray" in svg.read_text() and ">0</text>" in svg.read_text()
