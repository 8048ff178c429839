"""CLIPCov: its terms, its greedy, and what classes of any size do to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import subsets
from safetensors.numpy import save_file

from vladapt import ConfigError, DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import clipcov
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import WIDTH, drawn_file, drawn_pairs


def test_terms_order_and_scores_are_the_released_ones(agrees):
    agrees(subsets.clipcov)


def unit(random, *shape):
    rows = random.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def literal(start, cross, label, latent, count, refresh, similarity, whole_history):
    """The released loop: all pairs are sorted again at every refresh."""
    scores, taken, picks, since = start.astype(float), [], {}, {}
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    while len(taken) < count:
        best = next(i for i in ranked if i not in taken)
        taken.append(best)
        mine = picks.setdefault(latent[best], [])
        mine.append(best)
        if (len(mine) + 1) % refresh == 0:
            rows = np.flatnonzero(latent == latent[best])
            new = mine[since.get(latent[best], 0) :]
            since[latent[best]] = len(mine)
            for i in rows:
                lost = sum(max(similarity[i, j], 0) + max(similarity[j, i], 0) for j in new)
                lost += sum(cross[j] for j in (mine if whole_history else new)) + sum(label[j] / 2 for j in new)
                scores[i] -= lost / len(rows)
            scores[taken] = -np.inf
            ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return taken


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 40), st.booleans())
def test_the_greedy_is_the_loop_that_sorts_all_again(seed, refresh, count, whole_history):
    random = np.random.default_rng(seed)
    latent = np.minimum(random.geometric(0.5, 40) - 1, 5)  # unequal, one-pair and empty classes
    image, caption = unit(random, 2, 40, 6)
    start, cross, label = random.normal(size=40), random.random(40), random.random(40)
    ours, _ = clipcov.greedy(
        start,
        cross,
        label,
        clipcov._members_of(latent, 7),
        count,
        refresh,
        lambda rows, picks: clipcov.similarity_to(image[rows], caption[rows], image[picks], caption[picks]),
        whole_history,
    )
    assert ours.tolist() == literal(start, cross, label, latent, count, refresh, image @ caption.T, whole_history)


def test_equal_scores_are_picked_by_position():
    ours, _ = clipcov.greedy(
        np.zeros(6), np.zeros(6), np.zeros(6), clipcov._members_of(np.array([1, 0, 1, 0, 1, 0]), 2), 4, 9, None, True
    )
    assert ours.tolist() == [0, 1, 2, 3]


def test_a_refresh_looks_at_its_own_class_alone():
    latent, looked = np.repeat([0, 1], 50), []

    def overlap(rows, picks):
        looked.append((len(rows), len(picks)))
        return np.zeros(len(rows))

    clipcov.greedy(
        np.arange(100.0), np.zeros(100), np.zeros(100), clipcov._members_of(latent, 2), 60, 10, overlap, True
    )
    assert looked == [(50, 9), *[(50, 10)] * 4, (50, 9)]


def test_the_class_lowers_what_is_like_its_picks():
    """Without the refreshes the subset is that of the first scores."""
    pairs, classes = drawn_pairs(), drawn_file(5)
    never = build_curator("clipcov", classes=classes, fraction=0.3, refresh=1000).decide_all(pairs)
    best = np.argsort(-never.scores["clipcov"], kind="stable")[:36]
    assert np.array_equal(np.flatnonzero(never.keep), np.sort(best))
    often = build_curator("clipcov", classes=classes, fraction=0.3, refresh=2).decide_all(pairs)
    assert not np.array_equal(often.keep, never.keep)


def test_every_option_changes_the_subset():
    pairs, classes = drawn_pairs(), drawn_file(5)
    options = {"classes": classes, "fraction": 0.4, "refresh": 3}
    first = build_curator("clipcov", **options).decide_all(pairs).keep
    assert first.sum() == 48
    for changed in ({"classes": drawn_file(4)}, {"fraction": 0.2}, {"refresh": 40}, {"by": "caption"}):
        other = build_curator("clipcov", **options | changed).decide_all(pairs).keep
        assert not np.array_equal(first, other), changed
    assert not np.array_equal(first, build_curator("clipcov", **options, variant="gain").decide_all(pairs).keep)


def test_refreshes_grow_with_the_picks(monkeypatch):
    seen = []

    def recorded(*args):
        seen.append(args[5])
        return np.arange(1), args[0]

    monkeypatch.setattr(clipcov, "greedy", recorded)
    monkeypatch.setattr(clipcov, "RELEASED_PICKS_PER_REFRESH", 10)
    for fraction in (0.01, 0.5, 1.0):
        build_curator("clipcov", classes=drawn_file(5), fraction=fraction).decide_all(drawn_pairs())
    assert seen == [1, 6, 12]


def test_blocks_of_a_class_change_nothing(monkeypatch):
    pairs = drawn_pairs()
    curator = build_curator("clipcov", classes=drawn_file(3), fraction=0.5, refresh=4)
    whole = curator.decide_all(pairs)
    monkeypatch.setattr(clipcov, "MEMBERS_AT_ONCE", 7)
    monkeypatch.setattr(clipcov, "SIMILARITIES_AT_ONCE", 30)
    parts = curator.decide_all(pairs)
    assert np.array_equal(whole.keep, parts.keep)
    np.testing.assert_allclose(whole.scores["clipcov"], parts.scores["clipcov"], rtol=1e-5)


def test_few_classes_make_no_large_blocks(monkeypatch):
    features = np.random.default_rng(0).normal(size=(20_000, WIDTH)).astype(np.float16)
    names = [f"{n:05d}" for n in range(20_000)]
    pairs = PairTable.of(names, image_features=features, caption_features=features)
    sizes, read = [], PairTable.unit
    monkeypatch.setattr(PairTable, "unit", lambda *args: sizes.append(len(read(*args))) or read(*args))
    build_curator("clipcov", classes=drawn_file(60), fraction=0.01, refresh=1000).survey(pairs)
    assert 1000 < max(sizes) <= 4096


def test_classes_and_their_sizes_are_told():
    pairs = drawn_pairs()
    survey = build_curator("clipcov", classes=drawn_file(200)).survey(pairs)
    assert survey.whole["pairs"].sum() == len(pairs) and (survey.whole["pairs"] == 0).any()
    assert f"{np.count_nonzero(survey.whole['pairs'])} of 200 classes have pairs" in survey.notes[0]
    assert np.isfinite(survey.rows["start"]).all()


def test_class_names_are_read_from_a_labelled_set(tmp_path):
    rows = np.load(drawn_file(5))
    save_file({"text_features": rows}, tmp_path / "classes.safetensors", {"backbone": "drawn"})
    named = build_curator("clipcov", classes=str(tmp_path / "classes.safetensors")).decide_all(drawn_pairs())
    assert np.array_equal(named.keep, build_curator("clipcov", classes=drawn_file(5)).decide_all(drawn_pairs()).keep)
    save_file({"text_features": rows}, tmp_path / "other.safetensors", {"backbone": "another"})
    with pytest.raises(DataError, match="text_features of encoder another"):
        build_curator("clipcov", classes=str(tmp_path / "other.safetensors")).decide_all(drawn_pairs())


def test_one_class_has_no_others():
    assert build_curator("clipcov", classes=drawn_file(1), fraction=0.5).decide_all(drawn_pairs()).keep.sum() == 60


def test_what_cannot_be_used_is_one_line(tmp_path):
    pairs = drawn_pairs()
    with pytest.raises(ConfigError, match="classes=FILE"):
        build_curator("clipcov")
    with pytest.raises(DataError, match="no column 'image_features'"):
        build_curator("clipcov", classes=drawn_file(5)).decide_all(PairTable.of(["a"], text=["dog"]))
    with pytest.raises(DataError, match="no such file"):
        build_curator("clipcov", classes=str(tmp_path / "none.npy")).check(())
    wide = tmp_path / "wide.npy"
    np.save(wide, np.ones((3, WIDTH + 1)))
    with pytest.raises(DataError, match="numbers per row"):
        build_curator("clipcov", classes=str(wide)).decide_all(pairs)
