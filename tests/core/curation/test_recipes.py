"""Recipes of curation, and one run of several stages."""

import json

import pytest

from vladapt.core.curation import RECIPES, CurationRecipe, curation_recipe
from vladapt.core.curation.recipes import DECONTAMINATE, CuratorStage
from vladapt.core.engine.curate_run import run_curation
from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.core.registry import build_curator

MINE = CurationRecipe("mine", "", (CuratorStage("random", {"fraction": 0.8}), CuratorStage(DECONTAMINATE)))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_of_curators_with_options_that_they_have(name):
    recipe = curation_recipe(name)
    assert DECONTAMINATE in [stage.curator for stage in recipe.stages]
    for stage in recipe.without(DECONTAMINATE).stages:
        build_curator(stage.curator, **stage.options)


def test_options_are_those_of_a_stage_of_the_recipe():
    changed = MINE.with_options({"random.fraction": 0.5})
    assert changed.stages[0].options == {"fraction": 0.5}
    with pytest.raises(ConfigError, match=r"write CURATOR\.OPTION=VALUE with one of random"):
        MINE.with_options({"exact.keep": 1})
    with pytest.raises(UnknownNameError, match="did you mean small-domain"):
        curation_recipe("small-domein")


def test_a_run_writes_a_list_tars_a_page_and_a_record(pairs, tmp_path):
    how = {"features": pairs["root"] / "features", "write": "list,tars"}
    made = run_curation(MINE, [pairs["root"] / "shards"], tmp_path / "out", **how)
    assert (made.pairs, made.kept) == (30, 24)
    assert set(made.written) == {"list", "tars", "card", "report"}
    assert all(path.exists() for path in made.written.values())
    assert "No test set was given" in made.notes[0]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["recipe"] == "mine" and [each["curator"] for each in record["stages"]] == ["random"]
    again = run_curation(MINE, [pairs["root"] / "shards"], tmp_path / "out", **how)
    assert [each.folder for each in again.stages] == [each.folder for each in made.stages]


def test_what_cannot_be_written_is_refused_before_anything_is_read(pairs, tmp_path):
    with pytest.raises(ConfigError, match="--write csv: give some of list, tars, uids"):
        run_curation(MINE, [pairs["root"] / "shards"], tmp_path / "out", write="csv")
    assert not (tmp_path / "out").exists()


def test_what_a_curator_lacks_is_told_before_pairs_are_embedded(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("vladapt.core.engine.curate_run.embed", lambda *args, **how: pytest.fail("embedded"))
    recipe = CurationRecipe(
        "mine", "", (CuratorStage("s-cliploss"), CuratorStage("text-based", {"entities": "absent.txt"}))
    )
    sources = [pairs["root"] / "shards"]
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        run_curation(recipe.with_options({"text-based.language": "any"}), sources, tmp_path / "out")
    by_column = CurationRecipe(
        "mine", "", (CuratorStage("clip-score", {"column": "similarity"}), CuratorStage("s-cliploss"))
    )
    with pytest.raises(DataError, match="no column 'similarity'"):
        run_curation(by_column, sources, tmp_path / "out")
