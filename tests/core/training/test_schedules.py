from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.continual import schedules
from parity_checks.prompt import rates as rates_told_by
from parity_checks.prompt import schedule

from vladapt.core.errors import ConfigError
from vladapt.core.training.hooks import StepRateHook
from vladapt.core.training.optimizer import rate_schedulers, step_rates
from vladapt.core.training.schedules import (
    LearningRates,
    epoch_cosine_rates,
    infinite_rates,
    rewarmed_rates,
    set_learning_rate,
)
from vladapt.core.training.settings import TrainingSettings

KINDS = json.loads((Path(__file__).parent / "dassl_schedule.json").read_text())["kinds"]
"""Numbers that Dassl itself gave: base 0.0035, 10 epochs."""


def rates(kind: str, lr: float, epochs: int) -> list[float]:
    warmup, recount = kind.split("_")
    return LearningRates.dassl(lr, epochs, warmup=None if warmup == "none" else warmup, recount=recount == "recount")


def descend(learning_rates, target=(0.3, -1.0, 2.0), start=1.0, **options) -> torch.Tensor:
    """The fixture's problem: one SGD step an epoch on a square."""
    weight = torch.full((len(target),), start, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, **{"momentum": 0.9, "weight_decay": 5e-4, **options})
    for lr in learning_rates:
        set_learning_rate(optimizer, lr)
        optimizer.zero_grad()
        (weight - torch.tensor(target)).square().sum().backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_rates_and_weights_are_those_of_dassl(kind):
    ours = rates(kind, 0.0035, 10)
    assert ours == pytest.approx(KINDS[kind]["lr"], rel=1e-6, abs=1e-9)
    assert descend(ours).tolist() == pytest.approx(KINDS[kind]["weight"], rel=1e-5)


def test_rates_are_those_of_the_reference(agrees):
    agrees(schedule)


def test_weights_trained_at_the_rates_are_those_of_the_reference(references):
    """SGD on a square, as its meaning tells: "on sum((w - [0.3,-1,2])^2) from w=1 (momentum .9, weight decay 5e-4)"."""
    for ref in references(schedule):
        for key, name in ref.keys(r"w_(.+)"):
            words = ref.meaning(key)
            target = json.loads(re.search(r"\[.+\]", words)[0])
            options = {"momentum": ref.stated(key, "momentum"), "weight_decay": ref.stated(key, "weight decay")}
            weights = descend(rates_told_by(ref, f"lr_{name}"), target, float(ref.stated(key, "w")), **options)
            ref.assert_close(weights, key)


def test_linear_warmup_rises_from_its_first_rate():
    lr = LearningRates.dassl(0.4, 8, warmup="linear", warmup_epochs=4)
    assert lr[:5] == pytest.approx([1e-5, 0.1, 0.2, 0.3, 0.4])


def test_without_recount_a_longer_warmup_still_peaks_at_the_full_rate():
    lr = LearningRates.dassl(0.4, 10, warmup_epochs=3, recount=False)
    assert lr[:3] == [1e-5] * 3
    assert lr[3] == pytest.approx(0.4)
    assert lr[9] < LearningRates.dassl(0.4, 10, warmup_epochs=3)[9]


def test_warmup_rate_is_used():
    assert LearningRates.dassl(0.4, 3, warmup_lr=0.1)[0] == 0.1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.sampled_from([None, "constant", "linear"]), st.integers(0, 70), st.booleans())
def test_any_schedule_has_a_rate_for_each_epoch_and_falls_after_the_warmup(epochs, warmup, length, recount):
    lr = LearningRates.dassl(0.1, epochs, warmup=warmup, warmup_epochs=length, recount=recount)
    assert len(lr) == epochs
    assert all(0 <= value <= 0.1 + 1e-12 for value in lr)
    after = lr[length if warmup else 0 :]
    assert after == sorted(after, reverse=True)


@pytest.mark.parametrize(
    "bad", [{"lr": 0}, {"epochs": 0}, {"warmup": "cosine"}, {"warmup_epochs": -1}, {"warmup_lr": -1.0}]
)
def test_values_out_of_range_are_named(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        LearningRates.dassl(**{"lr": 0.1, "epochs": 5, **bad})


def test_a_cosine_of_steps_falls_from_the_peak_towards_zero():
    half = 0.5**0.5
    assert LearningRates.cosine(2.0, 4) == pytest.approx([2.0, 1 + half, 1.0, 1 - half])


def test_a_cosine_of_steps_starts_after_its_rise():
    assert LearningRates.cosine(3.0, 7, rise=3) == pytest.approx([1.0, 2.0, 3.0, *LearningRates.cosine(3.0, 4)])
    assert LearningRates.cosine(3.0, 2, rise=3) == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("epochs, rise", [(60, 5), (7, 0), (3, 5)])
def test_one_rate_per_epoch_rises_and_falls_down_a_cosine_that_ends_with_the_epochs(epochs, rise):
    """IRRA's; the released numbers are compared in the tests of the person domain."""
    rates = epoch_cosine_rates(2.0, epochs, warmup_epochs=rise, warmup_lr=0.2)
    wanted = [0.2 + 1.8 * epoch / rise for epoch in range(min(rise, epochs))]
    wanted += [1 + math.cos(math.pi * (epoch - rise) / (epochs - rise)) for epoch in range(rise, epochs)]
    assert rates == pytest.approx(wanted) and len(rates) == epochs


def test_rates_of_epochs():
    assert LearningRates([1.0, 2.0, 3.0, 4.0, 5.0]).by_epoch(2) == [[1.0, 2.0], [3.0, 4.0], [5.0]]


def test_rates_of_continued_trainings_are_those_of_the_reference(agrees):
    agrees(schedules)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "rewarm", "warmup": 2}, rewarmed_rates(0.1, 8, warmup=2, end_lr=0.01)),
        (
            {"schedule": "infinite", "warmup": 2, "cooldown": 0.25, "anneal": 0.25, "constant_lr": 0.04},
            infinite_rates(0.1, 8, warmup=2, cooldown=2, constant_lr=0.04, annealed_from=6, end_lr=0.01),
        ),
    ],
    ids=["rewarm", "infinite"],
)
def test_each_step_of_a_continued_training_has_its_rate(options, rates):
    settings = TrainingSettings(lr=0.1, end_lr=0.01, **options)
    assert [0.1 * share for share in step_rates(settings, 8)] == pytest.approx(rates)
    assert rate_schedulers(settings, 8) == []
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.05}], lr=0.1)  # a group at half the rate
    hook, seen = StepRateHook(step_rates(settings, 8)), []
    runner = SimpleNamespace(optim_wrapper=SimpleNamespace(optimizer=optimizer), epoch=0, iter=0)
    hook.before_run(runner)
    for runner.iter in range(8):
        hook.before_train_epoch(runner)
        hook.before_train_iter(runner, runner.iter)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([rate / 2 for rate in rates[:8]])


@pytest.mark.parametrize("bad", [{"end_lr": 0.0}, {"end_lr": 1e-6, "cooldown": 0.8, "anneal": 0.3}])
def test_an_infinite_schedule_says_what_it_lacks(bad):
    with pytest.raises(ConfigError, match=r"option (end_lr|anneal)="):
        TrainingSettings(schedule="infinite", **bad)
