"""A search for some cameras or times alone, results grouped by likeness, faces made unrecognisable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vladapt.core.contracts.items import Identity, Item, Label, Target
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex
from vladapt.core.retrieval.clusters import clustered
from vladapt.core.retrieval.columns import wanted_rows
from vladapt.core.retrieval.entries import Entries, EntryWriter
from vladapt.core.retrieval.index import Hit
from vladapt.core.retrieval.page import Asked, pixelated, write_page
from vladapt.core.retrieval.wanted import MOST_VALUES, Facts, Wanted, point_in_time

from .conftest import unit_rows


def about(place: int) -> dict[str, str]:
    """Three cameras in turn, a minute between pictures; every fifth knows nothing of its time."""
    time = {} if place % 5 == 4 else {"time": f"2024-03-04T{place // 60:02d}:{place % 60:02d}:00"}
    return {"camera": f"c{place % 3}", **time}


@pytest.fixture(params=["flat", "hnsw", "ivf", "ivf-pq"])
def people(request, tmp_path):
    rows = unit_rows(300, dims=16)
    with IndexBuilder(tmp_path / "people.index", dims=16, kind=request.param) as builder:
        builder.add(rows, [Entry(f"{i}.png", f"/d/{i}.png", about=about(i)) for i in range(300)])
        builder.finish({"holds": "images", "backbone": {"spec": "toy", "fingerprint": "abc"}})
    return rows, RetrievalIndex.open(tmp_path / "people.index")


def test_results_are_the_best_of_those_wanted(people):
    rows, index = people
    query = torch.from_numpy(unit_rows(1, dims=16, seed=5)[0])
    order = np.argsort(-(rows @ query.numpy()))
    since = "2024-03-04T02:00"
    cases = (
        (Wanted({"camera": "c1"}), lambda i: i % 3 == 1),
        (Wanted(since=since), lambda i: i >= 120 and i % 5 != 4),
        (Wanted({"camera": "c2"}, since), lambda i: i % 3 == 2 and i >= 120 and i % 5 != 4),
    )
    for wanted, holds in cases:
        hits = index.search(query, 7, wanted)
        assert all(holds(int(hit.entry.id[:-4])) for hit in hits)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        if index.info["kind"] == "flat":  # the others look at some rows only
            assert [hit.entry.id for hit in hits] == [f"{i}.png" for i in order if holds(i)][:7]
        tolerated = 1e-3 if index.info["kind"] == "ivf-pq" else 1e-6
        assert np.allclose(index.vectors(hits), rows[[hit.place for hit in hits]], atol=tolerated)


def test_what_no_image_has_is_one_line(people):
    _, index = people
    query = torch.from_numpy(unit_rows(1, dims=16, seed=5)[0])
    for wanted, error, said in (
        (Wanted({"camera": "c7"}), ConfigError, r"--camera c7: no image has it; did you mean c2, c1 or c0"),
        (
            Wanted({"owner": "me"}),
            DataError,
            r"does not hold the owner .* holds their camera, time; omit --where owner",
        ),
        (Wanted(since="noon"), ConfigError, r"--since noon: neither a date and time .* nor a number"),
        (Wanted(since="12"), ConfigError, r"--since: the times of this index are dates"),
    ):
        with pytest.raises(error, match=said):
            index.search(query, 3, wanted)


def test_times_are_dates_of_any_zone_or_numbers():
    assert point_in_time("2024-03-04T07:30:00Z", "") == point_in_time("2024-03-04T08:30:00+01:00", "")
    assert point_in_time("2024-03-04", "") < point_in_time("2024-03-04 00:01", "") and point_in_time("451", "") == 451
    entries = [Entry("a", about={"time": time}) for time in ("100", "99", "in the morning")] + [Entry("a")]
    assert wanted_rows(Path("none"), entries, Wanted(since="100")).tolist() == [True, False, False, False]


def test_an_index_lists_few_values_and_counts_none_of_many(people):
    _, index = people
    assert index.info["about"] == {"camera": ["c0", "c1", "c2"], "time": None}
    facts = Facts()
    for place in range(MOST_VALUES + 5):
        facts.add(Entry("a", about={"identity": str(place)}))
    assert facts.summary() == {"identity": None}


def test_entries_keep_what_targets_know_and_old_ones_know_nothing(tmp_path):
    class Seen(Target):
        def about(self):
            return {"camera": "c1"}

    assert Entry.of(Item("a", tmp_path, target=Seen())).about == {"camera": "c1"}
    assert Entry.of(Item("a", tmp_path, target=Identity("p1"))).about == {"identity": "p1"}
    assert Entry.of(Item("a", tmp_path, target=Label(0))).about == {} == Entry.of(Item("a", tmp_path)).about
    writer = EntryWriter(tmp_path)
    writer.add([Entry("0.png", "/d/0.png")])
    writer.close()
    lines = tmp_path / "entries.jsonl"
    old = {key: value for key, value in json.loads(lines.read_text()).items() if key != "about"}
    lines.write_text(json.dumps(old) + "\n")
    assert Entries(tmp_path, 1)[0] == Entry("0.png", "/d/0.png")


def test_alike_results_are_one_group_ordered_by_its_best():
    axes = np.eye(8, dtype=np.float32)
    vectors = np.stack([axes[0], axes[1], axes[0] + 0.1 * axes[2], axes[3], axes[1] + 0.1 * axes[4]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = [Hit(rank, 1 - rank / 10, Entry(str(rank)), rank - 1) for rank in range(1, 6)]
    grouped = clustered(hits, vectors, 0.9)
    assert [(hit.cluster, hit.rank) for hit in grouped] == [(1, 1), (1, 3), (2, 2), (2, 5), (3, 4)]
    assert [hit.cluster for hit in clustered(hits, vectors, 0.999)] == [1, 2, 3, 4, 5]
    assert clustered(hits[:1], vectors[:1], 0.9)[0].cluster == 1 and clustered([], vectors[:0], 0.9) == []
    with pytest.raises(ConfigError, match=r"--cluster 1: give a cosine"):
        clustered(hits, vectors, 1.0)


@pytest.mark.parametrize("size", [(128, 64), (33, 17), (5, 3), (1, 1)])
def test_the_top_quarter_becomes_a_few_squares_and_the_rest_stays(size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    made, rows = pixelated(image), -(-size[0] // 4)
    assert (made[rows:] == image[rows:]).all() and made.shape == image.shape
    assert size[1] <= 6 or (image[:rows] != made[:rows]).any()
    for row in made[:rows]:
        assert len(np.unique(row, axis=0)) <= 6
    grey = pixelated(np.full((*size, 3), 0.5, np.float32))
    assert grey.dtype == np.float32 and np.allclose(grey, 0.5)


def test_the_page_has_groups_facts_and_no_face(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 32, 3), dtype=np.uint8)
    hits = [Hit(n, 0.5, Entry(f"{n}.png", f"/d/{n}.png", about={"camera": f"c{n}"}), n, 1 + n // 2) for n in (1, 2)]
    info = {"entries": 9, "holds": "images", "backbone": {"spec": "toy"}}
    pages = []
    for blur in (False, True):
        asked = Asked("red", "q.png", picture, 0.5, {"camera": "c1"})
        write_page(tmp_path / "p.html", asked, hits, info, lambda item: picture, blur=blur)
        pages.append((tmp_path / "p.html").read_text())
    assert pages[0] != pages[1] and all(page.count("data:image/jpeg") == 3 for page in pages)
    plain, hidden = (set(re.findall(r'src="(data:[^"]+)"', page)) for page in pages)
    assert not plain & hidden  # the picture asked for is hidden too
    assert "camera c1" in pages[0] and pages[0].count("<h2>Group") == 2 and "2 of 9 images" in pages[0]
