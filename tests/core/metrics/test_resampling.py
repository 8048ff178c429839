"""Draws of test images, alone or by group, have the metrics of the drawn images; paired tests hold their level."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.metrics import classification_metrics, exchange_test, intervals_of, metric_draws, multilabel_metrics
from vladapt.core.metrics.resampling import drawn_weights, p_of_draws, paired_difference, units_of


def drawn_rows(weight: torch.Tensor) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(weight)), weight.long())


def one_label(seed: int = 0, n: int = 60, classes: int = 4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator) + torch.nn.functional.one_hot(labels, classes)
    return logits, labels


def several_labels(seed: int = 0, n: int = 60):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, 3, generator=generator) < 0.4).float()
    logits = (torch.randn(n, 3, generator=generator) + labels).mul(4).round() / 4  # ties
    labels[::9, 1] = torch.nan
    return logits, labels


GROUPS = tuple(f"patient {i // 5}" for i in range(60))


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["images", "groups"])
@pytest.mark.parametrize("make", [one_label, several_labels])
def test_a_draw_has_the_metrics_of_the_drawn_images(make, groups):
    logits, labels = make()
    found = metric_draws(logits, labels, groups, samples=4, seed=3)
    (weights,) = drawn_weights(60, groups, 4, 3)
    for place, weight in enumerate(weights):
        rows = drawn_rows(weight)
        if labels.ndim == 1:
            wanted = classification_metrics(logits[rows], labels[rows], 4)
        else:
            wanted = multilabel_metrics(logits[rows], labels[rows], ["a", "b", "c"])
        for name, values in found.items():
            assert float(values[place]) == pytest.approx(wanted[name], abs=1e-5), name
    assert len(found) == 5


def test_groups_are_drawn_whole_and_an_image_without_one_stands_alone():
    groups = ("a", "a", "", "b", "", "b")
    unit, count = units_of(groups, 6)
    assert unit.tolist() == [0, 0, 1, 2, 3, 2] and count == 4
    for weight in drawn_weights(6, groups, 20, 0):
        assert torch.equal(weight[:, 0], weight[:, 1]) and torch.equal(weight[:, 3], weight[:, 5])
        assert not torch.equal(weight[:, 2], weight[:, 4])


def test_intervals_are_wider_where_images_of_a_group_are_alike():
    labels = torch.arange(2).repeat(100)
    right = torch.rand(20, generator=torch.Generator().manual_seed(0)).lt(0.7).repeat_interleave(10)  # by group of 10
    logits = torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2).float()
    groups = tuple(str(i // 10) for i in range(200))
    alone, grouped = (intervals_of(metric_draws(logits, labels, each)) for each in (None, groups))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc"):
        assert grouped[name][1] - grouped[name][0] > 2 * (alone[name][1] - alone[name][0])


def test_everything_right_is_not_certain():
    labels = torch.arange(2).repeat(6)
    logits = torch.nn.functional.one_hot(labels, 2).float()
    low, high = intervals_of(metric_draws(logits, labels, samples=50), units=12)["balanced_accuracy"]
    assert low == pytest.approx(0.7575, abs=1e-3) and high == 1.0
    draws = {"balanced_accuracy": torch.ones(50).double()}  # a sum of weights may miss 1 by rounding
    assert intervals_of(draws, units=12, values={"balanced_accuracy": 1 - 2e-16})["balanced_accuracy"] == [low, high]


def test_the_exchange_test_is_exact_for_few_units():
    assert exchange_test(torch.tensor([1.0] * 5 + [0.0] * 9)) == pytest.approx(2 / 2**5)
    groups = ("a",) * 5 + ("b",) * 9
    assert exchange_test(torch.tensor([1.0] * 5 + [0.0] * 9), groups) == 1.0  # one unit says nothing
    assert exchange_test(torch.zeros(4)) == 1.0


def test_the_exchange_test_of_many_units_agrees_with_the_sign_test():
    from scipy.stats import binomtest

    gains = torch.tensor([1.0] * 30 + [-1.0] * 14)
    assert exchange_test(gains) == pytest.approx(binomtest(30, 44).pvalue, abs=0.006)


def test_by_group_chance_is_seldom_called_a_gain():
    found = {"images": 0, "groups": 0}
    groups = tuple(str(i // 10) for i in range(200))
    for seed in range(60):
        effect = torch.randn(20, generator=torch.Generator().manual_seed(seed)).sign().repeat_interleave(10)
        found["images"] += exchange_test(effect) < 0.05
        found["groups"] += exchange_test(effect, groups) < 0.05
    assert found["groups"] <= 7 < 20 < found["images"]


def test_the_p_value_of_draws_is_two_sided():
    assert p_of_draws(torch.linspace(-1, 1, 999)) == pytest.approx(1.0, abs=0.01)
    assert p_of_draws(torch.full((999,), 0.1)) == pytest.approx(2 / 1000)
    assert p_of_draws(torch.full((9,), torch.nan)) == 1.0


def test_a_difference_is_in_the_middle_of_its_interval_and_its_p_value_agrees():
    """Draws that miss a rare label are biased, here by more than the difference."""
    generator = torch.Generator().manual_seed(0)
    draws = 0.05 + 0.02 * torch.randn(2000, generator=generator, dtype=torch.float64)
    draws[::50] = torch.nan
    for difference in (-0.05, -0.01, 0.0, 0.03, 0.06):
        (low, high), p_value = paired_difference(draws, difference)
        assert (low + high) / 2 == pytest.approx(difference, abs=0.003)
        assert high - low == pytest.approx(0.078, abs=0.006)
        assert (low > 0 or high < 0) == (p_value < 0.05)
    assert paired_difference(torch.full((9,), torch.nan), 0.1) == (None, 1.0)


def test_a_class_that_draws_miss_does_not_move_the_interval_away():
    labels = torch.cat([torch.zeros(60), torch.ones(60), torch.full((1,), 2)]).long()
    logits = torch.nn.functional.one_hot(torch.where(labels == 2, 0, labels), 3).float()  # the single one is wrong
    logits[:12] = logits[:12].roll(1, dims=1)
    value = classification_metrics(logits, labels, 3)["balanced_accuracy"]
    draws = metric_draws(logits, labels)
    plain, moved = intervals_of(draws), intervals_of(draws, values={"balanced_accuracy": value})
    assert sum(moved["balanced_accuracy"]) / 2 < sum(plain["balanced_accuracy"]) / 2 - 0.05
    assert moved["balanced_accuracy"][0] < value < moved["balanced_accuracy"][1]
    assert moved["macro_f1"] == plain["macro_f1"]


def test_an_interval_holds_the_value_where_nearly_all_draws_agree():
    labels = torch.arange(18) % 3
    logits = torch.nn.functional.one_hot(torch.zeros_like(labels), 3).float()  # always the first class
    value = classification_metrics(logits, labels, 3)["balanced_accuracy"]
    low, high = intervals_of(metric_draws(logits, labels), values={"balanced_accuracy": value})["balanced_accuracy"]
    assert low <= value <= high < 0.4
