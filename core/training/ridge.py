"""The penalty of a ridge regression, chosen by errors on rows held out, whole groups at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Part = tuple[np.ndarray, np.ndarray]
"""Positions of the rows to learn from, and of those to look at."""


def penalty_of_groups(
    inputs: np.ndarray, targets: np.ndarray, parts: Sequence[Part], penalties: Sequence[float]
) -> float:
    """The penalty with the least mean squared error on rows held out, the mean over the parts, as scikit-learn's
    RidgeCV chooses it. One decomposition of a part serves all penalties: of its columns, or of its rows where these
    are fewer.

    Args:
        inputs: (N, D) float64.
        targets: (N,) float64.
        parts: at least one.
        penalties: that are compared, above 0; the first one of equal errors is taken.
    """
    errors = np.zeros(len(penalties))
    for learned, held in parts:
        rows, truth = inputs[learned], targets[learned]
        centre, mean = rows.mean(axis=0), truth.mean()
        rows, looked_at = rows - centre, inputs[held] - centre
        wide = rows.shape[0] < rows.shape[1]
        values, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
        values = values.clip(min=0)[:, None] + np.asarray(penalties)  # (E, penalties)
        if wide:
            weights = vectors @ ((vectors.T @ (truth - mean))[:, None] / values)  # (N, penalties)
            answers = looked_at @ rows.T @ weights
        else:
            answers = looked_at @ vectors @ ((vectors.T @ (rows.T @ (truth - mean)))[:, None] / values)
        errors += np.square(answers + mean - targets[held, None]).mean(axis=0)
    return penalties[int(errors.argmin())]
