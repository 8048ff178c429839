"""Logistic regressions of few rows are those of scikit-learn, which is asked where rows are many."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vladapt.core.training import logistic
from vladapt.core.training.logistic import logistic_regression


def drawn(rows: int, classes: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of classes that overlap and have unequal numbers of them."""
    rng = np.random.default_rng(rows)
    target = np.arange(rows) % classes
    target[: rows // 4] = 0
    return 2 * rng.normal(size=(classes, width))[target] + 2 * rng.normal(size=(rows, width)), target


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("c", [1e6, 0.3, 1e-4])
@pytest.mark.parametrize(("rows", "classes", "width"), [(12, 3, 12), (40, 10, 16), (30, 2, 24)])
def test_weights_and_biases_are_scikit_learns(rows, classes, width, c, balanced):
    features, target = drawn(rows, classes, width)
    weights, biases = logistic_regression(features, target, c, 1000, balanced)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=c, max_iter=1000, class_weight="balanced" if balanced else None)
        model.fit(features, target)
    assert weights.shape == model.coef_.shape and biases.shape == model.intercept_.shape
    np.testing.assert_allclose(weights, model.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(biases, model.intercept_, rtol=1e-6, atol=1e-8)


def test_it_stops_where_it_is_told():
    features, target = drawn(40, 10, 16)
    short, long = (logistic_regression(features, target, 1.0, steps)[0] for steps in (3, 1000))
    assert not np.allclose(short, long, atol=1e-2)


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_may_have_any_names(classes):
    features, target = drawn(30, classes, 6)
    expected, _ = logistic_regression(features, target, 1.0, 100)
    found, _ = logistic_regression(features, 3 * target + 7, 1.0, 100)
    np.testing.assert_array_equal(found, expected)


def test_many_rows_are_scikit_learns(monkeypatch):
    features, target = drawn(30, 3, 6)
    ours = logistic_regression(features, target, 1.0, 1000, True)
    monkeypatch.setattr(logistic, "SMALL", 89)
    asked = []
    by_scikit_learn = logistic._by_scikit_learn
    monkeypatch.setattr(logistic, "_by_scikit_learn", lambda *given: asked.append(1) or by_scikit_learn(*given))
    theirs = logistic_regression(features, target, 1.0, 1000, True)
    assert asked == [1]
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
