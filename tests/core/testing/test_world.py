"""The world of checks: what was changed of what a fit was given, and what it read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vladapt import FeatureSet, FitReport
from vladapt.core.testing.contract import differences
from vladapt.core.testing.towers import PlainTowers, plain_towers
from vladapt.core.testing.world import Watched, world_of


@pytest.mark.parametrize(
    ("before", "after", "places"),
    [
        (torch.ones(2), torch.ones(2), []),
        (torch.ones(2), torch.zeros(2), ["it"]),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), []),
        (torch.ones(2), torch.ones(2).double(), ["it"]),
        ({"a": [1, 2.0]}, {"a": [1, 3.0]}, ["it['a'][1]"]),
        ({"a": 1}, {"a": 1, "b": 2}, ["it"]),
        ((1, None), [1, None], ["it"]),
        (float("nan"), float("nan"), []),
        (True, False, ["it"]),
        (FitReport("x"), FitReport("y"), ["it.adapter"]),
        (FeatureSet(torch.zeros(1, 3)), FeatureSet(torch.ones(1, 3)), ["it.features"]),
    ],
)
def test_differences_are_named_by_their_places(before, after, places):
    assert differences(before, after, "it") == places


def test_resources_remember_what_was_asked_for():
    watched = Watched({"boxes": 1})
    assert watched["boxes"] == 1 and watched.get("captions") is None and "images" not in watched
    assert watched.read == {"boxes", "captions", "images"}


def test_a_world_is_the_same_each_time_and_spoils_nothing():
    world, again = world_of(plain_towers(8)), world_of(PlainTowers(8))
    assert torch.equal(world._sets["support"].features, again._sets["support"].features)

    @dataclass
    class Spoiling:
        needs = frozenset({"features"})
        optional = frozenset()
        transductive = False

    given = world.inputs(Spoiling())
    given["support"].features.zero_()
    assert world._sets["support"].features.abs().sum() > 0


def test_weights_that_a_fit_changes_are_named_and_put_back():
    towers = PlainTowers(8)
    world = world_of(towers)
    kept = towers.model["image"].clone()
    assert world._restored(towers) == []
    towers.model["image"].data.mul_(2)
    towers.model["text"].requires_grad_(True)
    assert world._restored(towers) == ["the backbone's image", "what trains of the backbone: text"]
    assert torch.equal(towers.model["image"], kept) and not towers.model["text"].requires_grad
