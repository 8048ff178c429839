"""A fit without labels keeps what the images speak for; else the run's model is zero-shot, and says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import vladapt
from vladapt.core.errors import ConfigError
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.registry import adapter_class

CLASSES, DIM = 8, 32
TURNED_DOWN = "turned_down"
NAME = "onzeta"
"""Which does harm on a short stream."""


@pytest.fixture
def features(tmp_path, monkeypatch):
    """Factory: a features file; `present` classes among the test images, labels or none."""
    monkeypatch.chdir(tmp_path)

    def write(present=CLASSES, labelled=True, val=0, off=2.5):
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(CLASSES, DIM, generator=generator)
        labels = torch.arange(present).repeat(60 // present + 1)[:60]
        labels = torch.cat([labels, torch.arange(CLASSES).repeat(val)])
        images = centres[labels] + 0.8 * torch.randn(len(labels), DIM, generator=generator)
        texts = F.normalize(centres + off * torch.randn(CLASSES, DIM, generator=generator), dim=1)
        arrays = {"image_features": images.numpy(), "text_features": texts.numpy()}
        if labelled:
            arrays |= {"labels": labels.numpy()}
        arrays |= {"split": np.array(["test"] * 60 + ["val"] * (len(labels) - 60))}
        arrays |= {"class_names": np.array([f"class {i}" for i in range(CLASSES)])}
        path = tmp_path / f"features{present}{labelled}{val}{off}.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


def fit(path, **flags):
    return vladapt.fit(features=path, shots=0, **flags)


def test_what_helps_is_kept_and_the_run_says_why(features):
    result = fit(features(), adapter="stat-a")
    info = json.loads((result.run / "run.json").read_text())
    assert info["adapter"] == "stat-a" and info["judge"]["kept"] == "stat-a" and info["judge"]["better"]
    assert any(note.startswith("Stat-a is kept: better than zero-shot with a probability of") for note in result.notes)
    assert TURNED_DOWN not in result.metrics


def test_what_is_not_shown_to_help_leaves_zero_shot(features):
    path = features(present=2)
    result = fit(path, adapter=NAME)
    info = json.loads((result.run / "run.json").read_text())
    assert info["adapter"] == "zero-shot" and info["judge"] | {"method": NAME, "kept": "zero-shot"} == info["judge"]
    kept = fit(path, adapter=NAME, judge=False)
    assert kept.adapter.name == NAME
    assert result.metrics["adapted"]["accuracy"] == result.metrics["zero_shot"]["accuracy"]
    assert result.metrics[TURNED_DOWN]["accuracy"] == kept.metrics["adapted"]["accuracy"]
    assert result.metrics[TURNED_DOWN]["interval"] == kept.metrics["baselines"]["zero_shot"]["interval"]
    assert any("This run's model is zero-shot: onzeta is not shown to be better" in note for note in result.notes)
    assert any("based on: onzeta" in note for note in result.notes)


def test_the_answers_of_such_a_run_are_those_of_zero_shot(features):
    path = features(present=2, labelled=False)
    rows = [(fit(path, adapter=name).run / "predictions.csv").read_text().splitlines() for name in (NAME, "zero-shot")]
    assert rows[0] == rows[1]


def test_a_few_labels_of_val_have_a_say(features, monkeypatch):
    """The same test images, of all classes: what is believed follows what 36 labelled images say. A method that answers
    images which it read together otherwise than any other is not told by others."""
    alone, together = fit(features(), adapter=NAME), fit(features(val=9), adapter=NAME)
    monkeypatch.setattr(adapter_class(NAME), "transductive", False)
    told = fit(features(val=9), adapter=NAME)
    before, same, after = (json.loads((each.run / "run.json").read_text())["judge"] for each in (alone, together, told))
    assert before["won"] == before["lost"] == same["won"] == same["lost"] == 0
    assert 0 < after["won"] + after["lost"] <= 36 and told.metrics["test_images"] == 60
    assert (after["probability"] - before["probability"]) * (after["won"] - after["lost"]) > 0


@pytest.mark.parametrize("labelled", [True, False])
def test_another_backbone_has_a_say(features, labelled):
    """One whose texts say what the images are, and one whose texts say nothing."""
    path, found = features(labelled=labelled), []
    for off in (0.0, 40.0):
        other = {"further_backbones": features(labelled=labelled, off=off)}
        found.append(json.loads((fit(path, adapter="zlap", resources=other).run / "run.json").read_text())["judge"])
    assert found[0]["witnesses"] == 2 and found[0]["support"] > found[1]["support"] + 0.1
    with pytest.raises(ConfigError, match="does not use it"):
        fit(path, adapter="zlap", resources=other, judge=False)


def test_views_of_images_have_a_say(small_clip_spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    how = {"domain": "natural", "backbone": small_clip_spec, "data": "photos", "classes": "red,leaf,sea"}
    runs = [vladapt.fit(adapter=NAME, judge_views=views, **how).run for views in (0, 2)]
    alone, seen = (json.loads((run / "run.json").read_text())["judge"] for run in runs)
    assert (alone["witnesses"], seen["witnesses"]) == (1, 2) and alone["support"] != seen["support"]


def test_views_of_a_features_file_are_one_line(features):
    with pytest.raises(ConfigError, match="judge_views: views need images"):
        fit(features(), adapter=NAME, judge_views=2)


def test_auto_without_labels_is_judged_once(features):
    result = fit(features(), adapter="auto")
    info = json.loads((result.run / "run.json").read_text())
    assert "judge" not in info and info["fit"]["judged"] and info["adapter"] == "auto"
    assert "judged by the images" in info["fit"]["chosen_on"]
    assert "No label was used: the evidence" in (result.run / "report.html").read_text()


def test_where_labels_are_learned_from_nothing_is_judged_without_them(features):
    generator = np.random.default_rng(0)
    path = features()
    arrays = dict(np.load(path))
    arrays["split"] = np.where(generator.random(len(arrays["split"])) < 0.5, "train", "test")
    np.savez("train.npz", **arrays)
    result = vladapt.fit(features="train.npz", shots=2, adapter="ridge")
    assert "judge" not in json.loads((result.run / "run.json").read_text())


def test_views_for_the_judge_are_refused_of_a_features_file_before_it_is_read():
    recipe = resolve(flags={"features": "nowhere.npz", "shots": 0, "judge_views": 2})
    with pytest.raises(ConfigError, match="views need images, which a features file does not have; omit it"):
        task_of(recipe).settled(recipe)
