"""Near copies: hashes tie, features confirm, and alone they tie nothing."""

import numpy as np
import pytest

from vladapt import DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import near
from vladapt.core.data import bits_apart
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()
BASE = 0x0123456789ABCDEF


def table(hashes, **columns):
    sizes = {"width": [9] * len(hashes), "height": [9] * len(hashes), **columns}
    return PairTable.of([f"{n:03d}" for n in range(len(hashes))], phash=np.array(hashes, np.uint64), **sizes)


def kept(pairs, **options):
    return np.flatnonzero(build_curator("near", **options).decide_all(pairs).keep).tolist()


def flipped(*bits):
    return BASE ^ sum(1 << bit for bit in bits)


def test_what_is_a_few_bits_apart_is_tied_and_through_others_too():
    pairs = table([BASE, flipped(0, 1, 2, 3), flipped(0, 1, 2, 3, 4, 5, 6, 7), flipped(*range(20, 25)), 0, 0])
    decision = build_curator("near").decide_all(pairs)
    assert np.flatnonzero(decision.keep).tolist() == [0, 3, 4, 5], "0 is no hash"
    assert decision.scores["bits"].tolist() == [0, 4, 8, 0, 0, 0]
    assert kept(pairs, distance=3) == [0, 1, 2, 3, 4, 5]
    assert kept(pairs, distance=5) == [0, 4, 5]


def test_features_confirm_copies_and_never_tie_what_hashes_do_not():
    features = np.eye(3)[[0, 0, 1, 1, 0, 2]]
    pairs = table([BASE, BASE, flipped(1), flipped(2), 77, flipped(5)], image_features=features)
    curator = build_curator("near")
    survey = curator.survey(pairs)
    decision = curator.decide(pairs, survey)
    assert np.flatnonzero(decision.keep).tolist() == [0, 2, 4, 5]
    assert decision.scores["cosine"].tolist() == [1] * 6
    assert "4 of 6 pairs are near copies by their hashes; features confirm 2 of these" in survey.notes[0]
    assert kept(pairs, cosine=0) == [0, 4]


def test_of_a_pair_without_features_its_hash_decides():
    features = np.eye(3)[[0, 0, 1]] * [[1], [0], [1]]
    assert kept(table([BASE, flipped(1), flipped(2)], image_features=features)) == [0, 2]


def test_all_copies_of_a_hash_that_many_images_share_are_dropped(monkeypatch):
    count = 4 * near.ROUNDS
    features = np.eye(count // 2)[np.random.default_rng(2).permutation(np.arange(count) // 2)]
    pairs = table([BASE] * count, image_features=features)
    curator = build_curator("near")
    _, first = np.unique(features.argmax(axis=1), return_index=True)
    for at_once in (256, 5):
        monkeypatch.setattr(near, "LEADERS_AT_ONCE", at_once)
        survey = curator.survey(pairs)
        assert np.flatnonzero(curator.decide(pairs, survey).keep).tolist() == sorted(first)
        assert len(survey.notes) == 1
    monkeypatch.setattr(near, "MOST_COMPARED", 0)
    survey = curator.survey(pairs)
    assert (~curator.decide(pairs, survey).keep).sum() == near.ROUNDS
    assert f"{count - 2 * near.ROUNDS} pairs stay unexamined" in survey.notes[1]


def test_comparing_a_group_in_blocks_decides_as_rounds_do(monkeypatch):
    random = np.random.default_rng(4)
    features = random.normal(size=(120, 3))
    pairs = table([BASE] * 120, image_features=features, width=random.integers(1, 99, 120))
    decided = []
    for rounds, at_once in ((1000, 256), (0, 256), (3, 7)):
        monkeypatch.setattr(near, "ROUNDS", rounds)
        monkeypatch.setattr(near, "LEADERS_AT_ONCE", at_once)
        decided.append(build_curator("near").decide_all(pairs))
    for other in decided[1:]:
        assert np.array_equal(decided[0].keep, other.keep)
        np.testing.assert_allclose(decided[0].scores["cosine"], other.scores["cosine"], atol=1e-5)


def test_the_kept_one_is_the_largest_and_the_copies_of_the_drawn_pairs_are_met():
    decision = build_curator("near").decide_all(PAIRS)
    pixels = PAIRS.numbers("width") * PAIRS.numbers("height")
    copies = np.arange(0, 120, 10)
    assert np.array_equal(
        np.sort(np.flatnonzero(~decision.keep)), np.where(pixels[copies] >= pixels[copies + 1], copies + 1, copies)
    )
    assert (decision.scores["bits"][~decision.keep] == 2).all()
    assert (decision.scores["cosine"][~decision.keep] > 0.9).all()


def test_bands_find_what_comparing_all_finds():
    random = np.random.default_rng(3)
    hashes = random.integers(1, 2**64, 40, dtype=np.uint64)[random.integers(40, size=150)]
    hashes ^= (np.uint64(1) << random.integers(64, size=150).astype(np.uint64)) * random.integers(2, size=150).astype(
        np.uint64
    )
    pairs = table(hashes)
    groups = np.arange(150)
    alike = np.stack([bits_apart(np.full(150, each), hashes) for each in hashes]) <= 2
    for _ in range(10):
        groups = np.where(alike, groups[None, :], 999).min(axis=1)
    assert kept(pairs, distance=2) == sorted(set(groups.tolist()))


def test_every_option_changes_what_is_kept():
    base = kept(PAIRS)
    assert base != kept(PAIRS, distance=1)
    assert base != kept(PAIRS, cosine=1.0)
    same = table([BASE, BASE], quality=[1, 2])
    assert kept(same) == [0] and kept(same, score="quality") == [1]
    assert kept(table([BASE, BASE], quality=[2, 1], width=[3, 4]), score="quality") == [1]


def test_bad_input_is_one_line():
    with pytest.raises(DataError, match="no column 'phash'"):
        build_curator("near").decide_all(PairTable.of(["a"], text=["b"]))
    with pytest.raises(DataError, match=r"column 'phash': float64 .*; give one whole number of 64 bits per pair"):
        build_curator("near").decide_all(PairTable.of(["a"], phash=[0.5], width=[1], height=[1]))
