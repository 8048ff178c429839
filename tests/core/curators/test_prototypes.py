"""SSL prototypes: what is kept follows from the distance to the nearest centroid."""

import numpy as np
import pytest

from vladapt import ConfigError
from vladapt.core.curators.prototypes import by_difficulty, ranks_within
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()


def kept(**options):
    return build_curator("prototypes", **options).decide_all(PAIRS).keep


def test_the_hardest_or_the_easiest_of_all_are_kept():
    curator = build_curator("prototypes", fraction=0.4, balance=0)
    survey = curator.survey(PAIRS)
    keep, distance = curator.decide(PAIRS, survey).keep, survey.rows["distance"]
    assert keep.sum() == 48
    assert distance[keep].min() >= distance[~keep].max()
    easy = kept(fraction=0.4, balance=0, which="easiest")
    assert easy.sum() == 48 and distance[easy].max() <= distance[~easy].min()
    cosines = PAIRS.unit("image_features") @ survey.whole["centroids"].T
    np.testing.assert_allclose(distance, 1 - cosines.max(axis=1), atol=1e-6)


def test_a_cluster_keeps_its_share_of_an_equal_part():
    distance = np.concatenate([np.linspace(0.5, 0.9, 60), np.linspace(0.1, 0.3, 30), [0.2, 0.1]])
    clusters = np.repeat([0, 1, 3], [60, 30, 2])
    for which in ("hardest", "easiest"):
        sign = 1 if which == "hardest" else -1
        for balance, least in ((0, 0), (0.5, 5), (1, 10)):
            keep = by_difficulty(distance, clusters, 30, which, balance)
            assert keep.sum() == 30
            for number, size in ((0, 60), (1, 30), (3, 2)):
                own = (sign * distance)[clusters == number]
                own_kept = keep[clusters == number]
                assert own_kept.sum() >= min(size, least)
                assert not own_kept.any() or own_kept.all() or own[own_kept].min() > own[~own_kept].max()
    assert by_difficulty(distance, clusters, 30)[60:].sum() == 0, "without balance a cluster may be lost"


def test_of_equals_the_smaller_position_is_first():
    assert ranks_within(np.array([1.0, 1.0, 2.0, 1.0]), np.array([0, 1, 0, 0])).tolist() == [1, 0, 0, 2]
    assert by_difficulty(np.ones(4), np.array([0, 1, 0, 1]), 2).tolist() == [True, True, False, False]


def test_every_option_changes_what_is_kept():
    base = {"fraction": 0.3, "clusters": 8, "balance": 0.0}
    changes = ({"fraction": 0.5}, {"which": "easiest"}, {"balance": 1.0}, {"clusters": 4}, {"seed": 1})
    for changed in (*changes, {"features": "caption_features"}):
        assert not np.array_equal(kept(**base), kept(**{**base, **changed})), changed
    with pytest.raises(ConfigError, match="fraction=0"):
        build_curator("prototypes", fraction=0)
