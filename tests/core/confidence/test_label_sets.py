"""Sets of labels: how large a share of the true ones they hold on images that the rows never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vladapt.core.confidence import LabelSets, label_set_metrics, raked
from vladapt.core.confidence.conformal import fewest_rows
from vladapt.core.errors import ConfigError


def drawn(rows=2000, labels=6, seed=0):
    """Probabilities of labels that depend on each other, two of them rare; many images have none."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 1)) + rng.normal(size=(rows, labels))
    truth = torch.from_numpy((hidden > [0.5, 0.8, 1, 1.5, 2, 2.5]).astype("f4"))
    return torch.from_numpy(hidden + rng.normal(size=hidden.shape)).sigmoid(), truth


def share_found(sets: torch.Tensor, truth: torch.Tensor) -> float:
    some = truth.any(dim=1)
    return float(((sets & (truth == 1)).sum(dim=1) / truth.sum(dim=1))[some].double().mean())


@pytest.mark.parametrize("n,coverage", [(40, 0.8), (60, 0.9), (200, 0.9)])
def test_the_share_found_is_the_one_asked_for_on_average_over_resplits(n, coverage):
    """At least the coverage and, as the paper shows, at most 2 / (n + 1) more but for jumps of the risk."""
    probs, truth = drawn()
    has_one = truth.any(dim=1).nonzero().flatten()
    held = []
    for split in range(200):
        order = has_one[torch.from_numpy(np.random.default_rng(split).permutation(len(has_one)))]
        sets = LabelSets.of_rows(probs[order[:n]], truth[order[:n]], coverage)
        held.append(sets.scores(probs[order[n:]], truth[order[n:]])["coverage"])
    assert coverage - 0.01 <= np.mean(held) <= coverage + 2 / (n + 1) + 0.01


def test_the_threshold_is_the_highest_that_keeps_the_risk():
    """By the formula, threshold by threshold."""
    probs, truth = drawn(rows=120, seed=4)
    some = truth.any(dim=1)
    n, made = int(some.sum()), LabelSets.of_rows(probs, truth, 0.85)

    def bound(least: float) -> float:
        return n / (n + 1) * (1 - share_found(probs >= least, truth)) + 1 / (n + 1)

    above = probs[probs > made.threshold].min().item()
    assert made.rows == n and bound(made.threshold) <= 0.15 < bound(above)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_too_few_rows_give_the_set_of_all_labels_and_say_so(coverage):
    probs, truth = drawn()
    rows, least = truth.any(dim=1).nonzero().flatten(), fewest_rows(coverage)
    few = LabelSets.of_rows(probs[rows[: least - 1]], truth[rows[: least - 1]], coverage)
    assert bool(few.sets(probs).all()) and f"at least {least} are needed" in few.note
    enough = LabelSets.of_rows(probs[rows[:least]], truth[rows[:least]], coverage)
    assert not enough.of_all_classes and enough.note == ""


def test_images_without_a_label_and_unknown_labels_promise_nothing():
    probs, truth = drawn(rows=300)
    some = truth.any(dim=1)
    made = LabelSets.of_rows(probs, truth, 0.9)
    assert made == LabelSets.of_rows(probs[some], truth[some], 0.9)
    unknown = truth.clone()
    unknown[:, 0] = torch.nan
    assert made != LabelSets.of_rows(probs, unknown, 0.9)
    absent = truth * torch.tensor([0.0, 1, 1, 1, 1, 1])
    assert LabelSets.of_rows(probs, unknown, 0.9) == LabelSets.of_rows(probs, absent, 0.9)
    none = LabelSets.of_rows(probs, torch.zeros_like(truth), 0.9)
    assert none.of_all_classes and label_set_metrics(none.sets(probs), torch.zeros_like(truth))["coverage"] is None


def test_rows_of_equal_weight_are_rows_without_weights():
    probs, truth = drawn(rows=150)
    assert LabelSets.of_rows(probs, truth, 0.9) == LabelSets.of_rows(probs, truth, 0.9, torch.full((150,), 3.0))


def test_weights_bring_the_share_back_where_labels_are_more_frequent_among_the_rows():
    """A label that cannot be told from others is common where sets are used, and rare among the rows."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 6000)
    truth = torch.nn.functional.one_hot(torch.from_numpy(which), 2).float()
    probs = torch.from_numpy(rng.normal(size=(6000, 2)) + 3 * truth.numpy() * [1, 0.2]).sigmoid()
    easy, hard = (np.flatnonzero(which == label) for label in (0, 1))
    rows = torch.from_numpy(np.concatenate([easy[:250], hard[:50]]))
    rest = torch.from_numpy(np.concatenate([easy[300:800], hard[300:2300]]))
    weights = raked(truth[rows], torch.tensor([0.2, 0.8]))
    without, with_weights = (LabelSets.of_rows(probs[rows], truth[rows], 0.85, given) for given in (None, weights))
    assert share_found(without.sets(probs[rest]), truth[rest]) < 0.8
    assert share_found(with_weights.sets(probs[rest]), truth[rest]) == pytest.approx(0.87, abs=0.04)


def test_raking_gives_each_label_its_share():
    truth = drawn(rows=400)[1]
    truth[::7, 2] = torch.nan
    shares = torch.tensor([0.2, 0.3, 0.25, 0.1, 0.05, 0.04])
    weights = raked(truth, shares)
    known = ~truth.isnan()
    reached = (weights[:, None] * (truth == 1)).sum(dim=0) / (weights[:, None] * known).sum(dim=0)
    assert torch.allclose(reached.float(), shares, atol=0.005) and float(weights.mean()) == pytest.approx(1)


def test_the_interval_knows_groups():
    probs, truth = drawn(rows=300)
    sets = LabelSets.of_rows(probs, truth, 0.8).sets(probs)
    alone = label_set_metrics(sets, truth)
    copies = [each.repeat_interleave(10, dim=0) for each in (sets, truth)]
    groups = [f"patient {row // 10}" for row in range(3000)]
    together = label_set_metrics(*copies, groups)
    assert together["coverage"] == pytest.approx(alone["coverage"])
    assert together["interval"] == pytest.approx(alone["interval"], abs=0.01)
    low, high = label_set_metrics(*copies)["interval"]
    assert high - low < 0.5 * (alone["interval"][1] - alone["interval"][0])


def test_a_coverage_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match=r"--coverage 1\.2"):
        LabelSets.of_rows(*drawn(rows=20), 1.2)
