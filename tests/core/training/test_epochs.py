"""Trainings told by epochs: Dassl's rates, decay of all that trains, and the Gaussian average of PromptSRC."""

from __future__ import annotations

import math

import pytest
import torch

from vladapt import ConfigError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.training.hooks import newest_share
from vladapt.core.training.optimizer import build_optimizer
from vladapt.core.training.schedules import LearningRates
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

DASSL = {"epochs": 4, "batch_size": 8, "lr": 0.02, "optimizer": "sgd", "schedule": "epochs", "warmup": 1, "seed": 3}


class Stop(Exception):
    pass


def run(spec, source, folder=None, resume=False, stop_at=None, on_step=None, **settings):
    """The trained weights, and what each step told."""
    backbone, told = load_backbone(spec, device="cpu"), []

    def note(done, total, values):
        told.append(values)
        if on_step is not None:
            on_step(backbone)
        if done == stop_at:
            raise Stop

    task = TrainingTask(source, {"neg-clip": 1.0})
    train(backbone, task, TrainingSettings(**{**DASSL, **settings}), folder, resume=resume, on_step=note)
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}, told


def distance(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_each_epoch_has_the_rate_of_dassl(small_clip_spec, toy_pairs):
    _, told = run(small_clip_spec, toy_pairs())
    expected = LearningRates.dassl(0.02, 4)
    assert [values["lr"] for values in told] == pytest.approx([rate for rate in expected for _ in range(3)])
    _, told = run(small_clip_spec, toy_pairs(), warmup=2, warmup_lr=1e-3)
    expected = LearningRates.dassl(0.02, 4, warmup_epochs=2, warmup_lr=1e-3)
    assert [values["lr"] for values in told[::3]] == pytest.approx(expected)


def test_layers_keep_their_ratio_of_rates(small_clip_spec, toy_pairs):
    whole, told = run(small_clip_spec, toy_pairs(), layer_decay=0.5)
    assert max(values["lr"] for values in told) == pytest.approx(0.02)
    assert distance(whole, run(small_clip_spec, toy_pairs())[0]) > 0


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_a_resume_goes_on_at_the_epochs_rate(small_clip_spec, toy_pairs, tmp_path, stop):
    options = {"epoch_average": (3, 1), "save_every": 1}
    whole, told = run(small_clip_spec, toy_pairs(), **options)
    with pytest.raises(Stop):
        run(small_clip_spec, toy_pairs(), tmp_path, stop_at=stop, **options)
    again, rest = run(small_clip_spec, toy_pairs(), tmp_path, resume=True, **options)
    assert distance(whole, again) == 0
    assert [values["lr"] for values in rest] == [values["lr"] for values in told[stop - 1 :]]


def test_what_decays(fresh_clip):
    fresh_clip.model.requires_grad_(True)
    head = torch.nn.Linear(2, 2)

    def decays(**settings):
        made = build_optimizer(fresh_clip, [head], TrainingSettings(**{**DASSL, "weight_decay": 0.3, **settings}))
        return {p: group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}

    found = decays()
    assert {found[p] for p in found if p.ndim < 2} == {0.0} and found[head.weight] == 0.3
    assert set(decays(decayed="all").values()) == {0.3}
    by_weights, biases = decays(decayed="weights"), {p for n, p in fresh_clip.model.named_parameters() if "bias" in n}
    assert {by_weights[p] for p in biases} == {0.0} and by_weights[head.bias] == 0.0
    assert {by_weights[p] for p in by_weights if p not in biases and p is not head.bias} == {0.3}


def test_rates_of_heads_and_biases(fresh_clip):
    fresh_clip.model.requires_grad_(True)
    head = torch.nn.Linear(2, 2)

    def rates(**settings):
        made = build_optimizer(fresh_clip, [head], TrainingSettings(lr=0.1, **settings)).optimizer
        return made, {p: group["lr"] for group in made.param_groups for p in group["params"]}

    plain, of_plain = rates()
    assert set(of_plain.values()) == {0.1} and type(plain) is torch.optim.AdamW
    _, faster = rates(head_rate=5.0)
    assert faster[head.weight] == faster[head.bias] == 0.5 and set(faster.values()) == {0.1, 0.5}
    adam, twice = rates(bias_rate=2.0, optimizer="adam", head_rate=5.0)
    biases = {p for name, p in fresh_clip.model.named_parameters() if "bias" in name} | {head.bias}
    assert {p for p, rate in twice.items() if rate == 0.2} == biases and type(adam) is torch.optim.Adam


def test_the_gaussian_average_is_kept(small_clip_spec, toy_pairs):
    ends = []

    def note(backbone):
        ends.append({name: value.clone() for name, value in backbone.model.state_dict().items()})

    kept, _ = run(small_clip_spec, toy_pairs(), on_step=note, epoch_average=(3.0, 0.7))
    shares = torch.tensor([math.exp(-0.5 * ((e - 3.0) / 0.7) ** 2) for e in range(1, 5)], dtype=torch.float64)
    shares /= shares.sum()
    epochs = ends[2::3]
    expected = {n: sum(share * epoch[n].double() for share, epoch in zip(shares, epochs)).float() for n in kept}
    assert distance(kept, expected) < 1e-6
    assert distance(kept, epochs[-1]) > 1e-4
    other, _ = run(small_clip_spec, toy_pairs(), epoch_average=(3.0, 2.0))
    assert distance(kept, other) > 1e-5


def test_far_from_the_mean_the_average_follows_the_nearest_epoch():
    assert newest_share(1, 500.0, 0.1) == 1.0
    assert newest_share(7, 500.0, 0.1) == pytest.approx(1.0)
    assert newest_share(7, -500.0, 0.1) == pytest.approx(0.0, abs=1e-12)
    assert newest_share(4, 2.0, 1e6) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    "bad",
    [
        {"warmup": 0.5},
        {"warmup_lr": -1.0},
        {"decayed": "biases"},
        {"head_rate": 0.0},
        {"bias_rate": -1.0},
        {"epoch_average": (3.0, 0.0)},
        {"epoch_average": (float("nan"), 1.0)},
        {"epoch_average": (3.0, 1.0), "ema": 0.5},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match=f"option {next(iter(bad))}="):
        TrainingSettings(**{**DASSL, **bad})
