from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.registry import build_adapter
from vladapt.core.runtime.process import FEW, threads_for


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def blas_threads() -> set[int]:
    from threadpoolctl import threadpool_info

    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_small_products_have_one_thread_and_others_as_many_as_before():
    of_blas = blas_threads()
    with threads_for(FEW):
        assert torch.get_num_threads() == 1
        assert blas_threads() <= {1}
    assert torch.get_num_threads() == 2 and blas_threads() == of_blas
    for many in (FEW + 1, math.inf):
        with threads_for(many):
            assert torch.get_num_threads() == 2 and blas_threads() == of_blas


def test_libraries_are_looked_for_again_where_more_modules_are_imported(monkeypatch):
    import threadpoolctl

    asked, made = [], threadpoolctl.ThreadpoolController
    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", lambda: asked.append(1) or made())
    monkeypatch.setitem(sys.modules, "one more", None)
    for _ in range(3):
        with threads_for(1):
            assert torch.get_num_threads() == 1
    assert len(asked) == 1
    monkeypatch.setitem(sys.modules, "another", None)
    with threads_for(1):
        assert len(asked) == 2


def test_threads_are_given_back_after_an_error():
    with pytest.raises(ZeroDivisionError), threads_for(1):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("classes", "width", "expected"), [(4, 8, 1), (512, 1024, 2)])
def test_a_fit_counts_images_features_and_classes(monkeypatch, classes, width, expected):
    adapter, seen = build_adapter("zero-shot"), []
    fit = adapter._fit
    monkeypatch.setattr(
        adapter, "_fit", lambda *given, **how: seen.append(torch.get_num_threads()) or fit(*given, **how)
    )
    rows, labels = torch.ones(2 * classes, width), torch.arange(classes).repeat(2)
    names = tuple(map(str, range(classes)))
    text = TextClassifier(F.normalize(torch.ones(classes, width), dim=1), class_names=names)
    adapter.fit(FeatureSet(rows, labels, names), text)
    assert seen == [expected]
