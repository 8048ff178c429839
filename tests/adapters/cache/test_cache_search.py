"""The vectorised grid search against the plain loop it replaces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.adapters.cache import _cache_model, _interpolated_search
from vladapt.adapters.cache._cache_model import grid, search_cache
from vladapt.core.metrics.classification import val_score
from vladapt.core.registry import build_adapter


def problem(seed, classes, keys, val, dim=12):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator)
    key_labels = torch.arange(keys) % classes
    labels = torch.randint(classes, (val,), generator=generator)
    noisy = lambda y: F.normalize(centres[y] + 1.5 * torch.randn(len(y), dim, generator=generator), dim=-1)  # noqa: E731
    queries, cached = noisy(labels), noisy(key_labels)
    text = F.normalize(centres + 2 * torch.randn(classes, dim, generator=generator), dim=-1)
    exponent = 3 * torch.rand(keys, generator=generator)
    return queries, labels, 100 * queries @ text.T, cached, F.one_hot(key_labels, classes).float(), exponent


def plain_loop(queries, labels, zero_shot, keys, values, betas, alphas, gammas=(0.0,), exponent=None, factor=1.0):
    """As the papers' code searches: everything again at every point, the first strict improvement kept."""
    best, found = -1.0, None
    for beta, alpha, gamma in itertools.product(betas, alphas, gammas):
        weighted = values if exponent is None else values * torch.exp(gamma * exponent)[:, None]
        logits = zero_shot + alpha * factor * torch.exp(-beta * (1 - queries @ keys.T)) @ weighted
        score = val_score(logits, labels)
        if score > best:
            best, found = score, (beta, alpha, gamma)
    return found, best


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6), classes=st.integers(2, 7), shots=st.integers(1, 5), uneven=st.integers(0, 3),
    val=st.integers(1, 30), budget=st.sampled_from([1, 5000, _cache_model.ClassSums.BUDGET]),
)  # fmt: skip
def test_search_is_the_plain_loop(seed, classes, shots, uneven, val, budget):
    """On small val sets most points tie, so the order of the grid decides. Any block size gives the same."""
    *task, exponent = problem(seed, classes, classes * shots + uneven, val)
    axes = grid(7, 9), grid(5, 6), grid(1, 3, start=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cache_model.ClassSums, "BUDGET", budget)
        ours = search_cache(*task, *axes, exponent=exponent, alpha_factor=0.7)
    found, score = plain_loop(*task, *axes, exponent, 0.7)
    assert ours[0] == pytest.approx(found)
    assert ours[1] == pytest.approx(score)


def test_equal_logits_count_as_the_first_class():
    """Two classes with the same text and the same keys tie in every logit: the first of them is what argmax says."""
    queries, _, zero_shot, keys, _, _ = problem(0, 3, 6, 8)
    twins = torch.cat([keys[:2], keys[:2]]), torch.eye(4)
    zero_shot = torch.cat([zero_shot[:, :2], zero_shot[:, :2]], dim=1)
    for labels in (torch.zeros(8, dtype=torch.long), torch.full((8,), 2), torch.full((8,), 3)):
        ours = search_cache(queries, labels, zero_shot, *twins, grid(7, 5), grid(3, 4))
        assert ours[1] == plain_loop(queries, labels, zero_shot, *twins, grid(7, 5), grid(3, 4))[1]


def test_a_class_without_keys_and_scaled_values():
    queries, labels, zero_shot, keys, values, _ = problem(3, 5, 20, 40)
    kept = values[:, 2] == 0
    keys, values = keys[kept], values[kept] * torch.linspace(0.5, 2, int(kept.sum()))[:, None]
    args = queries, labels, zero_shot, keys, values, grid(7, 8), grid(3, 8)
    assert search_cache(*args) == (pytest.approx(plain_loop(*args)[0]), pytest.approx(plain_loop(*args)[1]))


@pytest.mark.parametrize("budget", [200, _cache_model.ClassSums.BUDGET])
def test_several_labels_are_searched_by_macro_auroc(monkeypatch, budget):
    queries, _, zero_shot, keys, _, _ = problem(4, 5, 20, 25)
    generator = torch.Generator().manual_seed(1)
    values = (torch.rand(20, 5, generator=generator) < 0.4).float()
    labels = (torch.rand(25, 5, generator=generator) < 0.4).float()
    labels[torch.rand(25, 5, generator=generator) < 0.1] = torch.nan
    args = queries, labels, zero_shot, keys, values, grid(7, 6), grid(30, 5)
    monkeypatch.setattr(_cache_model.ClassSums, "BUDGET", budget)
    found, score = search_cache(*args)
    assert (found, score) == (pytest.approx(plain_loop(*args)[0]), pytest.approx(plain_loop(*args)[1]))


def test_very_unequal_shots_do_not_pad():
    """One class of 60 among classes of 1 would fill 60 slots a class; the product with the values is used instead."""
    queries, labels, zero_shot, keys, _, _ = problem(5, 8, 67, 30)
    values = F.one_hot(torch.tensor([0] * 60 + list(range(1, 8))), 8).float()
    assert _cache_model._slots(values) is None
    args = queries, labels, zero_shot, keys, values, grid(7, 8), grid(3, 8)
    assert search_cache(*args)[0] == pytest.approx(plain_loop(*args)[0])


def test_working_memory_is_bounded_by_the_budget():
    *_, keys, values, _ = problem(6, 100, 1600, 2)
    sums = _cache_model.ClassSums(keys, values, (0.0,), None)
    rows = sums.rows_at_once()
    assert 0 < rows * 4 * (2 * 1600 + 3 * 100) <= _cache_model.ClassSums.BUDGET < 300 * 2**20


def test_the_grid_leaves_its_upper_end_out():
    assert grid(7, 200)[0] == pytest.approx(0.1)
    assert grid(7, 200)[-1] == pytest.approx(199 * 6.9 / 200 + 0.1)
    assert grid(1, 4, start=0.0) == (0.0, 0.25, 0.5, 0.75)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 7), shots=st.integers(1, 5), val=st.integers(1, 30))
def test_intervals_of_alpha_count_as_each_alpha_does(seed, classes, shots, val):
    queries, labels, zero_shot, keys, values, exponent = problem(seed, classes, classes * shots, val)
    axes, weights = (grid(7, 9), (*grid(5, 6), 80.0)), torch.rand(val).double()
    sums = _cache_model.ClassSums(keys, values, grid(1, 3, start=0.0), exponent)
    for weighted in (None, weights):
        each = _cache_model._sweep_accuracy(sums, queries, labels, zero_shot, *axes, weighted)
        ours = _interpolated_search.sweep_interpolated(sums, queries, labels, zero_shot, *axes, weighted)
        assert ours == pytest.approx(each)


def test_intervals_of_alpha_take_the_first_of_equal_logits():
    queries, _, zero_shot, keys, _, _ = problem(0, 3, 6, 8)
    zero_shot = torch.cat([zero_shot[:, :2], zero_shot[:, :2]], dim=1)
    sums = _cache_model.ClassSums(torch.cat([keys[:2], keys[:2]]), torch.eye(4), (0.0,), None)
    for labels in (torch.zeros(8, dtype=torch.long), torch.full((8,), 2), torch.full((8,), 3)):
        axes = grid(7, 5), (0.0, 0.5, 3.0)
        each = _cache_model._sweep_accuracy(sums, queries, labels, zero_shot, *axes, None)
        ours = _interpolated_search.sweep_interpolated(sums, queries, labels, zero_shot, *axes, None)
        assert (ours == each).all()


def test_a_large_cache_is_summed_at_few_betas(monkeypatch):
    """The same choice as by sums at each of the 200 betas, at a tenth of the exponentials."""
    task, betas, sums = problem(7, 20, 160, 60)[:5], [], _cache_model.ClassSums
    at, at_each = sums.at, sums.at_each
    monkeypatch.setattr(sums, "at", lambda self, a, beta, b: betas.append(beta) or at(self, a, beta, b))
    monkeypatch.setattr(sums, "at_each", lambda self, a, several: betas.extend(several) or at_each(self, a, several))
    exact, summed = search_cache(*task, grid(7, 200), grid(3, 20)), len(betas)
    monkeypatch.setattr(_cache_model, "MOST_KEYS", 100)
    betas.clear()
    assert search_cache(*task, grid(7, 200), grid(3, 20)) == exact
    assert summed == 200 and len(betas) <= summed / 8


@pytest.mark.parametrize("several", [False, True], ids=["a class each", "several classes"])
def test_sums_at_several_betas_are_those_at_each(several):
    queries, _, _, keys, values, exponent = problem(5, 4, 12, 9)
    values = values + 0.5 * values.roll(1, dims=1) if several else values
    sums = _cache_model.ClassSums(keys, values, grid(1, 3, start=0.0), exponent)
    assert (sums.weights is None) == several
    affinity, betas = sums.affinity(queries), torch.tensor(grid(7, 5))
    each = [sums.at(affinity, float(beta), torch.empty_like(affinity)) for beta in betas]
    assert sums.at_each(affinity, betas) == pytest.approx(torch.cat(each, dim=1), rel=1e-5)


@pytest.mark.parametrize("name", ["tip-adapter", "ape"])
def test_a_fit_says_that_it_interpolated(make_task, monkeypatch, name):
    task = make_task(shots=8)
    plain = build_adapter(name).fit(task.support, task.text)
    monkeypatch.setattr(_cache_model, "MOST_KEYS", 29)  # of the 40 keys a quarter is held out while searching
    fitted = build_adapter(name).fit(task.support, task.text)
    words = "class sums of 30 cache keys are interpolated between the betas searched, to 1e-06"
    assert words in fitted.notes and words not in plain.notes
    assert fitted.chosen == plain.chosen


@pytest.mark.parametrize(
    ("points", "spread"), [(grid(7, 200), 2.0), (grid(3, 10), 0.4), ((1.5,), 1.0), ((40.0, 0.0), 2.0)]
)
def test_mixtures_of_chebyshev_nodes_are_exponentials(points, spread):
    nodes, mixture = _interpolated_search.chebyshev(points, spread)
    s = np.linspace(0, spread, 101)
    found = mixture @ np.exp(-np.outer(nodes, s))
    assert np.abs(found - np.exp(-np.outer(points, s))).max() <= _interpolated_search.TOLERANCE


def test_zeros_of_the_values_of_a_large_cache_are_passed_over(monkeypatch):
    queries, *_, keys, values, _ = problem(8, 30, 120, 50)
    for rows in (values, values * torch.rand(120, 1), torch.rand(120, 30)):
        dense = _cache_model.cache_logits(queries, keys, rows, 2.0)
        monkeypatch.setattr(_cache_model, "SPARSE_FROM", 0)
        torch.testing.assert_close(_cache_model.cache_logits(queries, keys, rows, 2.0), dense)
        monkeypatch.undo()
