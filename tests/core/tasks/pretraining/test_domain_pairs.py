"""Pre-training on the captioned samples of a domain: its reading, its pixels, and what its targets say in numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt import ConfigError
from vladapt.core.contracts import Captions, Domain, DomainData, Item
from vladapt.core.recipes.resolve import task_in
from vladapt.core.tasks.pretraining.options import plan_of_recipe
from vladapt.core.tasks.pretraining.pretrain import PretrainPlan, pretrain
from vladapt.core.training.settings import TrainingSettings

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 4


@dataclass(frozen=True)
class Report(Captions):
    """A sentence, and a number for each of two findings."""

    findings: tuple[float, ...] = ()

    def numbers(self):
        return {"findings": self.findings} if self.findings else {}


class Studies(Domain):
    """Grey squares with a report each; it notes for what its pixels are asked."""

    name = "studies"
    tasks = ("retrieval",)

    sample = templates = None

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, set()

    def read(self, path, task=None, **options):
        files = [self.folder / f"{number}.png" for number in range(len(SPLITS))]
        for number, file in enumerate(files):
            Image.new("L", (16, 16), 10 * number).save(file)
        reports = [Report((f"finding {n % 2}",), findings=(1.0, -1.0) if n % 2 else ()) for n in range(len(SPLITS))]
        items = [
            Item(file.name, file, target=report, split=split)
            for file, report, split in zip(files, reports, SPLITS, strict=True)
        ]
        return DomainData(items, (), lambda item: np.asarray(Image.open(item.source).convert("RGB")), kind="captions")

    def transforms(self, backbone, train, task=None):
        self.asked.add((train, task))
        return backbone.preprocess(train)


def test_a_domain_reads_the_pairs_and_their_findings(small_clip_spec, tmp_path):
    domain = Studies(tmp_path)
    plan = PretrainPlan(
        data=str(tmp_path),
        out=str(tmp_path / "model"),
        losses={"medclip": 1.0},
        backbone=small_clip_spec,
        device="cpu",
        settings=TrainingSettings(epochs=1, batch_size=4),
        domain=domain,
    )
    done = pretrain(plan)
    assert done.summary["steps"] == 2 and domain.asked == {(True, "retrieval"), (False, "retrieval")}
    facts = json.loads((tmp_path / "model" / "run.json").read_text())["data"]
    assert facts["splits"] == {"train": 8, "val": 2, "test": 4} and facts["texts"] == len(SPLITS)


def test_a_domain_with_captions_has_this_task():
    class Unlabelled(Studies):
        name, tasks = "unlabelled", ("detection",)

    assert task_in(Studies(Path()), "pretraining").name == "pretraining"
    with pytest.raises(ConfigError, match="domain 'unlabelled' has detection"):
        task_in(Unlabelled(Path()), "pretraining")


def test_what_is_given_wins_over_the_recipe(tmp_path, monkeypatch):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        'task = "pretraining"\nlr = 1e-3\nepochs = 7\nloss = ["clip", "silc=0.5"]\n'
        'loss_options = {"silc": {"momentum": 0.9}}\n'
    )
    monkeypatch.setattr("vladapt.core.recipes.resolve.recipe_file", lambda name: recipe)
    how = {"data.path": "x", "out": "y", "domain": "remote-sensing"}
    plan = plan_of_recipe("mine", losses=None, settings={"epochs": 3, "lr": None}, sets=["loss.silc.out_dim=64"], **how)
    assert (plan.settings.lr, plan.settings.epochs) == (1e-3, 3)
    assert plan.losses == {"clip": 1.0, "silc": 0.5} and plan.domain.name == "remote-sensing"
    assert plan.loss_options == {"silc": {"momentum": 0.9, "out_dim": 64}}
    again = plan_of_recipe("mine", losses=["siglip"], settings={}, **how)
    assert again.losses == {"siglip": 1.0}
    recipe.write_text('task = "retrieval"\n')
    with pytest.raises(ConfigError, match="a recipe of retrieval; give it to `vladapt fit`"):
        plan_of_recipe("mine", losses=None, settings={}, **how)
