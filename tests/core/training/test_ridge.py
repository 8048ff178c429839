"""The penalty of ridge on rows held out: that of scikit-learn, with more rows than columns and with fewer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from vladapt.core.training import penalty_of_groups

PENALTIES = tuple(10.0**power for power in range(-2, 5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 40), st.integers(1, 40), st.integers(2, 4), st.floats(0.1, 10))
def test_it_is_that_of_ridge_cv_whatever_the_shape(seed, count, width, folds, noise):
    random = np.random.default_rng(seed)
    inputs = random.normal(2, 1, (count, width))
    targets = 5 + inputs @ random.normal(size=width) + noise * random.normal(size=count)
    parts = list(GroupKFold(folds).split(inputs, groups=np.arange(count) % (2 * folds)))
    how = {"cv": parts, "scoring": "neg_mean_squared_error"}
    chosen = penalty_of_groups(inputs, targets, parts, PENALTIES)
    alone = [-RidgeCV([penalty], **how).fit(inputs, targets).best_score_ for penalty in PENALTIES]
    assert alone[PENALTIES.index(chosen)] == pytest.approx(min(alone), rel=1e-9)


def test_columns_that_are_alike_take_no_penalty_from_the_others():
    random = np.random.default_rng(0)
    column = random.normal(size=(30, 1))
    inputs, targets = np.repeat(column, 40, axis=1), column[:, 0]
    parts = list(GroupKFold(3).split(inputs, groups=np.arange(30) % 6))
    assert penalty_of_groups(inputs, targets, parts, PENALTIES) == PENALTIES[0]
