"""The contract holds for every kind of target: third-party domains run through the engine as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.contracts.domain import OwnFiles
from vladapt.core.contracts.items import DomainData
from vladapt.core.data.unlabelled import read_unlabelled
from vladapt.core.errors import ConfigError
from vladapt.testing import domain_checks

pytestmark = pytest.mark.usefixtures("in_toy_folder")


def fit(spec, domain, **flags):
    return vladapt.fit(domain=domain, backbone=spec, seed=1, **flags)


KINDS = ["toy-labels", "toy-findings", "toy-clips", "toy-motion", "toy-boxes", "toy-masks", "toy-captions"]
OF_FILES = {"what_is_not_there_is_refused", "wrong_options_are_refused_before_reading"}
"""Rules that these domains break: they draw the same whatever the path is."""


@pytest.mark.parametrize("domain", KINDS)
def test_samples_of_each_kind_keep_the_contract(domain):
    for rule, check in domain_checks(vladapt.load_domain(domain)):
        if rule not in OF_FILES:
            check()


@pytest.mark.parametrize("domain", ["toy-labels", "toy-clips"])
def test_labels_and_clips_are_learned_by_an_adapter(small_clip_spec, domain):
    result = fit(small_clip_spec, domain, adapter="linear-probe", shots=4)
    assert result.metrics["adapted"]["accuracy"] > 0.9
    run = json.loads((result.run / "run.json").read_text())
    assert run["domain"] == domain and run["class_names"] == ["red", "green", "blue"]
    assert (result.run / "report.html").is_file() and (result.run / "adapter.safetensors").is_file()


class WithSums(type(vladapt.load_domain("natural"))):
    """Writes one file of all images, by the scores of halves of each."""

    name = "natural"
    own_files: ClassVar = {"classification": (".sum",)}

    def write_own(self, use, task, reading, scorer, reporter):
        model, data = scorer(), read_unlabelled(use.images)
        halves = [item.with_(id=f"{item.id} {side}", decode={"digest": side}) for item in data.items for side in "lr"]

        def half(item):
            whole = data.load(item.with_(decode={}))
            middle = whole.shape[1] // 2
            return whole[:, :middle] if item.id.endswith("l") else whole[:, middle:]

        ids, probabilities, skipped = model.score(DomainData(halves, model.class_names, half))
        use.files[0].write_text(json.dumps({"ids": ids, "probabilities": probabilities.tolist()}))
        facts = [{"class": name, "sum": None} for name in model.class_names]
        return OwnFiles(facts, {"class": "{class}", "sum": "{sum:.1f}"}, list(use.files), skipped)


def test_a_domain_writes_files_of_its_own_from_scores_of_parts(small_clip_spec, tmp_path):
    for number in range(24):
        shade = (200, 20, 20) if number % 2 else (20, 20, 200)
        file = tmp_path / "set" / ("blue", "red")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 40, (16, 16, 3))
        Image.fromarray((noise + shade).astype(np.uint8)).save(file)
    result = fit(small_clip_spec, WithSums(), data={"path": "set"}, adapter="linear-probe", shots=4)
    both = np.concatenate([np.full((16, 16, 3), shade, np.uint8) for shade in ((210, 30, 30), (30, 30, 210))], axis=1)
    Image.fromarray(both).save("both.png")
    written = vladapt.predict(result.run, ["both.png"], domain=WithSums(), out="all.sum", device="cpu")
    said = json.loads(Path("all.sum").read_text())
    assert said["ids"] == ["both.png l", "both.png r"] and written.files == [Path("all.sum")]
    assert np.argmax(said["probabilities"], axis=1).tolist() == [1, 0]
    assert written.rows() == written.facts and written.cells() == [["blue", ""], ["red", ""]]
    rows = vladapt.predict(result.run, ["both.png"], domain=WithSums(), out="rows.csv").rows()
    assert [row["id"] for row in rows] == ["both.png"] and Path("rows.csv").is_file()
    with pytest.raises(ConfigError, match="otherwise give a file"):
        vladapt.predict(result.run, ["both.png"], out="all.sum", domain=vladapt.load_domain("natural"))


def test_groups_of_clips_never_straddle_splits(small_clip_spec):
    from vladapt.core.recipes.resolve import resolve, task_of
    from vladapt.core.runtime.progress import Reporter

    recipe = resolve(flags={"domain": "toy-clips", "backbone": small_clip_spec})
    task = task_of(recipe)
    prepared = task.prepared(task.settled(recipe), Reporter(quiet=True))
    sides: dict[str, set[str]] = {}
    for item in prepared.data.items:
        sides.setdefault(item.group, set()).add(item.split)
    assert all(len(splits) == 1 for splits in sides.values())


@pytest.mark.thorough(but=("linear-probe", "coop"))
@pytest.mark.parametrize("adapter", ["zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "coop"])
def test_several_labels_an_image(small_clip_spec, adapter):
    options = {"coop": {"name": "coop", "epochs": 2}}.get(adapter, adapter)
    result = fit(small_clip_spec, "toy-findings", adapter=options, shots=8)
    scores = result.metrics["adapted"]
    assert {"auroc", "auroc/red", "auroc/green"} <= set(scores)
    if adapter == "linear-probe":
        assert scores["auroc"] > 0.9
    page = (result.run / "report.html").read_text()
    assert "red" in page and "AUROC" in page


@pytest.mark.parametrize("adapter", ["ape", "ape-t"])
def test_a_method_for_one_label_refuses_several_and_leaves_nothing(small_clip_spec, adapter, tmp_path):
    with pytest.raises(vladapt.CapabilityError, match="one label per image"):
        fit(small_clip_spec, "toy-findings", adapter=adapter, out=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_boxes_are_trained_by_the_domains_plan_and_predicted_by_the_run(small_clip_spec):
    result = fit(small_clip_spec, "toy-boxes", task="detection")
    assert result.metrics["zero_shot"] is None
    assert result.metrics["adapted"]["mean_error"] < 1.5
    rows = vladapt.predict(result.run, ["9"]).rows()
    assert rows[0]["id"] == "scenes-009"
    assert rows[0]["boxes"][0] == pytest.approx([1, 1, 7, 7], abs=2.5)


def test_masks_are_trained_by_the_domains_plan(small_clip_spec):
    assert fit(small_clip_spec, "toy-masks").metrics["adapted"]["iou"] > 0.9


def test_a_training_leaves_torch_as_it_was(small_clip_spec):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    fit(small_clip_spec, "toy-masks")
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == before


def test_captions_are_scored_by_the_towers_with_nothing_trained(small_clip_spec):
    result = fit(small_clip_spec, "toy-captions")
    assert 0 <= result.metrics["adapted"]["recall_at_1"] <= 1
    assert result.summary["zero_shot"] is None


def test_a_task_the_domain_lacks_is_named(small_clip_spec):
    with pytest.raises(ConfigError, match="--task counting: domain 'toy-boxes' has detection"):
        fit(small_clip_spec, "toy-boxes", task="counting")


def test_a_plan_with_objects_in_its_model_is_refused():
    from mmengine import Config

    from vladapt.core.tasks.config_training.kept_plan import check_plan

    with pytest.raises(ConfigError, match="plain data"):
        check_plan(Config({"model": {"type": "X", "layer": object()}}))
    with pytest.raises(ConfigError, match="must be an mmengine Config"):
        check_plan({"model": {}})
