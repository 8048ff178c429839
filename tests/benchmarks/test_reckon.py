"""benchmarks/reckon.py: what a set will cost, by formulas that the page shows too."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
SECTION = "What a set will cost"


@pytest.fixture(scope="module")
def reckon():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import reckon

        yield reckon


def test_numbers_follow_from_the_users_own(reckon):
    def numbers(**given):
        return {what: number for what, _, number in reckon.reckoned(reckon.Set(**given))}

    small = numbers(images=25_000, rate=100, gpus=2, image_bytes=40_000, shard_size=10_000, width=64)
    assert (small["shards"], small["files of `embed`"]) == ("3", "6")
    assert (small["bytes read"], small["bytes written"]) == ("1 GB", "4.2 MB")
    assert (small["GPU hours"], small["minutes per shard"]) == ("0", "1.7")
    assert small["`ivf-pq`: searched"] == "400 kB" and small["`ivf-pq`: segments"] == "1"
    assert small["shuffle: files"] == "25"  # of 4,096 buckets 25 are left, with a thousand rows each
    assert numbers(images=25_000, rate=100, side=200)["bytes read"] == "250 MB"
    twice = numbers(images=25_000, rate=50, gpus=2, key_bytes=128)
    assert twice["minutes per shard"] == "3.3" and twice["shuffle: bytes moved"] == "6.4 MB"
    large = numbers(images=10**10, rate=1500, gpus=64, buckets=64)
    assert large["shuffle: files"].count("then") == 0 and numbers(images=10**10, rate=1)["shuffle: files"].count("then")


@settings(max_examples=150, deadline=None)
@given(rows=st.integers(1, 10**11), shards=st.integers(1, 10**7), buckets=st.integers(1, 10**5))
@example(rows=10**10, shards=10**6, buckets=4096)
@example(rows=2000, shards=10**7, buckets=2)
def test_a_shuffle_writes_few_files_of_many_rows_in_two_levels_only_where_one_reads_too_much(
    reckon, rows, shards, buckets
):
    plan, most = reckon.shuffled(rows, shards, buckets), max(1, min(10**6, rows // 1000))
    assert len(plan.files) == len(plan.tasks) == (1 if plan.groups == 1 else 2) and max(plan.files) <= most
    assert rows / max(plan.files) >= min(rows, 1000)
    assert plan.buckets == min(buckets, most) and plan.groups <= plan.buckets
    assert plan.tasks[0] * plan.together >= shards > (plan.tasks[0] - 1) * plan.together
    alone = -(-shards // (most // plan.buckets))  # shards that a task of a single level would read
    assert (plan.groups > 1) == (alone > 64 and plan.buckets > 1)


def test_the_page_shows_what_is_printed(reckon, monkeypatch, capsys):
    listed = json.loads((ROOT / "tests" / "docs" / "figures.json").read_text(encoding="utf-8"))
    command = next(each["command"] for each in listed if each["section"] == SECTION)
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
    reckon.main()
    printed = capsys.readouterr().out
    page = (ROOT / "docs" / "measurements" / "scale.md").read_text(encoding="utf-8")
    assert len(printed.splitlines()) > 15 and printed in page


def test_what_cannot_be_is_refused(reckon, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reckon.py", "--images", "1e6", "--rate", "0"])
    with pytest.raises(SystemExit):
        reckon.main()
    assert "--rate: give a number above 0" in capsys.readouterr().err
