"""Logistic regressions of few rows, by the solver, the loss and the stopping rule of scikit-learn's.

scikit-learn checks and converts what it is given at each step of the solver, which for the images of a few shots takes
several times as long as the arithmetic; a search fits dozens of them. It still fits what is large, on all cores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

SMALL = 2**18
"""Rows times classes up to which scikit-learn is not needed."""
TOLERANCE, FLATNESS, LINE_STEPS = 1e-4, 64 * np.finfo(float).eps, 50
"""Of scikit-learn's L-BFGS: largest gradient, smallest relative gain, steps of a line search."""

Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""(N, K) logits, which are overwritten -> the mean loss, and its gradient (N, K)."""


def logistic_regression(
    features: np.ndarray, target: np.ndarray, c: float, max_iter: int, balanced: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(K, D) weights and (K,) biases of the least L2-regularised cross-entropy, as `LogisticRegression` gives them.

    Args:
        features: (N, D) float64.
        target: (N,) classes, at least two; of exactly two K is 1, the logit of the second.
        c: inverse strength of the regularisation, which leaves biases alone.
        max_iter: iterations of L-BFGS; where no optimum is reached, the last iterate stands.
        balanced: each class counts alike.
    """
    classes, places = np.unique(target, return_inverse=True)
    if len(features) * len(classes) > SMALL:
        return _by_scikit_learn(features, target, c, max_iter, balanced)
    from scipy.optimize import minimize

    rows = np.ones(len(places))
    if balanced:
        rows = (len(places) / (len(classes) * np.bincount(places)))[places]
    total, rows = rows.sum(), rows / rows.sum()
    loss = _two_classes(places, rows) if len(classes) == 2 else softmax_loss(places, rows)
    shape, penalty = (1 if len(classes) == 2 else len(classes), features.shape[1]), 1 / (c * total)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = flat[: -shape[0]].reshape(shape), flat[-shape[0] :]
        value, slopes = loss(features @ weights.T + biases)
        gradient = slopes.T @ features + penalty * weights
        value += 0.5 * penalty * float(np.vdot(weights, weights))
        return value, np.concatenate([gradient.ravel(), slopes.sum(axis=0)])

    options = {"maxiter": max_iter, "maxls": LINE_STEPS, "gtol": TOLERANCE, "ftol": FLATNESS}
    start = np.zeros(shape[0] * (shape[1] + 1))
    found = minimize(objective, start, method="L-BFGS-B", jac=True, options=options).x
    return found[: -shape[0]].reshape(shape), found[-shape[0] :]


def softmax_loss(places: np.ndarray, rows: np.ndarray) -> Loss:
    """The cross-entropy of several classes.

    Args:
        places: (N,) the class of each row.
        rows: (N,) weights, whose sum is 1 for a mean.
    """
    at = np.arange(len(places)), places

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[at]
        shares = np.exp(logits, out=logits)
        sums = shares.sum(axis=1)
        shares *= (rows / sums)[:, None]
        shares[at] -= rows
        return float(rows @ (np.log(sums) - own)), shares

    return loss


def _two_classes(places: np.ndarray, rows: np.ndarray) -> Loss:
    from scipy.special import expit

    truth = places[:, None].astype(float)

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        value = float(rows @ (np.logaddexp(0, logits) - truth * logits)[:, 0])
        return value, rows[:, None] * (expit(logits) - truth)

    return loss


def _by_scikit_learn(features, target, c: float, max_iter: int, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # At the search's largest C separable shots have no finite optimum; the last iterate is scored, as published.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # one shot is meant
        weights = "balanced" if balanced else None
        model = LogisticRegression(C=c, solver="lbfgs", max_iter=max_iter, class_weight=weights).fit(features, target)
    return model.coef_, model.intercept_
