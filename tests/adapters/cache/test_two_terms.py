"""The search over two added matrices against the plain loop it replaces."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.adapters.cache._cache_model import ClassSums, grid
from vladapt.adapters.cache._two_terms import search_two_terms


def problem(seed, classes, keys, val, dim=12, twins=False):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator)
    key_labels, labels = torch.arange(keys) % classes, torch.randint(classes, (val,), generator=generator)
    noisy = lambda y: F.normalize(centres[y] + 1.5 * torch.randn(len(y), dim, generator=generator), dim=-1)  # noqa: E731
    queries, cached = noisy(labels), noisy(key_labels)
    text = F.normalize(centres + 2 * torch.randn(classes, dim, generator=generator), dim=-1)
    zero_shot, values = 100 * queries @ text.T, F.one_hot(key_labels, classes).float()
    second = -5 * torch.rand(val, classes, generator=generator)
    if twins:  # the last class is the first once more, in all that is added up
        zero_shot[:, -1], second[:, -1], values[:, -1] = zero_shot[:, 0], second[:, 0], values[:, 0]
    return queries, labels, zero_shot, cached, values, second


def plain_loop(queries, labels, zero_shot, keys, values, second, alphas, betas, gammas, factor=1.0):
    best, found = -1.0, None
    for alpha, beta, gamma in itertools.product(alphas, betas, gammas):
        added = gamma * second + alpha * torch.exp(-beta * (1 - queries @ keys.T)) @ values
        score = float(((zero_shot + factor * added).argmax(dim=-1) == labels).double().mean())
        if score > best:
            best, found = score, (alpha, beta, gamma)
    return found, best


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), classes=st.integers(2, 7), shots=st.integers(1, 5), uneven=st.integers(0, 3),
    val=st.integers(1, 30), block=st.sampled_from([1, 30, 2**16]), flat=st.booleans(),
)  # fmt: skip
def test_search_is_the_plain_loop(seed, classes, shots, uneven, val, block, flat):
    """On few val images most points tie, so the order of the loops decides. Any block size gives the same."""
    *task, second = problem(seed, classes, classes * shots + uneven, val)
    task = *task, torch.zeros_like(second) if flat else second
    axes = grid(50, 5), grid(50, 6, 1.0), grid(30, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassSums, "BLOCK", block)
        found, score = search_two_terms(*task, *axes, factor=0.7)
    assert (found, score) == (pytest.approx(plain_loop(*task, *axes, 0.7)[0]), plain_loop(*task, *axes, 0.7)[1])


@pytest.mark.parametrize("label", [0, 4])
def test_of_equal_classes_the_first_is_right(label):
    queries, labels, *rest = problem(1, 5, 20, 12, twins=True)
    labels = torch.full_like(labels, label)
    axes = grid(3, 4), grid(9, 3, 1.0), grid(3, 4)
    _, score = search_two_terms(queries, labels, *rest, *axes)
    assert score == plain_loop(queries, labels, *rest, *axes)[1]
    assert (score > 0) == (label == 0)
