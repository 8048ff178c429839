"""RealSyn: a window of similarities, and few pairs of each cluster."""

import numpy as np
import pytest

from vladapt import ConfigError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import _kmeans, realsyn
from vladapt.core.curators._kmeans import cluster
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()
COSINES = np.einsum("nd,nd->n", PAIRS.unit("image_features"), PAIRS.unit("caption_features"))


def test_no_cluster_keeps_more_than_it_may():
    clusters = cluster(PAIRS, "image_features", 5, 0)
    keep = build_curator("realsyn", clusters=5, most=9).decide_all(PAIRS).keep
    kept = np.bincount(clusters.nearest[keep, 0], minlength=5)
    assert kept.tolist() == np.minimum(clusters.sizes, 9).tolist()


def test_members_are_drawn_whatever_their_similarity():
    kept = sum(
        build_curator("realsyn", clusters=1, most=30, seed=s).decide_all(PAIRS).keep.astype(int) for s in range(80)
    )
    assert kept.mean() == pytest.approx(20) and kept.min() > 5 and kept.max() < 40


def test_the_window_comes_before_the_clusters():
    decision = build_curator("realsyn", low=0.3, high=0.8, clusters=2, most=10).decide_all(PAIRS)
    inside = (COSINES >= 0.3) & (COSINES <= 0.8)
    assert not decision.keep[~inside].any()
    assert decision.keep.sum() == 20, "what lies outside takes no place of a cluster"
    assert (decision.reason == 1).tolist() == (COSINES < 0.3).tolist()
    assert (decision.reason == 2).tolist() == (COSINES > 0.8).tolist()
    np.testing.assert_allclose(decision.scores["clip_score"], COSINES, rtol=1e-5)


def test_every_option_changes_the_choice():
    options = {"low": 0.2, "high": 0.9, "clusters": 4, "most": 8}
    first = build_curator("realsyn", **options).decide_all(PAIRS).keep
    for changed in ({"low": 0.5}, {"high": 0.7}, {"clusters": 9}, {"most": 20}, {"seed": 3}):
        assert not np.array_equal(first, build_curator("realsyn", **options | changed).decide_all(PAIRS).keep), changed


def test_without_a_window_captions_are_not_read_and_clusters_are_as_published(monkeypatch):
    monkeypatch.setattr(realsyn, "PAIRS_PER_CLUSTER", 40)
    curator = build_curator("realsyn", most=20)
    assert curator.reads == ("image_features",)
    assert len(curator.survey(PAIRS).whole["pairs"]) == 3


def test_centroids_are_learned_from_a_sample_however_many_they_are(monkeypatch):
    assert [_kmeans.sample_size(count) for count in (1, 100, 10_000, 100_000)] == [256, 25_600, 1_000_000, 3_900_000]
    rows, unit = [], PairTable.unit
    monkeypatch.setattr(PairTable, "unit", lambda *args: rows.append(len(unit(*args))) or unit(*args))
    monkeypatch.setattr(_kmeans, "SAMPLE", 60)
    monkeypatch.setattr(_kmeans, "FEWEST_PER_CENTROID", 4)
    cluster(PAIRS, "image_features", 10, 0)
    cluster(PAIRS, "image_features", 20, 0)
    assert rows == [60, 120, 80, 120], "the sample, then all pairs, of each"


def test_a_window_without_pairs_is_told():
    survey = build_curator("realsyn", low=0.999).survey(PAIRS)
    assert "no pair has a cosine" in survey.notes[0]
    with pytest.raises(ConfigError, match="no pair lies between"):
        build_curator("realsyn", low=0.6, high=0.5)
