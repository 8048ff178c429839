"""The page on the architecture shows the layers as they are declared, and the way that a fit takes."""

import re

import architecture
import pytest

from vladapt.core.registry.catalogue import PACKAGE_ROOT

PAGE = PACKAGE_ROOT / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def page():
    if not PAGE.is_file():
        pytest.skip("the pages are not installed")
    return PAGE.read_text(encoding="utf-8")


def test_the_picture_is_of_the_declared_layers(page):
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.picture()


def test_every_room_has_a_place_in_the_picture(page):
    rooms = {file.parent.name for file in (PACKAGE_ROOT / "core").glob("*/__init__.py")}
    assert rooms <= {room for row in architecture.layers((PACKAGE_ROOT / "pyproject.toml").read_text()) for room in row}


def test_a_room_on_another_row_changes_the_picture():
    assert architecture.svg([["runs"], ["training"]]) != architecture.svg([["training"], ["runs"]])


def test_the_files_of_the_way_are_twelve_and_there(page):
    steps = re.findall(r"^\| (\d+) \| \[`([\w/.]+)`\]\(\.\./([\w/.]+)\)", page, re.M)
    assert [int(number) for number, _, _ in steps] == list(range(1, 13))
    assert all(shown == linked and (PACKAGE_ROOT / linked).is_file() for _, shown, linked in steps)
