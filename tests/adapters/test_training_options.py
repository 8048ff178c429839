"""Options that every method which trains towers has from one class: each reaches the training, and all of them work
together with what the method trains. What they do there is shown once, by `full` in `test_every_option.py`."""

from __future__ import annotations

import pytest
import torch
from settings import COUNTS, OPTIONS, SHOWN_BY_FULL, TOGETHER, trains_towers

from vladapt.core.contracts.options import options_of
from vladapt.core.registry import adapter_class, catalogue
from vladapt.core.testing.method import Method
from vladapt.core.testing.options import other_values
from vladapt.core.training import train as trainings

ALL = sorted(filter(trains_towers, catalogue.adapters()))


class Briefed(Exception):
    """What a training is told, in place of the training."""


@pytest.fixture(params=ALL)
def method(request) -> Method:
    return Method(adapter_class(request.param), OPTIONS.get(request.param))


def briefing(method: Method, options: dict) -> tuple:
    """Its settings, losses, teachers, and whether it is measured on val."""

    def told(backbone, task, settings, *_, **__):
        teachers = [each.fingerprint for each in task.teachers]
        raise Briefed(settings, task.weights, task.loss_options, teachers, task.validate is not None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, "train", told)
        with pytest.raises(Briefed) as raised:
            method.fit(options=options)
    return raised.value.args


def test_each_reaches_the_training(method):
    counts = COUNTS.get(method.cls.name, {})
    for option in options_of(method.cls):
        if option.name in SHOWN_BY_FULL:
            value = method.options.get(option.name, option.default)
            one, *others = counts.get(option.name) or ({}, *({option.name: o} for o in other_values(option, value)))
            plain = briefing(method, one)
            assert any(briefing(method, other) != plain for other in others), option.name


@pytest.mark.thorough(but=("lora", "maple", "open-vclip", "stan", "wise-ft"))
def test_they_work_together(method):
    """With the weights that this method trains, which are averaged, decayed by layer, taken from the best epoch."""
    has = {each.name for each in options_of(method.cls)}
    adapter = method.fit(options={name: value for name, value in TOGETHER.items() if name in has}).adapter
    logits = method.world.logits(adapter)
    assert torch.isfinite(logits).all() and not torch.equal(logits, method.logits)
