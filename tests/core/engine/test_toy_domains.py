"""The contract holds for every kind of target: third-party domains run through the engine as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vladapt
from vladapt.core.errors import ConfigError
from vladapt.testing import domain_checks

THIRD_PARTY = Path(__file__).parent / "third_party"


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(THIRD_PARTY))
    monkeypatch.chdir(tmp_path)


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
