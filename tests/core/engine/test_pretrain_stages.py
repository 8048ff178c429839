"""Two stages: the locked one first, each with its own schedule, told as one training."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.tasks.pretraining import pairs
from vladapt.core.tasks.pretraining.pairs import stage_settings, train_in_stages
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import PairSource
from vladapt.core.training.train import TrainingTask

SETTINGS = {"epochs": 3, "batch_size": 16, "lr": 1e-3, "lock": "image", "unlock_after": 1, "warmup": 0}


def test_the_first_stage_locks_and_the_second_does_not():
    first, second = stage_settings(TrainingSettings(**SETTINGS))
    assert (first.epochs, first.lock) == (1, ("image",))
    assert (second.epochs, second.lock) == (2, ())
    assert stage_settings(TrainingSettings(epochs=3)) == [TrainingSettings(epochs=3)]


def test_stages_follow_each_other_and_are_told_as_one(small_clip_spec, tmp_path):
    backbone = load_backbone(small_clip_spec, device="cpu")
    start = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    told, said, scores, image_moved = [], [], iter([0.1, 0.2, 0.3]), []

    def validate():
        now = backbone.model.state_dict()["visual.conv1.weight"]
        image_moved.append(not torch.equal(now, start["visual.conv1.weight"]))
        return next(scores)

    task = TrainingTask(PairSource(sample_pairs(32), CaptionSampler()), {"clip": 1.0}, validate=validate)
    done = train_in_stages(
        backbone,
        task,
        TrainingSettings(**SETTINGS),
        tmp_path,
        resume=False,
        on_step=lambda step, total, values: told.append((step, total)),
        on_message=said.append,
    )
    assert told == [(i, 6) for i in range(1, 7)]
    assert image_moved == [False, True, True]
    assert [(row["epoch"], row["stage"]) for row in done.history] == [(1, 1), (2, 2), (3, 2)]
    assert done.best_epoch == 3 and done.steps == 6
    assert said == ["Stage 1 of 2: 1 epoch, image tower locked", "Stage 2 of 2: 2 epochs, all weights trained"]


def test_a_stage_says_that_both_towers_are_locked(monkeypatch, tmp_path):
    said, settings = [], TrainingSettings(**{**SETTINGS, "lock": "towers", "unlock_after": 2})

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pairs, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        train_in_stages(None, None, settings, tmp_path, resume=False, on_step=print, on_message=said.append)
    assert said == ["Stage 1 of 2: 2 epochs, both towers locked"]
