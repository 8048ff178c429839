"""ZERO and MTA: their formulas on bags of views, ties, and images as they come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks.testtime import mta as released_mta
from parity_checks.testtime import zero as released_zero

from vladapt.core.contracts import Batch, TextClassifier
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter

FAST = {"n_views": 8}


def ready(name, text, backbone=None, **options):
    adapter = build_adapter(name, **options)
    adapter.fit(None, text, backbone=backbone)
    return adapter


def bag_of(seed, views=12, dim=6, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(
        torch.randn(dim, generator=generator) + spread * torch.randn(views, dim, generator=generator), dim=1
    )


@pytest.mark.parametrize("comparison", [released_mta, released_zero], ids=["mta", "zero"])
def test_agrees_with_the_released_code(agrees, comparison):
    agrees(comparison)


@pytest.mark.parametrize("seed", range(4))
def test_zero_counts_the_votes_of_the_surest_views(seed):
    text, bag = TextClassifier(torch.eye(4, 6), logit_scale=5.0), bag_of(seed)
    votes = ready("zero", text, selection=0.5).scored(bag)
    p = text.logits(bag).softmax(dim=1)
    order = (-(p * p.log()).sum(dim=1)).argsort()
    counted = torch.bincount(p[order[:6]].argmax(dim=1), minlength=4)
    assert int(votes.sum()) - int((counted == counted.max()).sum() > 1) == 6
    assert votes.argmax() in (counted == counted.max()).nonzero()


def test_zero_breaks_a_tie_by_the_remaining_views_from_the_surest_on():
    text = TextClassifier(torch.eye(3), logit_scale=10.0)
    strong = [torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])]  # one vote each
    third, second = torch.tensor([0.2, 0.1, 0.8]), torch.tensor([0.4, 0.6, 0.4])  # outside the tie, then inside it
    votes = ready("zero", text, selection=0.5).scored(torch.stack([*strong, second, third]))
    assert votes.tolist() == [1, 2, 0]
    votes = ready("zero", text, selection=0.5).scored(torch.stack([*strong, third, third]))  # nobody breaks it
    assert votes[:2].max() == 2 and votes[2] == 0


def test_zero_at_the_precision_of_float16_gives_parts_of_votes():
    text, bag = TextClassifier(torch.eye(4, 6)), bag_of(0)
    bag[0] = F.normalize(torch.tensor([0.7, 0.6999, 0.0, 0.0, 0.0, 0.0]), dim=0)
    votes = ready("zero", text, selection=1.0, temperature=torch.finfo(torch.float16).eps).scored(bag)
    wanted = (text.logits(bag) / 100 / torch.finfo(torch.float16).eps).softmax(dim=1).sum(dim=0)
    torch.testing.assert_close(votes, wanted)
    assert (votes.frac() > 0.3).any()


def test_mta_is_the_texts_of_a_mode_among_the_views():
    text, bag = TextClassifier(torch.eye(4, 6)), bag_of(0)
    adapter = ready("mta", text)
    mode, inlierness = adapter.mode(bag)
    assert mode.norm() == pytest.approx(1, abs=1e-5) and inlierness.sum() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(adapter.scored(bag), text.logits(mode[None])[0])


def test_mta_leaves_views_aside_that_no_other_is_like():
    text, bag = TextClassifier(torch.eye(4, 6)), bag_of(1, spread=0.05)
    bag[3] = -bag[0]
    _, inlierness = ready("mta", text).mode(bag)
    assert inlierness[3] < 0.5 * inlierness.median()


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_mta_gives_weight_to_views_whose_predictions_agree(weight):
    """The first round: density at the image, and the agreement of the views' predictions by lambda_q."""
    text, bag = TextClassifier(torch.eye(4, 6), logit_scale=5.0), bag_of(2, spread=1.0)
    squares = (bag[:, None] - bag).square().sum(dim=-1)
    bandwidths = 0.5 * squares.sort(dim=1).values[:, 1:4].mean(dim=1)
    predicted = text.logits(bag).softmax(dim=1)
    wanted = ((-squares[0] / (2 * bandwidths)).exp() + weight * (predicted @ predicted.T).mean(dim=1)) / 0.2
    _, inlierness = ready("mta", text, lambda_q=weight, iterations=1).mode(bag)
    torch.testing.assert_close(inlierness, wanted.softmax(dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mta", "zero"])
def test_few_and_equal_views_have_an_answer(name):
    text = TextClassifier(torch.eye(4, 6))
    for bag in (bag_of(0, views=2), bag_of(0)[:1].expand(5, -1)):
        assert torch.isfinite(ready(name, text).scored(bag)).all()


@pytest.mark.parametrize("name", ["mta", "zero"])
def test_an_image_is_looked_at_alone_and_its_features_are_the_first_view(name, small_clip, classifier):
    images = [np.random.default_rng(i).integers(0, 256, (20 + i, 18, 3), dtype=np.uint8) for i in range(3)]
    adapter = ready(name, classifier, small_clip, **FAST)
    together = adapter.logits(Batch(images=images))
    alone = torch.cat([adapter.logits(Batch(images=[image])) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        features = small_clip.encode_image(torch.stack([small_clip.preprocess()(image) for image in images]))
    torch.testing.assert_close(adapter.logits(Batch(images=images, features=features)), together, atol=1e-2, rtol=1e-3)
    with pytest.raises(CapabilityError, match="views of each test image"):
        adapter.logits(features)
