"""Queries of a text, an image and both; and the page of what they found."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from vladapt.core.errors import DataError
from vladapt.core.retrieval import Entry, Hit, mixed
from vladapt.core.retrieval.page import Asked, write_page

TEXT, IMAGE = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 5.0])


def test_both_weigh_the_same_by_default_whatever_their_lengths():
    assert torch.allclose(mixed(TEXT, IMAGE), torch.tensor([0.5, 0.5]).sqrt())


@pytest.mark.parametrize(("weight", "wanted"), [(1.0, [1.0, 0.0]), (0.0, [0.0, 1.0]), (0.8, [0.9701425, 0.2425356])])
def test_the_weight_is_the_share_of_the_text(weight, wanted):
    assert torch.allclose(mixed(TEXT, IMAGE, weight), torch.tensor(wanted))


def test_one_alone_is_brought_to_unit_length():
    assert mixed(TEXT, None).tolist() == [1, 0] and mixed(None, IMAGE).tolist() == [0, 1]


def test_a_query_that_is_no_number_is_refused():
    for given, kind in (((TEXT * torch.nan, IMAGE), "text"), ((None, IMAGE * torch.inf), "image")):
        with pytest.raises(DataError, match=f"NaN or infinity for the {kind} of the query; give another {kind}"):
            mixed(*given)


@pytest.fixture
def page(tmp_path):
    """page(hits, asked) -> the HTML; images whose source is "gone" cannot be read."""

    def load(item):
        if item.source.name == "gone":
            raise DataError(f"{item.source}: no longer there")
        return np.full((40, 60, 3), 90, np.uint8)

    def write(hits, asked, holds="images"):
        file = tmp_path / "deep" / "found.html"
        write_page(file, asked, hits, {"entries": 1234, "holds": holds, "backbone": {"spec": "toy"}}, load)
        return file.read_text()

    return write


def test_the_page_shows_the_pictures_and_needs_nothing_beside_it(page):
    html = page([Hit(1, 0.51234, Entry("a.png", "/d/a.png", {}, ("a cat", "a grey cat")))], Asked("a cat"))
    assert html.count("data:image/jpeg;base64,") == 1 and "0.5123" in html and "a grey cat" in html
    assert "1 of 1,234 images, by toy" in html
    assert re.findall(r'(?:src|href)="(?!data:)', html) == [] and "http" not in html


def test_a_picture_that_is_gone_is_shown_as_its_reason(page):
    html = page([Hit(1, 0.5, Entry("a.png", "/d/gone"))], Asked("a cat"))
    assert "no longer there" in html and "data:image" not in html


def test_the_image_searched_for_is_shown_with_its_share(page):
    asked = Asked("at night", "day.png", np.zeros((30, 30, 3), np.uint8), 0.25)
    html = page([], asked)
    assert html.count("data:image") == 1 and "the text weighs 25 %" in html and "and day.png" in html


def test_texts_are_a_list_without_frames(page):
    html = page([Hit(1, 0.5, Entry("line 3", captions=("a red bus",)))], Asked("bus"), holds="texts")
    assert "a red bus" in html and 'class="frame"' not in html and 'class="texts"' in html


def test_what_users_wrote_is_never_markup(page):
    attack = "<script>alert(1)</script>"
    html = page([Hit(1, 0.5, Entry(attack, "/d/a.png", {}, (attack,)))], Asked(attack, attack))
    assert "<script" not in html and html.count("&lt;script&gt;") >= 4


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    facts = {"entries": 1, "holds": "images", "backbone": {"spec": "toy"}}
    with pytest.raises(DataError, match=r"--html .*cannot be written"):
        write_page(tmp_path / "file" / "x.html", Asked("a"), [], facts, None)
