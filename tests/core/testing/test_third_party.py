"""A package of somebody else's, installed by its entry points: a domain with a task, an adapter, a loss and a metric.

It passes the checks, is listed and shown, and works in the command line, without a line of it in this project.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.backbones import load_backbone, save_fine_tuned
from vladapt.core.contracts.images import InputChannels
from vladapt.core.errors import CapabilityError, ConfigError, UnknownNameError
from vladapt.core.registry import adapter_class, load_domain, loss_class, task_class
from vladapt.testing import check_adapter, check_domain, check_loss, check_task

PACKAGE = Path(__file__).parent / "third_party"
POINTS = re.compile(r'\[project\.entry-points\."(.*?)"\]\n(.*?)\n\n', re.DOTALL)
NAMES = {"domain": "toy", "task": "pointing", "adapter": "nearest-spot", "loss": "spot-pull", "metric": "worst-class"}


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """What pip writes for the package, where Python looks for it."""
    info = tmp_path / "installed" / "vladapt_toy-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vladapt-toy\nVersion: 0.1\n")
    points = POINTS.findall((PACKAGE / "pyproject.toml").read_text())
    assert {group.removeprefix("vladapt.") for group, _ in points} == {
        "domains",
        "tasks",
        "adapters",
        "losses",
        "metrics",
        "backbones",
    }
    (info / "entry_points.txt").write_text("\n".join(f"[{group}]\n{lines}" for group, lines in points).replace('"', ""))
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.syspath_prepend(str(info.parent))


@pytest.fixture
def spots(tmp_path):
    """A folder of eighteen images, whose names say what is there."""
    from vladapt_toy.domain import COLOURS, Toy

    data = Toy().sample("pointing")
    folder = tmp_path / "spots"
    folder.mkdir()
    for item in data.items[:18]:
        colour = list(COLOURS)[item.target.colour]
        Image.fromarray(data.load(item)).save(folder / f"{colour}-{item.target.x:.0f}-{item.target.y:.0f}.png")
    return folder


@pytest.fixture
def vladapt(capsys, monkeypatch, tmp_path):
    """vladapt("list", "tasks") -> what it prints."""
    from vladapt.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return out

    return call


def test_all_of_it_keeps_the_contracts(spots, forked_workers):
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    domain = load_domain("toy")
    check_adapter(adapter_class("nearest-spot"))
    check_loss(loss_class("spot-pull"))
    check_domain(domain, data=spots, reading={"every": 1})
    check_task(task_class("pointing"), domain, images=sorted(spots.iterdir())[:3])
    check_task(task_class("classification"), domain, recipe={"shots": 2})  # as it was written before


@pytest.mark.parametrize("kind", NAMES)
def test_each_name_is_listed_and_shown(kind, vladapt):
    name = NAMES[kind]
    plural = "losses" if kind == "loss" else f"{kind}s"
    (line,) = (line for line in vladapt("list", plural).splitlines() if line.startswith(name))
    assert "of vladapt-toy" in line
    assert vladapt("show", kind, name).startswith(f"{kind} {name}")


def test_its_family_of_backbones_is_listed_loaded_and_suggested(vladapt, spots, tmp_path):
    (line,) = (line for line in vladapt("list", "backbones").splitlines() if line.startswith("cell-colours:"))
    assert "of vladapt-toy" in line and "of vladapt-toy" in vladapt("show", "backbone", "cell-colours:4")
    on = ("--domain", "toy", "--backbone", "cell-colours:4", "--adapter", "ridge", "--shots", 4, "--json")
    made = json.loads(vladapt("fit", *on))
    assert json.loads((tmp_path / made["run"] / "run.json").read_text())["backbone"]["spec"] == "cell-colours:4"
    image = next(iter(sorted(spots.iterdir())))
    assert json.loads(vladapt("predict", made["run"], image, "--json"))["predictions"]  # its code is installed
    trained = save_fine_tuned(load_backbone("cell-colours:4"), tmp_path / "trained")
    assert load_backbone(str(trained)).embed_dim == 48
    with pytest.raises(UnknownNameError, match="did you mean cell-colours"):
        load_backbone("cell-colour:4")
    with pytest.raises(ConfigError, match=r"cell-colours:many' \(.* of vladapt-toy\): ValueError: invalid literal"):
        load_backbone("cell-colours:many")
    with pytest.raises(CapabilityError, match="no convolution where image channels enter"):
        load_backbone("cell-colours:4", channels=InputChannels(("red", "green", "blue", "heat"))).model  # noqa: B018
    with pytest.raises(ConfigError, match="takes 32; give that, or omit image_size"):
        load_backbone("cell-colours:4", image_size=64)


def test_its_options_are_shown_and_are_flags(vladapt):
    assert "every n-th image" in vladapt("show", "toy") and "ridge" in vladapt("show", "pointing")
    assert "--every" in vladapt("fit", "--domain", "toy", "--help")


def test_its_recipe_is_shown_and_fitted(vladapt, small_clip_spec):
    assert "nearest-spot" in vladapt("show", "toy/few")
    made = json.loads(vladapt("fit", "--recipe", "toy/few", "--backbone", small_clip_spec, "--json"))
    assert made["adapter"] == "nearest-spot" and made["shots"] == 4


def test_a_fit_in_the_domain_has_its_method_and_its_metric(vladapt, small_clip_spec):
    made = json.loads(vladapt("fit", "--domain", "toy", "--shots", 4, "--backbone", small_clip_spec, "--json"))
    assert made["domain"] == "toy" and made["adapter"] == "nearest-spot" and made["task"] == "classification"
    assert 0 <= made["adapted"]["worst-class"] <= made["adapted"]["accuracy"]


def test_its_task_is_fitted_scored_asked_and_compared(vladapt, spots):
    said = (
        "fit",
        "--domain",
        "toy",
        "--task",
        "pointing",
        "--data",
        spots,
        "--every",
        1,
        "--set",
        "ridge=0.1",
        "--json",
    )
    made = json.loads(vladapt(*said))
    assert made["task"] == "pointing" and made["adapted"]["distance"] < 6
    assert json.loads(vladapt("eval", made["run"], "--json"))["adapted"] == made["adapted"]
    image = sorted(spots.iterdir())[0]
    (row,) = json.loads(vladapt("predict", made["run"], image, "--out", "found", "--json"))["predictions"]
    assert json.loads(Path("found/points.json").read_text())[0]["point"] == row["point"]
    compared = json.loads(vladapt("compare", "--domain", "toy", "--task", "pointing", "--seeds", "1,2", "--json"))
    assert len(compared["rows"]) == 2 and all(np.isfinite(row["distance"]) for row in compared["rows"])


def test_its_loss_trains_pairs(vladapt, spots, small_clip_spec, tmp_path):
    lines = [f"{file.name},a {file.name.partition('-')[0]} spot" for file in sorted(spots.iterdir())]
    (spots / "pairs.csv").write_text("\n".join(["image,caption", *lines]))
    (tmp_path / "generic" / "cat").mkdir(parents=True)
    (tmp_path / "generic" / "dog").mkdir()
    for name, file in zip(("cat", "dog"), sorted(spots.glob("*.png"))):
        (tmp_path / "generic" / name / "a.png").write_bytes(file.read_bytes())
    command = ["pretrain", "--data", spots / "pairs.csv", "--loss", "spot-pull", "--backbone", small_clip_spec]
    command += ["--generic", tmp_path / "generic", "--epochs", 1, "--batch-size", 4, "--out", tmp_path / "model"]
    made = json.loads(vladapt(*command, "--json"))
    assert made["losses"] == {"spot-pull": 1.0} and (tmp_path / "model" / "model.safetensors").is_file()
