"""Scores under the rule of cameras and re-ranking, against the released code's outputs and against literal counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import re_identification
from parity_checks.re_identification import ranked_by_distance, re_ranked_distances

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.person import camera_ranking, reciprocal
from vladapt.domains.person.camera_ranking import SoughtPeople, ranked, ranked_by_features
from vladapt.domains.person.reciprocal import memory_in_words, re_ranked


@pytest.mark.parametrize("comparison", [re_identification.camera_metrics, re_identification.reranking])
def test_agrees_with_the_released_code(agrees, comparison):
    agrees(comparison)


def reranked_in(kind, query, gallery, k1, k2, weight):
    """Re-ranking written out over whole matrices, weights and Jaccard's distances kept in numbers of a kind."""
    x, near = torch.cat([query, gallery]), {}
    squared = (x.square().sum(dim=1, keepdim=True) + x.square().sum(dim=1) - 2 * x @ x.T).numpy()
    distance = (squared / squared.max(axis=0)).T
    order, weights = distance.argsort(axis=1, kind="stable"), np.zeros_like(distance, kind)
    for count in (k1, round(k1 / 2)):
        ahead = order[:, : count + 1]
        near[count] = [row[(ahead[row] == place).any(axis=1)] for place, row in enumerate(ahead)]
    for place, own in enumerate(near[k1]):
        others = (near[round(k1 / 2)][each] for each in own)
        added = [some for some in others if len(np.intersect1d(some, own)) > 2 / 3 * len(some)]
        chosen = np.unique(np.concatenate([own, *added]))
        share = np.exp(-distance[place, chosen])
        weights[place, chosen] = share / share.sum()
    if k2 > 1:
        weights = np.stack([weights[row[:k2]].mean(axis=0) for row in order])
    jaccard = np.zeros((len(query), len(x)), kind)
    for place in range(len(query)):
        shared = np.zeros(len(x), kind)
        for column in np.flatnonzero(weights[place]):
            shared += np.minimum(weights[place, column], weights[:, column])
        jaccard[place] = 1 - shared / (2 - shared)
    final = (1 - weight) * jaccard + weight * distance[: len(query)]
    return torch.from_numpy(final[:, len(query) :].astype(np.float32))


def test_bots_code_differs_by_its_float16_alone(parity):
    ref = parity.reference("reid_rerank")
    for key, k1, k2, share in ref.keys(r"final_bot_k(\d+)_(\d+)_l(\d+)"):
        settings_ = (ref["query"], ref["gallery"], int(k1), int(k2), int(share) / 100)
        ref.assert_close(reranked_in(np.float16, *settings_), key)
        torch.testing.assert_close(reranked_in(np.float32, *settings_), re_ranked(*settings_), rtol=1e-4, atol=1e-5)
        assert (reranked_in(np.float16, *settings_) - re_ranked(*settings_)).abs().max() > 1e-4


@st.composite
def searches(draw):
    """Few distances, so that ties are the rule; few people and cameras."""
    queries, gallery = draw(st.integers(1, 5)), draw(st.integers(1, 9))

    def ints(count, most):
        return torch.tensor(draw(st.lists(st.integers(0, most), min_size=count, max_size=count)))

    distance = ints(queries * gallery, 3).view(queries, gallery).float()
    return distance, ints(queries, 2), ints(gallery, 2), ints(queries, 1), ints(gallery, 1)


def counted(distance, query_id, gallery_ids, query_camera, gallery_cameras):
    """(first rank, last rank, hits, rectangle, trapezoid) of one query, counted one by one."""
    order = sorted(range(len(distance)), key=lambda g: (float(distance[g]), g))
    hits, rank, before, sums = [], 0, 1.0, [0.0, 0.0]
    for g in order:
        if gallery_ids[g] == query_id and gallery_cameras[g] == query_camera:
            continue
        rank += 1
        if gallery_ids[g] == query_id:
            hits.append(rank)
            sums[0] += len(hits) / rank
            sums[1] += (before + len(hits) / rank) / 2
        before = len(hits) / rank
    return (hits[0], hits[-1], len(hits), *(each / len(hits) for each in sums)) if hits else None


@settings(max_examples=60, deadline=None)
@given(searches(), st.sampled_from([1, 9, 10**6]))
def test_ranks_are_counted_one_by_one(search, at_once):
    wanted = {
        q: counted(*(part[q] if i in (0, 1, 3) else part for i, part in enumerate(search)))
        for q in range(len(search[0]))
    }
    wanted = {q: row for q, row in wanted.items() if row is not None}
    camera_ranking.NUMBERS_AT_ONCE, kept = at_once, camera_ranking.NUMBERS_AT_ONCE
    try:
        if not wanted:
            with pytest.raises(DataError, match="no query has another picture"):
                ranked_by_distance(*search)
            return
        ranking = ranked_by_distance(*search)
    finally:
        camera_ranking.NUMBERS_AT_ONCE = kept
    assert ranking.query.tolist() == list(wanted)
    columns = (ranking.best, ranking.last, ranking.relevant, ranking.average_precision, ranking.trapezoid)
    for found, row in zip(zip(*(column.tolist() for column in columns)), wanted.values()):
        assert found == pytest.approx(row)
    assert ranking.metrics()["map_trapezoid"] <= ranking.metrics()["map"] + 1e-9


def test_a_query_in_the_gallery_does_not_find_itself():
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=1)
    ids = torch.tensor([0, 0, 1])
    sought = SoughtPeople(ids, ids, own=torch.arange(3))
    assert sought.answerable.tolist() == [True, True, False]
    ranking = ranked_by_features(features, features, sought)
    assert ranking.best.tolist() == [1, 1] and ranking.relevant.tolist() == [1, 1]
    again = ranked(lambda rows: torch.cdist(features[rows], features), sought)
    assert again.best.tolist() == ranking.best.tolist()


def test_a_tower_that_tells_nobody_apart_finds_nobody():
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    alike = torch.nn.functional.normalize(torch.full((6, 3), 0.7), dim=1)
    ranking = ranked_by_features(alike, alike, SoughtPeople(ids, ids, own=torch.arange(6)))
    assert ranking.best.tolist() == [5] * 6  # of five that count, the one of the person comes last
    by_order = ranked(lambda rows: torch.zeros(len(rows), 6), SoughtPeople(ids, ids, own=torch.arange(6)))
    assert by_order.best.tolist() == [1, 1, 3, 3, 5, 5]


def test_intervals_draw_whole_identities():
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(12).repeat_interleave(5)
    features = torch.nn.functional.normalize(torch.randn(12, 8, generator=generator)[ids], dim=1)
    noisy = torch.nn.functional.normalize(features + 0.5 * torch.randn(60, 8, generator=generator), dim=1)
    ranking = ranked_by_features(noisy, noisy, SoughtPeople(ids, ids, own=torch.arange(60)))
    of_people, of_queries = ranking.intervals(ids[ranking.query]), ranking.intervals(ranking.query)
    for name, value in ranking.metrics().items():
        low, high = of_people[name]
        assert low <= value <= high
    assert of_people["map"] != of_queries["map"]
    some = ranking.of(ids[ranking.query] < 3)
    assert len(some) == 15 and torch.equal(some.best, ranking.best[:15])


@pytest.mark.parametrize("at_once", [50, 10**6])
def test_re_ranking_is_the_same_in_blocks(monkeypatch, at_once):
    monkeypatch.setattr(reciprocal, "NUMBERS_AT_ONCE", at_once)
    rows = torch.nn.functional.normalize(torch.randn(23, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    query, gallery = rows[:5], rows[5:]
    made = re_ranked(query, gallery, k1=4, k2=3, weight=0.4)
    distances = [torch.cdist(left, right) for left, right in ((query, gallery), (query, query), (gallery, gallery))]
    torch.testing.assert_close(made, re_ranked_distances(*distances, k1=4, k2=3, weight=0.4), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(made, written_out(query, gallery, 4, 3, 0.4), atol=2e-5, rtol=1e-4)


def test_a_query_in_the_gallery_counts_once_in_re_ranking():
    gallery = torch.nn.functional.normalize(torch.randn(14, 5, generator=torch.Generator().manual_seed(2)), dim=1)
    outside = torch.nn.functional.normalize(torch.randn(1, 5, generator=torch.Generator().manual_seed(3)), dim=1)
    how = {"k1": 4, "k2": 2, "weight": 0.3}
    made = re_ranked(torch.cat([gallery[3:4], outside, gallery[:1]]), gallery, **how, own=torch.tensor([3, -1, 0]))
    everyone = written_out(torch.cat([outside, gallery]), torch.zeros(0, 5), 4, 2, 0.3, columns=slice(1, None))
    torch.testing.assert_close(made, everyone[[4, 0, 1]], atol=2e-5, rtol=1e-4)


def written_out(query, gallery, k1, k2, weight, columns=None):
    """The paper's definition, with matrices of N x N."""
    features = torch.cat([query, gallery]).double()
    squared = torch.cdist(features, features).square()
    scaled = (squared / squared.max(dim=1, keepdim=True).values).numpy()
    order, count = scaled.argsort(axis=1), len(scaled)

    def mutual(i, k):
        return {j for j in order[i, : k + 1] if i in order[j, : k + 1]}

    rows = np.zeros((count, count))
    for i in range(count):
        own = mutual(i, k1)
        extra = [mutual(j, round(k1 / 2)) for j in own]
        found = sorted(own.union(*(each for each in extra if len(each & own) > 2 / 3 * len(each))))
        rows[i, found] = np.exp(-scaled[i, found]) / np.exp(-scaled[i, found]).sum()
    rows = np.stack([rows[order[i, :k2]].mean(axis=0) for i in range(count)])
    least = np.minimum(rows[:, None], rows).sum(axis=2)
    jaccard = 1 - least / (2 - least)
    columns = slice(len(query), None) if columns is None else columns
    return torch.tensor((1 - weight) * jaccard + weight * scaled)[: len(query), columns].float()


def test_re_ranking_of_too_few_pictures_is_refused():
    with pytest.raises(ConfigError, match=r"k1=20 and k2=6 needs more than 4 pictures"):
        re_ranked(torch.eye(4)[:2], torch.eye(4)[2:])
    assert torch.isfinite(re_ranked(torch.ones(2, 3), torch.ones(5, 3), k1=3, k2=2)).all()  # all alike
    assert "holds about" in memory_in_words(3368, 15913)
