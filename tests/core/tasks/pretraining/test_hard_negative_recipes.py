"""Recipes that learn from hard negatives: what is released, and what is given beside it."""

from __future__ import annotations

import pytest

from vladapt.core.tasks.pretraining.options import plan_of_recipe

RELEASED = {
    "neg-clip": {"epochs": 5, "batch_size": 256, "lr": 1e-6, "warmup": 50, "weight_decay": 0.2},
    "triplet-clip": {"epochs": 10, "batch_size": 1024, "lr": 5e-4},
}


@pytest.mark.parametrize("name", RELEASED)
def test_settings_are_the_released_ones_and_images_are_not_mirrored(name):
    plan = plan_of_recipe(name, losses=None, settings={}, **{"data.path": "pairs.csv", "out": "made"})
    assert dict(plan.losses) == {name: 1.0} and plan.settings.flip is False
    assert {key: getattr(plan.settings, key) for key in RELEASED[name]} == RELEASED[name]


def test_what_is_given_beside_a_recipe_wins():
    given = {"data.path": "pairs.csv", "out": "made"}
    plan = plan_of_recipe("neg-clip", losses=None, settings={"epochs": 2}, sets=["flip=yes"], **given)
    assert plan.settings.epochs == 2 and plan.settings.flip and plan.settings.lr == 1e-6
