"""How much of a score the order of a sample's parts contributes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.contracts.judgement import FIT, Scores
from vladapt.core.features.batches import Extras, batches
from vladapt.core.judgements.part_order import (
    ORDERS,
    PartOrder,
    reliance,
    reversed_parts,
    shuffled_parts,
)
from vladapt.core.metrics.classification import metrics_of
from vladapt.core.tasks.classification.scoring import ClassificationFit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def samples():
    """Eight samples on two lines, four of them backwards; the last part of some is missing, in the middle."""
    way, there = torch.randn(2, 12, generator=seeded(1)), torch.linspace(-1, 1, 5)[None, :, None]
    pair = torch.arange(2).repeat_interleave(4)
    parts = torch.randn(12, generator=seeded(2)) + there * way[pair, None]
    parts = torch.cat([parts, parts.flip(1)]) + 0.05 * torch.randn(16, 5, 12, generator=seeded(3))
    mask = torch.ones(16, 5, dtype=torch.bool)
    mask[::3, 2] = False
    labels = torch.cat([2 * pair, 2 * pair + 1])
    return FeatureSet.of_parts(
        parts.masked_fill(~mask[..., None], 0), mask, labels=labels, ids=tuple("abcdefghijklmnop")
    )


@pytest.fixture(scope="module")
def prepared():
    """What the engine has: no towers, rows that have their parts."""
    return SimpleNamespace(backbone=None, batches=lambda adapter, rows: batches(adapter, rows, Extras([])))


def measured(prepared, samples, name, **options):
    adapter = build_adapter(name, **options)
    adapter.fit(samples, TextClassifier(torch.randn(4, 12, generator=seeded(4)), logit_scale=20.0))
    metrics = {"adapted": metrics_of(adapter.logits(samples), samples.labels, "abcd")}
    return judged(prepared, adapter, samples, metrics), metrics


def judged(prepared, adapter, samples, metrics):
    scores = Scores(samples.labels, None, None, metrics)
    of = {"prepared": prepared, "adapter": adapter, "test": samples, "class_names": "abcd", "scores": scores}
    fit = ClassificationFit(at=FIT, seed=3, reporter=None, **of)
    return PartOrder().compute(fit) if PartOrder().applies(fit) else None


def test_shuffled_is_the_same_parts_in_the_places_that_have_parts(samples):
    shuffled = shuffled_parts(samples, seeded())
    assert torch.equal(shuffled.parts_mask, samples.parts_mask) and shuffled.ids == samples.ids
    for before, after, mask in zip(samples.parts, shuffled.parts, samples.parts_mask):
        assert sorted(before[mask].tolist()) == sorted(after[mask].tolist()) and not after[~mask].any()
    assert not torch.equal(shuffled.parts, samples.parts)
    orders = {tuple((before[:, 0, None] == after[:, 0]).int().argmax(0).tolist()) for before, after in zip(
        samples.parts[1:3], shuffled.parts[1:3])}  # fmt: skip
    assert len(orders) == 2  # each has an order of its own
    assert torch.equal(shuffled.parts, shuffled_parts(samples, seeded()).parts)


def test_reversed_is_the_last_first(samples):
    back = reversed_parts(samples)
    assert torch.equal(back.parts[1], samples.parts[1].flip(0))
    assert torch.equal(back.parts[0][[0, 1, 3, 4]], samples.parts[0][[4, 3, 1, 0]]) and not back.parts[0, 2].any()
    assert torch.equal(reversed_parts(back).parts, samples.parts)


def test_a_head_that_averages_loses_exactly_nothing(prepared, samples):
    told, metrics = measured(prepared, samples, "mean-pool", epochs=5)
    assert told.in_order == told.shuffled == told.reversed == metrics["adapted"]["accuracy"]
    assert told.drop == told.spread == told.reversed_drop == told.relative_drop == 0
    assert "does not use the order" in told.section().note


def test_a_head_that_sees_the_order_loses_it(prepared, samples):
    told, _ = measured(prepared, samples, "temporal-adapter", use="order", epochs=40, lr=5e-3)
    assert told.in_order == 1 and told.reversed == 0 and told.orders == ORDERS
    assert 0.2 < told.drop < 1 and told.spread > 0 and told.relative_drop == told.drop
    section = told.section()
    assert [row[0].split(",")[0] for row in section.rows] == ["In order", "Shuffled", "Reversed"]
    assert section.rows[2][2].text == "−100.0 points" and section.rows[2][3].text == "−100.0%"
    assert "what the order contributes." in section.note


def test_drop_is_absolute_and_relative_with_its_spread(samples):
    scores = iter([0.5, 0.3, 0.4, 0.4, 0.4, 0.2])
    told = reliance("accuracy", lambda rows: next(scores), samples, 0.8, seeded())
    assert told["shuffled"] == pytest.approx(0.4) and told["drop"] == pytest.approx(0.4)
    assert told["relative_drop"] == pytest.approx(0.5) and told["spread"] == pytest.approx(0.0707, abs=1e-4)
    assert told["reversed_drop"] == pytest.approx(0.6) and told["reversed_relative_drop"] == pytest.approx(0.75)
    assert reliance("accuracy", lambda rows: 0.0, samples, 0.0, seeded()).relative_drop == 0


def test_where_there_is_no_order_nothing_is_measured(prepared, samples):
    one = FeatureSet.of_parts(samples.parts[:, :1], labels=samples.labels, ids=samples.ids)
    assert measured(prepared, one, "mean-pool", epochs=1)[0] is None
    assert measured(prepared, samples, "nearest-mean")[0] is None
    fitted = build_adapter("mean-pool", epochs=1)
    fitted.fit(samples, TextClassifier(torch.eye(4, 12)))
    assert judged(prepared, fitted, replace(samples, labels=None), {}) is None
