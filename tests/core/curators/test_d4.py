"""D4: SemDeDup, clusters anew, prototypes."""

import numpy as np
import pytest

from vladapt import ConfigError
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()


def kept(**options):
    return build_curator("d4", **options).decide_all(PAIRS).keep


def test_copies_go_first_then_what_is_near_the_new_centroids():
    decision = build_curator("d4").decide_all(PAIRS)
    dedup = build_curator("sem-dedup", fraction=0.75).decide_all(PAIRS)
    assert np.array_equal(decision.reason == 1, ~dedup.keep)
    left = PAIRS.among(dedup.keep)
    again = build_curator("prototypes", fraction=60.5 / len(left), balance=0).decide_all(left)
    assert decision.keep.sum() == 60
    assert np.array_equal(decision.keep[dedup.keep], again.keep)
    once = build_curator("prototypes", fraction=0.5, balance=0).decide_all(PAIRS)
    distance = np.where(dedup.keep, once.scores["distance"], -1)
    first_clusters = np.zeros(len(PAIRS), bool)
    first_clusters[np.argsort(-distance, kind="stable")[:60]] = True
    assert not np.array_equal(decision.keep, first_clusters), "the second clusters decide, not the first"


def test_every_option_changes_what_is_kept():
    base = {"fraction": 0.25, "dedup": 0.5, "clusters": 12}
    changes = ({"fraction": 0.5}, {"dedup": 0.75}, {"borders": True}, {"clusters": 4}, {"seed": 1})
    for changed in (*changes, {"features": "caption_features"}):
        assert not np.array_equal(kept(**base), kept(**{**base, **changed})), changed


def test_more_than_dedup_leaves_cannot_be_kept():
    with pytest.raises(ConfigError, match=r"fraction=0\.9 is above dedup=0\.75"):
        build_curator("d4", fraction=0.9)
    assert kept(fraction=0.75).sum() == 90
