"""Queries searched for by tasks, block by block and group by group, find what one process finds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vladapt.core.engine.options import EngineOptions
from vladapt.core.engine.search import search_queries
from vladapt.core.errors import ConfigError
from vladapt.core.retrieval import RetrievalIndex, side_by_side
from vladapt.core.retrieval.changes import IndexChange
from vladapt.core.retrieval.kinds import KINDS
from vladapt.core.retrieval.side_by_side import SearchStage, merged
from vladapt.core.retrieval.wanted import Wanted
from vladapt.core.shards import Job, ShardPlace, build_executor, drive

from .conftest import entries_of, unit_rows


@pytest.fixture
def segments(make_index):
    """`segments(kind, count)`: an index of so many segments of 100 rows, of which some are deleted."""

    def make(kind, count):
        path = make_index(unit_rows(100), kind)
        for number in range(1, count):
            with IndexChange(path) as change:
                change.add(unit_rows(100, seed=number), entries_of(range(100 * number, 100 * number + 100)))
                change.append([], [])
        with IndexChange(path) as change:
            change.delete(["3.png", f"{100 * count - 1}.png"])
        return RetrievalIndex.open(path)

    return make


@pytest.fixture
def together(tmp_path):
    """`together(opened, queries, top, wanted, refine)`: scores and numbers that tasks find."""

    def search(opened, queries, top, wanted, refine, folder="work"):
        place = ShardPlace(str(tmp_path / folder))
        place.check()
        np.save(tmp_path / folder / "queries.npy", queries)
        stage = SearchStage.of(opened, tmp_path / folder / "queries.npy", top, wanted, refine)
        manifest = stage.listed(place, len(queries), len(opened.segments))
        job = Job.of(stage, manifest, place, shard_size=1, batch_size=1)
        assert drive(job, build_executor("serial")).shards == manifest.rows
        blocks = list(merged(stage, opened, queries, job.work.place))
        return tuple(np.concatenate(each) for each in zip(*blocks))

    return search


@pytest.mark.parametrize("wanted", [Wanted(), Wanted({"camera": "c1"})], ids=["all", "some"])
@pytest.mark.parametrize("kind", KINDS)
def test_tasks_find_what_one_process_finds(segments, together, monkeypatch, kind, wanted):
    monkeypatch.setattr(side_by_side, "BLOCK", 8)
    monkeypatch.setattr(side_by_side, "AT_ONCE", 3)
    monkeypatch.setattr(side_by_side, "MOST_GROUPS", 2)
    opened, queries = segments(kind, 3), unit_rows(19, seed=9)
    for refine in (True, False):
        scores, places = opened.nearest(torch.from_numpy(queries), 7, wanted, refine)
        found, numbers = together(opened, queries, 7, wanted, refine, f"work{refine}")
        np.testing.assert_array_equal(numbers, places)
        np.testing.assert_allclose(found, scores, atol=1e-6)


def test_an_index_that_changes_meanwhile_is_told(segments, together, tmp_path, monkeypatch):
    opened = segments("flat", 2)
    with IndexChange(opened.path) as change:
        change.delete(["7.png"])
    with pytest.raises(ConfigError, match="another process has changed this index meanwhile"):
        together(opened, unit_rows(4), 3, Wanted(), True)


def test_queries_of_a_file_are_answered_alike_by_tasks(small_clip_spec, tmp_path, monkeypatch):
    from vladapt.core.engine.index import index
    from vladapt.core.recipes.resolve import resolve

    words = [f"a {colour} {thing}" for colour in ("red", "green") for thing in ("bus", "tree", "sea")]
    (tmp_path / "lines.txt").write_text("\n".join(words))
    recipe = resolve(flags={"backbone": small_clip_spec, "device": "cpu"})
    index(recipe, tmp_path / "an.index", texts=str(tmp_path / "lines.txt"))
    index(recipe, tmp_path / "an.index", texts=str(tmp_path / "lines.txt"), add=True)
    asked = []
    monkeypatch.setattr(EngineOptions, "executor", lambda self, *how: asked.append(self) or build_executor("serial"))
    lines = tmp_path / "lines.txt"
    for name, how in (("one.jsonl", {}), ("two.jsonl", {"processes": 2})):
        done = search_queries(tmp_path / "an.index", lines, tmp_path / name, top=4, device="cpu", **how)
        assert (done.queries, done.hits) == (6, 24)
    one, two = ([json.loads(line) for line in (tmp_path / n).open()] for n in ("one.jsonl", "two.jsonl"))
    assert [each["hits"][0]["captions"] for each in one] == [[word] for word in words]
    assert one == two and len(asked) == 1
    assert not list(Path(tmp_path).glob(".*.work"))
