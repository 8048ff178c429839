"""Packaged recipes: listed, shown as configs that run, and each one's model built on a small backbone."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from mmengine import Config

from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.tasks.config_training.kept_plan import kept_of
from vladapt.core.tasks.config_training.runner import build_model
from vladapt.domains.open_vocab.domain import OpenVocab
from vladapt.domains.open_vocab.vocabulary import NamedClasses

FILES = OpenVocab().recipes
RECIPES = sorted(FILES)
BY_ID = ("hf-detector", "hf-segmentor", "sam", "sam3")
"""Their models are named by --start, and built in tests/domains/open_vocab/hub_models."""


def test_every_recipe_is_listed_with_a_line_on_it(command):
    rows = {row["name"]: row["what"] for row in command("list", "recipes", "--json").json["recipes"]}
    for name in RECIPES:
        assert rows[f"open-vocab/{name}"].endswith((".", ")")) and len(rows[f"open-vocab/{name}"]) < 130


@pytest.mark.parametrize("name", RECIPES)
def test_a_shown_recipe_is_a_config_that_says_the_same(command, place, name):
    shown = command("show", f"open-vocab/{name}")
    assert shown.code == 0 and shown.err == ""
    copy = place / f"{name}.py"
    copy.write_text(shown.out)
    read = Config.fromfile(copy)
    assert read.to_dict() == Config.fromfile(FILES[name]).to_dict()
    assert read.vladapt.domain == "open-vocab" and read.vladapt.task in ("detection", "segmentation")


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in BY_ID])
def test_a_recipe_builds_its_model_for_the_names_and_the_backbone_that_are_given(place, small_clip_spec, name):
    recipe = resolve(recipe=f"open-vocab/{name}", flags={"backbone": small_clip_spec})
    boxes = Boxes(((0.0, 0.0, 9.0, 9.0),), (0,))
    items = [Item(id=split, source=place / "x.png", target=boxes, split=split) for split in ("train", "test")]
    kind = "boxes" if recipe.task == "detection" else "masks"
    data = DomainData(items, ("cat", "dog"), load=None, kind=kind, name="set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(place / "cache"))
        plan = task_of(recipe).plan(recipe, data, None)
        model = build_model(kept_of(plan), torch.device("cpu"))
    taught = [module.text.names for module in model.modules() if hasattr(getattr(module, "text", None), "names")]
    assert all(names == ("cat", "dog") for names in taught)
    assert any(isinstance(module, NamedClasses) for module in model.modules())


def test_a_shown_recipe_runs_as_it_stands(command, place, squares, small_clip_spec):
    copy = place / "copied.py"
    copy.write_text(command("show", "open-vocab/fpn").out)
    arguments = ("--config", copy, "--backbone", small_clip_spec, "--data", squares("squares", 8, 2, 3))
    made = command("fit", *arguments, "--epochs", 1, "--workers", 0, "--json").json
    assert made["task"] == "segmentation" and made["backbone"] == small_clip_spec and 0 <= made["adapted"]["mIoU"] <= 1


@pytest.mark.thorough
def test_a_process_of_its_own_writes_nothing_else_to_the_terminal(place, tiny, squares):
    """Libraries warn at import and at building; a user sees none of it."""
    data = squares("few", 4, 2, 2)
    arguments = ["fit", "--config", tiny("segmentation"), "--data", data, "--epochs", 1, "--json"]
    environment = {**os.environ, "VLADAPT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vladapt", *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    told = {line.partition(":")[0] for line in done.stderr.splitlines()}
    assert "Step 1/1" in told and told <= {"Step 1/1", "Checking samples", "Training", "Testing"}
