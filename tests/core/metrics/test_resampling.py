"""Draws of test images, alone or by group, have the metrics of the drawn images; paired tests hold their level."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.metrics import classification_metrics, exchange_test, intervals_of, multilabel_metrics, units_of
from vladapt.core.metrics.significance import (
    calibration_draws,
    drawn_weights,
    f1_draws,
    label_f1_draws,
    precision_draws,
)


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
    how = {"groups": groups, "samples": 4, "seed": 3}
    found = {"ece": calibration_draws(logits, labels, **how)}
    if labels.ndim == 1:
        found["macro_f1"] = f1_draws(logits.argmax(dim=1), labels, 4, **how)
    else:
        found["macro_f1"] = label_f1_draws(logits > 0, labels, **how)
        found["mean_average_precision"] = precision_draws(logits, labels, **how)
    (weights,) = drawn_weights(60, groups, 4, 3)
    for place, weight in enumerate(weights):
        rows = drawn_rows(weight)
        if labels.ndim == 1:
            wanted = classification_metrics(logits[rows], labels[rows], 4)
        else:
            wanted = multilabel_metrics(logits[rows], labels[rows], ["a", "b", "c"])
        for name, values in found.items():
            assert float(values[place]) == pytest.approx(wanted[name], abs=1e-5), name


def test_draws_in_parts_are_the_same_draws(monkeypatch):
    logits, labels = several_labels()
    whole = precision_draws(logits, labels, samples=20)
    monkeypatch.setattr("vladapt.core.metrics.significance.NUMBERS_AT_ONCE", 7 * len(labels))
    assert torch.equal(precision_draws(logits, labels, samples=20), whole)
    assert not torch.equal(precision_draws(logits, labels, samples=20, seed=1), whole)


def test_groups_are_drawn_whole_and_an_image_without_one_stands_alone():
    groups = ("a", "a", "", "b", "", "b")
    unit, count = units_of(groups, 6)
    assert unit.tolist() == [0, 0, 1, 2, 3, 2] and count == 4
    for weight in drawn_weights(6, groups, 20, 0):
        assert torch.equal(weight[:, 0], weight[:, 1]) and torch.equal(weight[:, 3], weight[:, 5])
        assert not torch.equal(weight[:, 2], weight[:, 4])


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


def test_draws_that_all_agree_are_not_certain():
    low, high = intervals_of({"macro_f1": torch.ones(50).double()}, units=12)["macro_f1"]
    assert low == pytest.approx(0.025 ** (1 / 12)) and high == 1.0
    draws = {"macro_f1": torch.ones(50).double()}  # a sum of weights may miss 1 by rounding
    assert intervals_of(draws, units=12, values={"macro_f1": 1 - 2e-16})["macro_f1"] == [low, high]


def test_biased_draws_are_moved_to_the_value():
    draws = torch.linspace(0.3, 0.5, 1001, dtype=torch.float64)
    draws[::50] = torch.nan
    plain, moved = intervals_of({"ece": draws})["ece"], intervals_of({"ece": draws}, values={"ece": 0.45})["ece"]
    assert moved == pytest.approx([bound + 0.05 for bound in plain], abs=1e-3)
    assert intervals_of({"ece": torch.full((9,), torch.nan)}) == {}
