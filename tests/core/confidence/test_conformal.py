from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from parity_checks.confidence import sets_as_released
from scipy.stats import betabinom

from vladapt.core.confidence import Conformal, conformal_scores, fewest_rows, threshold
from vladapt.core.errors import ConfigError


def drawn(rows, seed=0, classes=6, sharpness=1.7):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    return (sharpness * logits).softmax(dim=1), labels


def test_agrees_with_the_released_code(agrees):
    agrees(sets_as_released)


@pytest.mark.parametrize(
    "n,coverage,place", [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (20, 0.95, 20), (100, 0.9, 91)]
)
def test_the_threshold_is_an_order_statistic_not_an_interpolation(n, coverage, place):
    scores = torch.rand(n, generator=torch.Generator().manual_seed(n))
    assert threshold(scores, coverage) == float(scores.sort().values[place - 1])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95, 0.99])
def test_too_few_rows_give_the_set_of_all_classes_and_say_so(coverage):
    least = math.ceil(round(1 / (1 - coverage), 6)) - 1
    assert fewest_rows(coverage) == least
    probs, labels = drawn(least)
    fewer = Conformal.of_rows(probs[:-1], labels[:-1], coverage)
    assert bool(fewer.sets(probs).all()) and f"at least {least} are needed" in fewer.note
    enough = Conformal.of_rows(probs, labels, coverage)
    assert not enough.of_all_classes and enough.note == ""


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_the_coverage_is_that_of_the_beta_binomial(method):
    probs, labels = drawn(900, seed=3)
    n, coverage, held = 60, 0.9, []
    for split in range(200):
        order = torch.from_numpy(np.random.default_rng(split).permutation(len(labels)))
        own, others = order[:n], order[n:]
        made = Conformal.of_rows(probs[own], labels[own], coverage, method)
        held.append(made.scores(probs[others], labels[others])["coverage"])
    place = math.ceil((n + 1) * coverage)
    expected = betabinom(len(labels) - n, place, n + 1 - place).mean() / (len(labels) - n)
    assert np.mean(held) == pytest.approx(expected, abs=0.01)


def test_lac_has_the_smallest_sets():
    probs, labels = drawn(4000, sharpness=1)
    sizes = {
        method: Conformal.of_rows(probs[:2000], labels[:2000], 0.9, method).scores(probs[2000:], labels[2000:])
        for method in ("lac", "aps")
    }
    assert sizes["lac"]["mean_set_size"] < sizes["aps"]["mean_set_size"]


def test_an_image_has_the_same_set_in_any_company():
    probs, labels = drawn(300)
    made = Conformal.of_rows(probs, labels, 0.9, "aps")
    assert torch.equal(made.sets(probs)[7:8], made.sets(probs[7:8]))


def test_raps_adds_a_penalty_beyond_the_free_ranks():
    probs = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    u = torch.tensor([[0.5]])
    added = conformal_scores(probs, "raps", u, 0.1, 1) - conformal_scores(probs, "aps", u)
    assert torch.allclose(added, torch.tensor([[0.0, 0.1, 0.2]], dtype=torch.float64))


def test_weights_bring_the_coverage_back_where_classes_are_more_or_less_frequent():
    probs, labels = drawn(30000, classes=2)
    kept = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < torch.tensor([0.05, 1.0])[labels]
    shifted, rest = kept.nonzero().flatten()[:4000], torch.arange(20000, 30000)
    probs[:, 0], probs[:, 1] = probs[:, 0] * 0.2, 1 - probs[:, 0] * 0.2  # class 0 is hard
    weights = torch.tensor([20.0, 1.0])[labels[shifted]]
    without = Conformal.of_rows(probs[shifted], labels[shifted], 0.9).scores(probs[rest], labels[rest])
    with_weights = Conformal.of_rows(probs[shifted], labels[shifted], 0.9, weights=weights)
    assert without["coverage"] < 0.8
    assert with_weights.scores(probs[rest], labels[rest])["coverage"] == pytest.approx(0.9, abs=0.03)


def test_equal_weights_change_nothing():
    probs, labels = drawn(57)
    for coverage in (0.8, 0.9, 0.95):
        plain = Conformal.of_rows(probs, labels, coverage)
        weighted = Conformal.of_rows(probs, labels, coverage, weights=torch.full((57,), 3.0))
        assert torch.equal(plain.thresholds, weighted.thresholds)


@pytest.mark.parametrize("coverage,method,word", [(1.0, "lac", "--coverage 1.0"), (0.9, "thr", "--set-method thr")])
def test_what_there_is_not_is_refused(coverage, method, word):
    probs, labels = drawn(30)
    with pytest.raises(ConfigError, match=word):
        Conformal.of_rows(probs, labels, coverage, method)
