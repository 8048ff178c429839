"""SemDeDup: of what is alike within a cluster, the first in the order stays."""

import numpy as np
import pytest
from parity_checks.deduplication import semdedup
from semantic_dedup import literal

from vladapt import ConfigError, DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import sem_dedup as s
from vladapt.core.curators._kmeans import cluster, number_of_clusters
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()


def kept(**options):
    return build_curator("sem-dedup", **options).decide_all(PAIRS).keep


def rows_at(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def on_a_circle(*degrees):
    return PairTable.of([f"{n:03d}" for n in range(len(degrees))], image_features=rows_at(*degrees))


def test_it_agrees_with_the_reference(agrees):
    agrees(semdedup)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_decide_as_the_literal_loop_does(seed, monkeypatch):
    monkeypatch.setattr(s, "QUERIES_AT_ONCE", 100)
    monkeypatch.setattr(s, "KEYS_AT_ONCE", 70)
    random = np.random.default_rng(seed)
    features = random.normal(size=(700, 24)).astype(np.float32)
    features[350:] = features[:350] + 0.4 * random.normal(size=(350, 24)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    lists = np.split(random.permutation(700), [1, 130, 131, 390])
    ours, theirs = s.max_similarities(features.__getitem__, lists, 700), literal(features, lists)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.array_equal(ours > 0.93, theirs > 0.93)
    assert 0 < (ours > 0.93).sum() < 350


def test_of_a_chain_only_the_first_stays_and_greedily_every_second():
    chain = on_a_circle(0, 18, 36, 54, 72)
    options = {"clusters": 1, "eps": 1 - np.cos(np.radians(20)), "which": "easy"}
    rows = rows_at(0, 18, 36, 54, 72)
    lists, limit = [np.arange(5)], 1 - options["eps"]
    similar = s.max_similarities(rows.__getitem__, lists, 5) > limit
    assert similar.tolist() == [False, True, True, True, True]
    assert s.greedily_dropped(rows.__getitem__, lists, similar, limit).tolist() == [False, True, False, True, False]
    released = build_curator("sem-dedup", **options).decide_all(chain).keep
    greedy = build_curator("sem-dedup", chains="greedy", **options).decide_all(chain).keep
    assert released.sum() == 1 and released[2], "the nearest to the centroid, and none that it leads to"
    assert greedy.tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_what_visiting_one_after_the_other_gives_in_lists_that_overlap_too(seed, monkeypatch):
    monkeypatch.setattr(s, "QUERIES_AT_ONCE", 5)
    monkeypatch.setattr(s, "KEYS_AT_ONCE", 3)
    random = np.random.default_rng(seed)
    features = random.normal(size=(60, 3)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    order = random.permutation(60)
    rank = np.argsort(order)
    clusters = np.stack([random.permutation(4)[: 1 + seed % 2] for _ in range(60)])
    lists = s.members_in_order(clusters, order)
    assert all((np.diff(rank[members]) > 0).all() for members in lists)
    similar = s.max_similarities(features.__getitem__, lists, 60) > 0.9
    ours = s.greedily_dropped(features.__getitem__, lists, similar, 0.9)
    assert (similar & ~ours).any()
    wanted = np.zeros(60, bool)
    for j in order:
        others = {i for members in lists if j in members for i in members if rank[i] < rank[j] and not wanted[i]}
        wanted[j] = any(features[i] @ features[j] > 0.9 for i in others)
    assert np.array_equal(ours, wanted)


def test_copies_beyond_a_border_are_told_and_with_borders_dropped():
    features = rows_at(*range(0, 88, 4))
    centroids = rows_at(20, 65)
    pairs = on_a_circle(*range(0, 88, 4))
    clusters = s.Clusters(
        centroids,
        np.argsort(-(features @ centroids.T), axis=1).astype(np.int32),
        (features @ centroids.T).max(axis=1),
    )
    limit = np.cos(np.radians(5))
    note = s.missed_by_clusters(pairs, "image_features", clusters, limit)
    assert "42 near pairs; clusters alone miss 4.8% of these, with borders 0.0%" in note, note
    order = s.visiting_order(clusters.similarity, "hard")
    alone = s.max_similarities(features.__getitem__, s.members_in_order(clusters.nearest[:, :1], order), 22) > limit
    across = s.max_similarities(features.__getitem__, s.members_in_order(clusters.nearest, order), 22) > limit
    assert not alone[[10, 11]].any() and across[[10, 11]].sum() == 1 and not (alone & ~across).any()


def test_what_stays_is_the_farthest_the_nearest_or_a_random_one():
    pairs = on_a_circle(0, 3, 7, 40)
    for which, stays in (("hard", 3), ("easy", 2)):
        keep = build_curator("sem-dedup", which=which, clusters=1, eps=0.4).decide_all(pairs).keep
        assert np.flatnonzero(keep).tolist() == [stays]
    chosen = {
        int(np.flatnonzero(build_curator("sem-dedup", **options).decide_all(pairs).keep)[0])
        for options in ({"which": "random", "clusters": 1, "eps": 0.4, "seed": seed} for seed in range(30))
    }
    assert chosen == {0, 1, 2, 3}


@pytest.mark.parametrize("which", ["hard", "easy"])
def test_of_equal_pairs_the_smallest_id_stays(which):
    random = np.random.default_rng(0)
    rows = random.normal(size=(30, 48))[random.permutation(np.arange(300) % 30)]
    pairs = PairTable.of([f"{n:03d}" for n in range(300)], image_features=rows)
    keep = build_curator("sem-dedup", which=which).decide_all(pairs).keep
    assert np.flatnonzero(keep).tolist() == np.sort(np.unique(rows[:, 0], return_index=True)[1]).tolist()


def test_a_share_of_pairs_is_kept_by_the_quantile_of_their_similarity():
    for fraction in (0.25, 0.5, 0.9):
        curator = build_curator("sem-dedup", fraction=fraction)
        survey = curator.survey(PAIRS)
        keep = curator.decide(PAIRS, survey).keep
        assert keep.sum() == int(120 * fraction)
        assert survey.rows["max_similarity"][keep].max() == survey.whole["threshold"][0]
    assert kept(fraction=0.5, chains="greedy").sum() > 60


def test_every_option_changes_what_is_kept():
    base = {"eps": 0.2, "clusters": 8}
    first = kept(**base)
    for changed in (
        {"eps": 0.02},
        {"fraction": 0.3, "eps": 0.07},
        {"which": "easy"},
        {"chains": "greedy"},
        {"borders": True},
        {"clusters": 3},
        {"features": "caption_features"},
    ):
        assert not np.array_equal(first, kept(**{**base, **changed})), changed
    assert not np.array_equal(kept(which="random", **base), kept(which="random", seed=1, **base))


def test_clusters_are_those_of_the_largest_cosine_and_depend_on_the_seed():
    clusters = cluster(PAIRS, "image_features", 8)
    cosines = PAIRS.unit("image_features") @ clusters.centroids.T
    np.testing.assert_allclose(np.linalg.norm(clusters.centroids, axis=1), 1, atol=1e-5)
    assert np.array_equal(clusters.nearest, np.argsort(-cosines, axis=1)[:, :2])
    np.testing.assert_allclose(clusters.similarity, cosines.max(axis=1), atol=1e-6)
    assert clusters.sizes.sum() == len(PAIRS) and (clusters.sizes > 0).all()
    assert clusters.similarity.mean() > 0.8, "topics are found"
    assert not np.allclose(clusters.centroids, cluster(PAIRS, "image_features", 8, seed=1).centroids)
    assert [number_of_clusters(count) for count in (1, 5, 10_000, 1_000_000)] == [1, 1, 50, 500]
    assert number_of_clusters(5, 9) == 5


def test_bad_input_is_one_line():
    with pytest.raises(DataError, match=r"no column 'image_features'; give --features"):
        build_curator("sem-dedup").decide_all(PairTable.of(["a", "b"], text=["x", "y"]))
    broken = PairTable.of(["a", "b"], image_features=np.array([[1.0, np.nan], [1.0, 0.0]]))
    with pytest.raises(DataError, match="image_features: 1 rows are not finite; embed these pairs again"):
        build_curator("sem-dedup").decide_all(broken)
    with pytest.raises(ConfigError, match="eps=0"):
        build_curator("sem-dedup", eps=0)
