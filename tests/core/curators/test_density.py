"""Density-based pruning: how many pairs of each cluster are kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.deduplication import density_pruning

from vladapt import ConfigError
from vladapt.core.curators.density import centroid_distances, cluster_shares, counts_to_keep
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()


def kept(**options):
    return build_curator("density", **options).decide_all(PAIRS).keep


def test_it_agrees_with_the_reference(agrees):
    agrees(density_pruning)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 99))
def test_no_pair_moved_from_one_cluster_to_another_is_nearer(sizes, fraction, balance, seed):
    sizes = np.array(sizes)
    share = np.random.default_rng(seed).dirichlet(np.ones(len(sizes)))
    total = max(1, int(sizes.sum() * fraction))
    counts = counts_to_keep(share, sizes, total, balance)
    assert counts.sum() == total and (counts >= 0).all() and (counts <= sizes).all()
    least = np.minimum(int(total / len(sizes) * balance), sizes - 1) if balance else np.minimum(1, sizes)
    if least.sum() > total:
        least = np.zeros_like(sizes)
    assert (counts >= least).all()
    gain = counts - share * total  # half the derivative of the squares
    gives, takes = counts > least, counts < sizes
    if gives.any() and takes.any():
        assert gain[gives].max() - gain[takes].min() <= 1 + 1e-6, "moving one pair would lower the sum of squares"


def test_complexity_is_the_product_of_both_distances():
    curator = build_curator("density", clusters=6, neighbours=2, temperature=0.2)
    survey = curator.survey(PAIRS)
    centroids = survey.whole["centroids"]
    cosines = PAIRS.unit("image_features") @ centroids.T
    nearest = cosines.argmax(axis=1)
    intra = np.array([1 - cosines[nearest == k, k].mean() for k in range(6)])
    products = centroids @ centroids.T
    inter = np.array([1 - np.sort(np.delete(products[k], k))[-2:].mean() for k in range(6)])
    np.testing.assert_allclose(survey.whole["d_intra"], intra, atol=1e-6)
    np.testing.assert_allclose(survey.whole["d_inter"], inter, atol=1e-6)
    share = np.exp(intra * inter / 0.2) / np.exp(intra * inter / 0.2).sum()
    assert np.array_equal(survey.whole["kept"], counts_to_keep(share, survey.whole["size"], 60))
    keep = curator.decide(PAIRS, survey).keep
    for k in range(6):
        own, distance = keep[nearest == k], 1 - cosines[nearest == k, k]
        assert own.sum() == survey.whole["kept"][k]
        assert own.all() or distance[own].min() >= distance[~own].max(), "the farthest stay"


def test_one_cluster_and_what_is_not_known_divide_nothing():
    assert np.isnan(centroid_distances(np.ones((1, 3)))).all()
    np.testing.assert_allclose(cluster_shares(np.array([np.nan, 1.0, 3.0])), cluster_shares(np.array([2.0, 1.0, 3.0])))
    assert cluster_shares(np.array([np.nan])).tolist() == [1.0]
    assert counts_to_keep(np.full(4, 0.25), np.array([9, 0, 9, 1]), 2, 0.0).sum() == 2
    assert kept(clusters=1, fraction=0.25).sum() == 30


def test_every_option_changes_what_is_kept():
    base = {"fraction": 0.4, "clusters": 8, "balance": 0.0, "temperature": 0.05}
    changes = (
        {"fraction": 0.5},
        {"balance": 1.0},
        {"temperature": 5.0},
        {"neighbours": 1},
        {"clusters": 4},
        {"seed": 1},
    )
    for changed in (*changes, {"features": "caption_features"}):
        assert not np.array_equal(kept(**base), kept(**{**base, **changed})), changed
    with pytest.raises(ConfigError, match="temperature=0"):
        build_curator("density", temperature=0)
