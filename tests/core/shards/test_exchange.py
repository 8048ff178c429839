"""A shuffle's plan: limits hold at any size, every shard is read once, every bucket is written by one group."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vladapt.core.errors import ConfigError
from vladapt.core.shards.exchange import FEWEST_ROWS, MOST_FILES, SHARDS_TOGETHER, exchange_plan

SIZES = (st.integers(1, 10**11), st.integers(1, 10**7), st.integers(1, 10**5))


@settings(max_examples=150, deadline=None)
@given(*SIZES)
@example(10**10, 10**6, 4096)
@example(999, 5, 3)
@example(2000, 10**7, 2)
def test_files_are_few_and_hold_many_rows(rows, shards, buckets):
    plan = exchange_plan(rows, shards, buckets)
    assert plan.levels in (1, 2) and len(plan.files) == len(plan.tasks) == plan.levels
    assert max(plan.files) <= MOST_FILES
    assert min(plan.rows_per_file) >= min(rows, FEWEST_ROWS)
    assert plan.buckets == min(buckets, max(1, min(MOST_FILES, rows // FEWEST_ROWS)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**9), st.integers(1, 5000), st.integers(1, 5000))
def test_every_shard_is_read_once_and_every_bucket_is_of_one_group(rows, shards, buckets):
    plan = exchange_plan(rows, shards, buckets)
    assert [shard for task in range(plan.tasks[0]) for shard in plan.shards_of(task)] == list(range(shards))
    of_groups = [bucket for group in range(plan.groups) for bucket in plan.buckets_of(group)]
    assert of_groups == list(range(plan.buckets))
    assert all(plan.group_of(bucket) == group for group in range(plan.groups) for bucket in plan.buckets_of(group))


@settings(max_examples=60, deadline=None)
@given(*SIZES)
def test_two_levels_are_planned_only_where_one_would_read_too_much_at_once(rows, shards, buckets):
    plan = exchange_plan(rows, shards, buckets)
    most = max(1, min(MOST_FILES, rows // FEWEST_ROWS))
    tasks = max(1, most // plan.buckets)
    assert (plan.levels == 2) == (-(-shards // tasks) > SHARDS_TOGETHER and plan.buckets > 1)
    if plan.levels == 1 and plan.together > 1:  # no fewer shards per task would do
        assert -(-shards // (plan.together - 1)) * plan.buckets > most


def test_sizes_as_they_come():
    hashes = exchange_plan(10**6, 100, 256)  # 256 files of hashes
    assert (hashes.levels, hashes.together, hashes.files) == (1, 34, (768,))
    small = exchange_plan(10**8, 10**3, 64)
    assert (small.levels, small.together, small.files) == (1, 1, (64_000,))
    large = exchange_plan(10**10, 10**6, 4096)
    assert (large.levels, large.groups, large.together) == (2, 64, 64)
    assert large.files == (10**6, 4096) and large.tasks == (15_625, 64)
    assert {large.bucket_of(hashed) for hashed in range(10_000)} == set(range(4096))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_is_planned_of_nothing(sizes):
    with pytest.raises(ConfigError, match="give 1 or more"):
        exchange_plan(*sizes)
