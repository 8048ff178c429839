"""Batches and streams of test images: rows are those of StatA's released code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.data.test_batches import (
    TASKS,
    FewClasses,
    TestStream,
    correlated_stream,
    few_class_batch,
    full_batches,
    separate_stream,
)

LABELS = np.repeat(np.arange(6), (5, 40, 30, 20, 60, 9))


def test_batches_are_the_reference_s(references, parity):
    labels = parity.test_set.labels.numpy()
    for reference in references("stata"):
        how = reference.setting("batch")
        random = np.random.RandomState(how["seed"])
        for number in range(2):
            rows = few_class_batch(labels, *how["num_class_eff"], how["batch_size"], random)
            assert rows.tolist() == reference[f"batch{number}_index"].tolist()


def test_streams_are_the_reference_s(references, parity):
    """The shares are those that were drawn; the shuffles are of numpy's old generator, seeds 6 and 7."""
    labels = parity.test_set.labels.numpy()
    for reference in references("stata"):
        shares = reference["online_dirichlet"].double().numpy()
        rows = correlated_stream(labels, shares, np.random.RandomState(6))
        assert rows.tolist() == reference["online_stream"].tolist()
        size = reference.setting("online")["batch_size"]
        batches = np.stack(full_batches(rows, size))
        assert batches.tolist() == reference["online_batches"].tolist()
        separate = separate_stream(labels, np.random.RandomState(7))
        assert separate.tolist() == reference["separate_stream"].tolist()


@given(st.integers(0, 50), st.integers(1, 4), st.integers(0, 4), st.integers(1, 200))
def test_a_batch_has_no_more_classes_and_rows_than_are_wanted(seed, low, more, size):
    rows = few_class_batch(LABELS, low, low + more, size, np.random.RandomState(seed))
    drawn = np.unique(LABELS[rows])
    assert len(set(rows.tolist())) == len(rows) <= size
    assert len(drawn) <= min(low + more, 6)
    if len(rows) < size:  # then all that these classes have
        assert len(rows) == np.isin(LABELS, drawn).sum()


def test_all_classes_where_there_are_no_more():
    rows = few_class_batch(LABELS, 6, 9, 1000, np.random.RandomState(0))
    assert sorted(rows.tolist()) == list(range(len(LABELS)))


def test_the_number_of_classes_is_uniform_and_its_ends_are_drawn():
    kind = FewClasses("", "", 1, 2, 4, 1000)
    counts = [len(np.unique(LABELS[rows])) for (rows,) in kind.drawn(LABELS, 600, 3)]
    assert set(counts) == {2, 3, 4}
    assert all(count == pytest.approx(200, abs=45) for count in np.bincount(counts)[2:])


def _classes_per_batch(gamma: float | None) -> float:
    labels = np.arange(1200) % 12
    streams = list(TestStream("", "", 1, gamma, 32).drawn(labels, 5, 1))
    return float(np.mean([len(np.unique(labels[batch])) for stream in streams for batch in stream]))


def test_the_smaller_gamma_the_fewer_classes_in_a_batch():
    counts = [_classes_per_batch(gamma) for gamma in (100.0, 0.1, 0.01, None)]
    assert counts == sorted(counts, reverse=True) and counts[0] > 10 and counts[-1] < 2


def test_a_stream_has_each_row_once_but_for_the_last_incomplete_batch():
    for stream in TestStream("", "", 1, 0.1, 50).drawn(LABELS, 3, 0):
        rows = np.concatenate(stream)
        assert [len(batch) for batch in stream] == [50, 50, 50] and len(set(rows.tolist())) == 150
    (few,) = TestStream("", "", 1, 0.1, 500).drawn(LABELS, 1, 0)
    assert [len(batch) for batch in few] == [len(LABELS)]


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.name)
def test_a_seed_fixes_the_tasks(kind):
    labels = np.arange(3000) % 110

    def rows(seed):
        return [[batch.tolist() for batch in task] for task in kind.drawn(labels, 2, seed)]

    assert rows(1) == rows(1)
    assert kind.name == "all" or rows(1) != rows(2)


def test_sizes_and_counts_are_as_published():
    few = {(kind.low, kind.high, kind.size, kind.count) for kind in TASKS if isinstance(kind, FewClasses)}
    assert few == {(1, 4, 64, 1000), (2, 10, 64, 1000), (5, 25, 64, 1000), (5, 25, 1000, 1000),
                   (25, 50, 1000, 1000), (50, 100, 1000, 1000)}  # fmt: skip
    streams = {(kind.gamma, kind.size, kind.count) for kind in TASKS if isinstance(kind, TestStream)}
    assert streams == {(0.1, 128, 100), (0.01, 128, 100), (0.001, 128, 100), (None, 128, 100)}
