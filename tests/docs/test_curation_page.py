"""docs/curation.md names every curator in the row of its command, and every recipe that it runs is there."""

import re
from pathlib import Path

import pytest

from vladapt.core.contracts.curator import STAGES
from vladapt.core.curation import RECIPES
from vladapt.core.registry import curator_class
from vladapt.core.registry.catalogue import curators

PAGE = (Path(__file__).parents[2] / "docs" / "curation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES)
def test_the_row_of_a_command_names_its_curators(stage):
    (row,) = re.findall(rf"^\| `{stage}` \|.*\|(.*)\|$", PAGE, re.MULTILINE)
    named = set(re.findall(r"`([\w-]+)`", row))
    assert named == {name for name in curators() if curator_class(name).stage == stage}


def test_recipes_that_the_page_runs_are_there():
    assert set(re.findall(r"--recipe ([\w-]+)", PAGE)) <= set(RECIPES)
