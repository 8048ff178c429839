"""How the numbers of a report are written: shares, ranks, changes and what is better."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt.core.runs.sections import Cell, CurveSection, Measure, TableSection, is_share, number, plural, worded

SHARE, NUMBER = Measure("R@1"), Measure("AUROC", kind="number")
RANK, ERROR = Measure("Rank", kind="rank", falls=True), Measure("ECE", kind="number", falls=True)


@pytest.mark.parametrize(
    "name",
    ["AP", "AP50", "AP75", "novel_AP50", "AP_small", "AR100", "mIoU", "hIoU", "IoU", "pixel_accuracy", "mean_accuracy"]
    + ["accuracy", "recall_at_1", "base_AP", "harmonic_AP50", "f1", "precision"],
)
def test_names_of_shares(name):
    assert is_share(name)


@pytest.mark.parametrize("name", ["mean_error", "APES", "images", "loss", "recalled_boxes", "MAPE", "seconds"])
def test_names_of_other_numbers(name):
    assert not is_share(name)


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        (SHARE, 0.8449, "84.5%"),
        (NUMBER, 0.93217, "0.932"),
        (RANK, 1234.56, "1,234.6"),
        (SHARE, None, "–"),
        (NUMBER, float("nan"), "–"),
    ],
)
def test_a_score_is_written_by_its_kind(measure, value, text):
    assert measure.text(value) == text


@pytest.mark.parametrize(
    ("measure", "before", "after", "text", "tone"),
    [
        (SHARE, 0.25, 0.375, "+12.5", "up"),
        (SHARE, 0.375, 0.25, "−12.5", "down"),
        (SHARE, 0.25, 0.2502, "+0.0", ""),
        (SHARE, 0.2502, 0.25, "+0.0", ""),
        (NUMBER, 0.5, 0.625, "+0.125", "up"),
        (ERROR, 0.5, 0.25, "−0.250", "up"),
        (RANK, 1200.0, 1.0, "−1,199.0", "up"),
        (RANK, 1.0, 3.0, "+2.0", "down"),
        (SHARE, None, 0.5, "–", ""),
        (SHARE, 0.5, None, "–", ""),
    ],
)
def test_a_change_has_a_sign_and_is_coloured_by_what_is_better(measure, before, after, text, tone):
    assert measure.change(before, after) == Cell(text, tone=tone)


def test_cells_of_a_score_have_its_name_or_its_value_and_what_belongs_below():
    assert Measure("Rank", "of the best", "rank", falls=True).title() == Cell("Rank ↓", "of the best")
    assert SHARE.cell(0.125, [0.1, 0.25]) == Cell("12.5%", "10.0% to 25.0%")
    assert SHARE.cell(0.125) == Cell("12.5%") and SHARE.cell(None) == Cell("–")


def test_an_interval_is_written_like_its_score():
    assert SHARE.between([0.1, 0.25]) == "10.0% to 25.0%" and SHARE.between(None) == ""


def test_cells_of_a_table_are_texts():
    table = TableSection("T", ("A",), [])
    texts = [table.cell(value).text for value in ("word", 0.5, np.float32(0.25), 43.2, 1234, None, float("inf"))]
    assert texts == ["word", "50.0%", "25.0%", "43.2", "1,234", "–", "–"]
    assert TableSection("T", ("A",), [], shares=False).cell(0.5).text == "0.5"
    cell = Cell("as it is", tone="up")
    assert table.cell(cell) is cell


def test_numbers_and_nouns():
    assert (number(0.456, True), number(0.456, False), number(None, True)) == ("45.6%", "0.456", "–")
    assert (plural(1, "image"), plural(0, "image"), plural(1200, "text")) == ("1 image", "0 images", "1,200 texts")


def test_several_curves_are_told_by_their_ends_and_empty_ones_not_at_all():
    curves = {"a": ([0, 1], [1, 0.5]), "b": ([0, 1], [float("nan"), 0.25]), "c": ([], [])}
    assert CurveSection("T", curves, "x", "y").alt == "y over x. a: 1 to 0.5; b: 0.25 to 0.25."


VIDEO = {"image": "clip", "images": "clips", "image.png": "clip.mp4", "patient": "video", "patients": "videos"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("80 test images of 4 groups (patients, for instance)", "80 test clips of 4 groups (videos, for instance)"),
        (
            "An image is called so, and an image is one of 10 images.",
            "A clip is called so, and a clip is one of 10 clips.",
        ),
        ("vladapt predict runs/a image.png", "vladapt predict runs/a clip.mp4"),
        ("its image features, for images at 224 × 224 pixels", "its image features, for images at 224 × 224 pixels"),
        ("Text to image: 2 images; image to text", "Text to clip: 2 clips; clip to text"),
        ("image_to_text/r1, of its image", "image_to_text/r1, of its clip"),
        ("trained on 12 image-text pairs; image-size", "trained on 12 clip-text pairs; image-size"),
        ("image 3.mp4 is damaged; 5 generic images of d", "image 3.mp4 is damaged; 5 generic images of d"),
        ("the class “image”, images/image.jpg, `images`", "the class “image”, images/image.jpg, `images`"),
    ],
)
def test_words_of_a_domain_stand_in_place_of_ours_and_nothing_else_changes(text, words):
    assert worded(text, VIDEO) == words and worded(text, {}) == text
