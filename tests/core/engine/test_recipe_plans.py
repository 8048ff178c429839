"""Recipes of tasks that a domain owns: an mmengine config, its group of recipe keys, `--set plan...`, `--novel`."""

from __future__ import annotations

import pytest

import vladapt
from vladapt.core.commands.options import with_optional_values
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.recipes.resolve import resolve, task_of

pytestmark = pytest.mark.usefixtures("in_toy_folder")
CONFIG = """
base_lr = 0.1
vladapt = dict(domain="toy-boxes", task="detection", shots=3, classes=["square"])
model = dict(type="ToyBoxModel", size=16, scale=(16, 16))
optim_wrapper = dict(optimizer=dict(type="SGD", lr=base_lr))
train_cfg = dict(by_epoch=True, max_epochs=2)
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG)
    return tmp_path / "mine.py"


def test_a_config_becomes_the_plan_and_its_group_keys_of_the_recipe(config):
    found = resolve(config=config)
    assert (found.domain, found.task, found.shots, found.classes) == ("toy-boxes", "detection", 3, ["square"])
    assert found.plan["model"]["type"] == "ToyBoxModel" and found.plan["model"]["scale"] == (16, 16)
    assert found.plan["optim_wrapper"]["optimizer"]["lr"] == 0.1 and found.plan["base_lr"] == 0.1
    assert resolve(config=config, flags={"shots": 5}).shots == 5


def test_set_reaches_into_the_plan(config):
    found = resolve(config=config, sets=["plan.optim_wrapper.optimizer.lr=0.2", "plan.train_cfg.max_epochs=7"])
    assert found.plan["optim_wrapper"]["optimizer"] == {"type": "SGD", "lr": 0.2}
    assert found.plan["train_cfg"] == {"by_epoch": True, "max_epochs": 7}


def test_set_gives_a_plan_no_key_that_nothing_reads(config):
    assert resolve(config=config, sets=["plan.custom_hooks=[]"]).plan["custom_hooks"] == []
    with pytest.raises(UnknownNameError, match=r"--set plan.max_epochs: the plan has no 'max_epochs'; .*by --epochs"):
        resolve(config=config, sets=["plan.max_epochs=1"])
    with pytest.raises(UnknownNameError, match=r"--set epochs: a recipe has no key 'epochs'; give --epochs"):
        resolve(config=config, sets=["epochs=1"])


def test_what_set_changes_is_what_trains(config, small_clip_spec):
    lrs = ["plan.optim_wrapper.optimizer.lr=0.0", "plan.optim_wrapper.optimizer.lr=0.02"]
    errors = [
        vladapt.fit(resolve(config=config, sets=[lr], flags={"backbone": small_clip_spec})).metrics["adapted"]
        for lr in lrs
    ]
    assert errors[0]["mean_error"] > errors[1]["mean_error"]


def test_a_key_that_no_recipe_has_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG.replace("shots=3", "shotz=3"))
    with pytest.raises(UnknownNameError, match=r"mine.py: vladapt: a recipe has no key 'shotz'; did you mean shots"):
        resolve(config=tmp_path / "mine.py")


def test_what_a_plan_that_was_made_before_says_besides_is_passed_over(tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG.replace("shots=3", "described={}, test_pipeline=[], notes=[]"))
    assert resolve(config=tmp_path / "mine.py").domain == "toy-boxes"


def settled(**flags):
    recipe = resolve(flags=flags)
    return task_of(recipe).settled(recipe)


def test_shots_are_all_there_is_where_a_config_is_trained_and_sixteen_elsewhere():
    assert settled(domain="toy-boxes").shots is None
    assert settled(domain="toy-boxes", shots=4).shots == 4
    assert settled(domain="toy-labels").shots == 16
    assert settled(domain="toy-labels", shots="all").shots is None
    with pytest.raises(ConfigError, match="--shots few: give a whole number"):
        settled(domain="toy-labels", shots="few")


def test_novel_may_be_names_only_where_a_config_is_trained():
    assert settled(domain="toy-boxes", novel="a, b").novel == "a, b"
    assert settled(domain="toy-labels", novel=True).novel is True
    with pytest.raises(ConfigError, match="--novel a: give --novel alone; names are for detection and segmentation"):
        settled(domain="toy-labels", novel="a")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["fit", "--novel"], ["fit", "--novel", "rest"]),
        (["fit", "--novel", "--json"], ["fit", "--novel", "rest", "--json"]),
        (["fit", "--novel", "a, b", "--json"], ["fit", "--novel", "a, b", "--json"]),
        (["fit", "--novel=a,b"], ["fit", "--novel=a,b"]),
        (["fit", "--shots", "2"], ["fit", "--shots", "2"]),
    ],
)
def test_novel_stands_alone_or_with_a_value(given, read):
    assert with_optional_values(given) == read


@pytest.mark.parametrize(("given", "novel"), [(["--novel"], True), (["--novel", "coco"], "coco"), ([], False)])
def test_novel_on_the_command_line(given, novel, monkeypatch):
    from vladapt.cli import main
    from vladapt.core.engine import fit

    seen = []
    monkeypatch.setattr(fit, "fit", lambda recipe, reporter: seen.append(recipe.novel))
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--domain", "toy-boxes", *given])
    assert (ended.value.code, seen) == (0, [novel])


def test_a_domain_that_fits_adapters_runs_no_config(config):
    with pytest.raises(ConfigError, match="adapters and runs no mmengine config;"):
        vladapt.fit(resolve(config=config, flags={"domain": "toy-labels", "task": "classification"}))
