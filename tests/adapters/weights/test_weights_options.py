"""Options of methods that train towers: what the best epoch is, what is refused, and what is decoded once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from trained_towers import fitted, logits

from vladapt import CapabilityError, ConfigError, build_adapter
from vladapt.core.training.sources import Remembered
from vladapt.core.training.tower_settings import settings_of

pytest.importorskip("peft", reason="extra fine-tune is not installed")


def test_the_best_epoch_on_val_is_kept(make_problem):
    problem = make_problem()
    report = problem.fit(adapter := build_adapter("full", lr=3e-2, epochs=8, select="best_val"))
    scores = [row["val"] for row in report.history]
    assert report.val_score == max(scores) and report.chosen["epoch"] == scores.index(max(scores)) + 1
    labels = torch.tensor([item.target.index for item in problem.images.val])
    assert float((logits(adapter, problem).argmax(1) == labels).double().mean()) == pytest.approx(max(scores))
    early = problem.fit(build_adapter("full", lr=3e-2, epochs=8, select="best_val", patience=1))
    assert len(early.history) < 8
    with pytest.raises(CapabilityError, match="no val images"):
        problem.fit(build_adapter("full", select="best_val"), images=replace(problem.images, val=()))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("full", {"patience": 3}, "patience=3"),
        ("full", {"crop_scale": (0.9, 0.1)}, "crop_scale="),
        ("lora", {"params": "q,z"}, "params="),
        ("lora", {"towers": "none"}, "towers="),
        ("lora", {"positions": "top9"}, "positions="),
        ("lit", {"lock": "both"}, "lock="),
        ("lit", {"loss": "clip=x"}, "--loss clip=x"),
    ],
)
def test_options_out_of_range_are_refused(name, options, said):
    with pytest.raises(ConfigError, match=said):
        build_adapter(name, **options)


def test_a_few_images_are_decoded_once(make_problem):
    problem, calls = make_problem(), []

    def load(item):
        calls.append(item.id)
        return problem.images.load(item)

    adapter = build_adapter("full", lr=2e-3, epochs=4)
    problem.fit(adapter, images=replace(problem.images, load=load))
    assert sorted(calls) == sorted(item.id for item in problem.images.items)
    assert torch.equal(logits(adapter, problem), logits(fitted(problem, "full", epochs=4), problem))


def test_only_so_many_images_are_kept(make_problem):
    items, calls = make_problem(val=0).images.items[:3], []
    remembered = Remembered(lambda item: calls.append(item.id) or np.full((2, 2, 3), 7, np.uint8), most=24)
    for item in [*items, *items]:
        found = remembered(item)
        assert (found == 7).all()
        found[:] = 0  # changes nothing for the next
    assert calls == [items[0].id, items[1].id, items[2].id, items[2].id]


def test_a_method_is_told_whether_its_training_is_deterministic():
    def settings(**options):
        return settings_of(build_adapter("full", **options), epochs=1, steps=9, seed=0, device=torch.device("cuda"))

    assert settings(deterministic=True).deterministic and not settings().deterministic


def test_processes_that_decode_are_for_long_epochs_beside_a_gpu():
    def workers(device, steps, **options):
        method = build_adapter("full", **options)
        return settings_of(method, epochs=1, steps=steps, seed=0, device=torch.device(device)).workers

    assert workers("cpu", 100) == workers("cuda", 2) == 0
    assert 1 <= workers("cuda", 100) <= 8 and workers("cpu", 100, workers=3) == 3
