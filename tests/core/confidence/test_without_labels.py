"""The judge without labels: its signals on cases worked by hand, and what it keeps where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vladapt import build_adapter
from vladapt.core.confidence import without_labels
from vladapt.core.confidence.without_labels import (
    PLAIN,
    SURE_ENOUGH,
    WITH_HALVES,
    Evidence,
)
from vladapt.core.contracts import FeatureSet, TextClassifier

EVEN = {"images": 40, "changed": 0.2, "support": 0.0, "merged": 0.0}


@pytest.fixture
def two_clusters():
    """Twelve images in two tight clusters; zero-shot is sure of class 0 or 1, but wrong on the last of each."""
    angles = torch.cat([torch.linspace(0, 0.1, 6), torch.linspace(1.5, 1.6, 6)])
    unit = torch.stack([angles.cos(), angles.sin()], dim=1)
    classes = torch.tensor([0] * 5 + [1] + [1] * 5 + [0])
    return unit, 3.0 * F.one_hot(classes, 3).float()


def test_support_is_what_the_nearest_images_say(two_clusters):
    unit, zero_shot = two_clusters
    mended = 3.0 * F.one_hot(torch.tensor([0] * 6 + [1] * 6), 3).float()
    found = Evidence.of(unit, zero_shot, mended)
    sure, other = math.exp(3) / (math.exp(3) + 2), 1 / (math.exp(3) + 2)
    assert found.changed == pytest.approx(2 / 12) and found.merged == 0
    assert found.support == pytest.approx(sure - other, abs=1e-6)  # all five neighbours are of the new class
    spoilt = mended.clone()
    spoilt[0], spoilt[6] = zero_shot[6], zero_shot[0]
    assert Evidence.of(unit, mended, spoilt).support == pytest.approx(other - sure, abs=1e-6)


def test_classes_that_are_thrown_together_are_seen(two_clusters):
    unit, zero_shot = two_clusters
    one = 3.0 * F.one_hot(torch.zeros(12, dtype=torch.long), 3).float()
    assert Evidence.of(unit, zero_shot, one).merged == pytest.approx(-math.log(2))
    assert Evidence.of(unit, one, zero_shot).merged == 0  # more classes than before speak neither way


def test_other_witnesses_are_heard(two_clusters):
    unit, zero_shot = two_clusters
    mended = 3.0 * F.one_hot(torch.tensor([0] * 6 + [1] * 6), 3).float()
    alone = Evidence.of(unit, zero_shot, mended)
    against = F.one_hot(zero_shot.argmax(dim=1), 3).float()  # another backbone, sure of the old classes
    both = Evidence.of(unit, zero_shot, mended, witnesses=[against])
    assert both.support == pytest.approx((alone.support - 1) / 2, abs=1e-6) and both.witnesses == 2


def test_steadiness_is_agreement_by_halves_beyond_that_of_zero_shot(two_clusters):
    unit, zero_shot = two_clusters
    mended = 3.0 * F.one_hot(torch.tensor([0] * 6 + [1] * 6), 3).float()
    moved = mended.roll(3, dims=0)  # half of the prompts leads elsewhere for six of twelve images
    found = Evidence.of(unit, zero_shot, mended, halves=[(zero_shot, mended), (zero_shot, moved)])
    assert found.steadiness == pytest.approx(-0.25)
    assert found.probability < Evidence.of(unit, zero_shot, mended, halves=[(zero_shot, mended)] * 2).probability


@pytest.mark.parametrize(
    "signal, better, worse", [("support", 0.3, -0.3), ("merged", 0.0, -1.0), ("changed", 0.1, 0.9)]
)
@pytest.mark.parametrize("steadiness", [None, 0.0])
def test_each_signal_moves_the_odds_the_right_way(signal, better, worse, steadiness):
    given = {**EVEN, "steadiness": steadiness}
    one, other = (Evidence(**{**given, signal: value}) for value in (better, worse))
    assert one.probability > other.probability


def test_probability_is_the_regression_written_out():
    found = Evidence(images=90, changed=0.3, support=0.1, merged=-0.2)
    odds = PLAIN["constant"] + 0.1 * PLAIN["support"] - 0.2 * PLAIN["merged"] + 0.3 * PLAIN["changed"]
    assert found.probability == pytest.approx(1 / (1 + math.exp(-odds)))
    steady = Evidence(images=90, changed=0.3, support=0.1, merged=-0.2, steadiness=-0.1)
    of = WITH_HALVES
    odds = of["constant"] + 0.1 * of["support"] - 0.2 * of["merged"] + 0.3 * of["changed"] - 0.1 * of["steadiness"]
    assert steady.probability == pytest.approx(1 / (1 + math.exp(-odds)))


def test_labels_count_by_their_bayes_factor():
    """With 4 won and 1 lost the chance of winning is above one half with odds of 57 to 7: I_(1/2)(5, 2) = 7 / 64."""
    plain = Evidence(**EVEN)
    told = Evidence(**EVEN, won=4, lost=1)
    odds = math.log(plain.probability / (1 - plain.probability)) + math.log(57 / 7)
    assert told.probability == pytest.approx(1 / (1 + math.exp(-odds)))
    assert Evidence(**EVEN, won=3, lost=3).probability == pytest.approx(plain.probability)
    assert not Evidence(**EVEN, won=0, lost=12).better
    logits = torch.eye(3)
    labelled = plain.with_labels(logits[[0, 1, 2, 0]], logits[[0, 0, 0, 1]], torch.tensor([0, 0, 2, 2]))
    assert (labelled.won, labelled.lost) == (1, 1)


def test_nothing_changed_or_hardly_an_image_keeps_zero_shot():
    sure = {"changed": 0.1, "support": 0.9, "merged": 0.0}
    assert Evidence(images=40, **sure).better and Evidence(images=40, **sure).probability > SURE_ENOUGH
    assert not Evidence(images=7, **sure).better
    assert not Evidence(images=40, **{**sure, "changed": 0.0}).better
    unit = F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    found = Evidence.of(unit, unit, unit)
    assert (found.changed, found.support, found.merged) == (0, 0, 0) and "no image changed" in found.words
    assert Evidence.of(unit[:1], unit[:1], unit[:1].roll(1, dims=1)).images == 1


def test_large_sets_are_looked_at_in_part(monkeypatch, two_clusters):
    monkeypatch.setattr(without_labels, "ENOUGH", 6)
    unit, zero_shot = two_clusters
    assert Evidence.of(unit, zero_shot, zero_shot).images == 6


def test_halves_are_fitted_anew():
    generator = torch.Generator().manual_seed(0)
    prototypes = tuple(F.normalize(torch.randn(4, 8, generator=generator), dim=1) for _ in range(3))
    text = TextClassifier(torch.stack([each.mean(dim=0) for each in prototypes]), prototypes=prototypes)
    images = FeatureSet(torch.randn(20, 8, generator=generator))
    adapter = build_adapter("zlap")
    adapter.fit(None, text, unlabeled=images)
    (before, after), (other, _) = Evidence.answers_by_halves(adapter, text, images, 0)
    weights = F.normalize(torch.stack([each[::2].mean(dim=0) for each in prototypes]), dim=1)
    torch.testing.assert_close(before, text.logit_scale * images.unit @ weights.T)
    assert not torch.equal(before, other)
    again = build_adapter("zlap")
    again.fit(None, TextClassifier(weights), unlabeled=images)
    torch.testing.assert_close(after, again.logits(images))
    assert Evidence.answers_by_halves(adapter, TextClassifier(weights), images, 0) == []  # one text a class


def test_words_are_whole_sentences():
    found = Evidence(images=1234, changed=0.25, support=-0.2, merged=-1.0, steadiness=-0.5, won=1, lost=3)
    assert found.words == (
        "25% of 1,234 images changed their class; the images most like them are 0.20 less sure of the new class than "
        "of the old one; only 37% of the classes predicted before still are; half of the prompts lead to "
        "different answers; of the labelled images, only it is right on 1 and only zero-shot on 3"
    )
    assert found.brief == "25% changed, support -0.20, 37% of the classes left"
