"""Image towers that learn from attacked images."""

from __future__ import annotations

import pytest

from vladapt.core.backbones.load import load_backbone
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

PROMPTS = [[f"a {colour} area"] for colour in ("red", "green", "blue", "yellow")]


@pytest.mark.parametrize("name", ["fare", "tecoa"])
def test_only_the_image_tower_learns(small_clip_spec, toy_pairs, name):
    backbone = load_backbone(small_clip_spec, device="cpu")
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    task = TrainingTask(toy_pairs(8), {name: 1.0}, {name: {"steps": 3}}, class_prompts=PROMPTS)
    how = {"epochs": 1, "batch_size": 8, "lr": 1e-4, "warmup": 0, "weight_decay": 0.0}
    train(backbone, task, TrainingSettings(**how), None)
    changed = {
        backbone.tower_of(key) for key, value in backbone.model.state_dict().items() if (value != before[key]).any()
    }
    assert changed == {"image"}
