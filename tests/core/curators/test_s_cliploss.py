"""s-CLIPLoss beside the released code, and what its options do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import filters

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators.s_cliploss import cut_batches, norms_of_batch, norms_of_batches
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs


@pytest.fixture(scope="module")
def released(parity):
    return parity.reference("s_cliploss")


def scores(image, text, orders, temperature, batch, as_released):
    batches = (cut_batches(order, batch, as_released) for order in orders)
    by_text, by_image = norms_of_batches(lambda rows: (image[rows], text[rows]), batches, temperature, len(image))
    return np.einsum("nd,nd->n", image, text) - by_text - by_image


def test_scores_and_pairs_are_those_of_the_released_code(agrees):
    agrees(filters.s_cliploss_)


def test_in_a_short_last_batch_scores_are_higher_so_batches_are_as_long_as_each_other(released):
    image, text, orders = (released[name].numpy() for name in ("image", "text", "permutation"))
    batch, temperature = int(released.setting("batch")), released.setting("temperature")
    assert len(image) % batch, "the last batch is shorter"
    short, equal = (scores(image, text, orders, temperature, batch, released) for released in (True, False))
    last = np.unique(orders[:, len(image) // batch * batch :])
    assert (equal - short)[last].mean() < -1e-3


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_both_steps_keep_the_pairs_of_the_released_code(released, norm, tmp_path, monkeypatch):
    np.save(tmp_path / "target.npy", released["proxy"].numpy())
    image, text, orders = (released[name].numpy() for name in ("image", "text", "permutation"))
    monkeypatch.setattr(
        "vladapt.core.curators.s_cliploss.cut_batches", lambda order, batch: cut_batches(order, batch, True)
    )
    draws = iter(orders)  # the released ones instead of ours
    monkeypatch.setattr(PairTable, "uniform", lambda self, seed, rows, purpose: np.argsort(next(draws)))
    pairs = PairTable.of([f"{number:04d}" for number in range(len(image))], image_features=image, caption_features=text)
    curator = build_curator(
        "s-cliploss",
        target=str(tmp_path / "target.npy"),
        norm=norm,
        batch=int(released.setting("batch")),
        temperature=released.setting("temperature"),
        passes=len(orders),
        keep_first=released.setting("keep_first"),
        keep=released.setting("keep_final"),
    )
    decision = curator.decide_all(pairs)
    released.assert_close(decision.keep.astype(np.int64), f"keep_{norm}")
    released.assert_close(decision.scores["s_cliploss"], "s_cliploss")
    first = decision.reason != 1
    assert np.isnan(decision.scores["norm_sim"][~first]).all()
    released.assert_close(
        np.where(first, decision.scores["norm_sim"], released[f"normsim_{norm}"].numpy()), f"normsim_{norm}"
    )


def test_blocks_of_the_batch_and_cold_temperatures_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    image, text = random.normal(size=(2, 50, 8)).astype(np.float32)
    image, text = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (image, text))
    monkeypatch.setattr("vladapt.core.curators.s_cliploss.IMAGES_AT_ONCE", 7)
    for temperature in (0.07, 0.001):  # exp(1 / 0.001) is infinite in float32
        logits = (image.astype(np.float64) @ text.T) / temperature
        exact = [temperature / 2 * np.logaddexp.reduce(logits, axis=axis) for axis in (1, 0)]
        np.testing.assert_allclose(norms_of_batch(image, text, temperature), exact, rtol=1e-5, atol=1e-6)


def test_a_caption_that_fits_every_image_is_dropped_though_its_clip_score_is_high():
    random = np.random.default_rng(1)
    image = random.normal(size=(200, 32))
    image[:, 0] = 6.0  # what all images have in common
    caption = image + 1.8 * random.normal(size=(200, 32)) * (np.arange(32) > 0)
    caption[0] = image.mean(axis=0)  # "a photo"
    pairs = PairTable.of([f"{number:03d}" for number in range(200)], image_features=image, caption_features=caption)
    by_cosine = build_curator("clip-score", fraction=0.3).decide_all(pairs)
    by_loss = build_curator("s-cliploss", keep_first=0.3, batch=100).decide_all(pairs)
    assert by_cosine.keep[0] and not by_loss.keep[0]


OTHERS = [("temperature", 0.3), ("passes", 3), ("batch", 20), ("seed", 5), ("keep_first", 0.5)]


@pytest.mark.parametrize(("option", "value"), OTHERS)
def test_each_option_changes_the_scores_or_what_is_kept(option, value):
    usual = {"batch": 40, "passes": 2}
    pairs = drawn_pairs()
    one = build_curator("s-cliploss", **usual).decide_all(pairs)
    other = build_curator("s-cliploss", **{**usual, option: value}).decide_all(pairs)
    same = np.allclose(one.scores["s_cliploss"], other.scores["s_cliploss"], atol=1e-5)
    assert not (same and np.array_equal(one.keep, other.keep))


def test_the_second_step_changes_with_its_options():
    pairs = drawn_pairs()
    kept = {}
    for options in ({}, {"target": "pool"}, {"target": "pool", "keep": 0.1}, {"target": "pool", "steps": 1}):
        kept[str(options)] = build_curator("s-cliploss", **options).decide_all(pairs).keep
    sizes = [each.sum() for each in kept.values()]
    assert sizes == [36, 24, 12, 24]
    assert not np.array_equal(*list(kept.values())[1::2])
    first = next(iter(kept.values()))
    assert all((first | ~each).all() for each in kept.values())


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 40), st.integers(2, 12), st.sampled_from([0.01, 0.07, 1.0]), st.integers(0, 10**6))
def test_a_score_is_never_above_zero_and_alone_it_is_zero(count, batch, temperature, seed):
    rows = np.random.default_rng(seed).normal(size=(2, count, 6)).astype(np.float32)
    image, text = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    order = np.random.default_rng(seed).permutation(count)
    made = scores(image, text, [order], temperature, batch, as_released=False)
    assert made.max() <= 1e-5, "a sum holds the pair itself"
    again = scores(image, text, [order[::-1]], temperature, count, as_released=False)
    np.testing.assert_allclose(again, scores(image, text, [order], temperature, count, False), atol=1e-6)
    alone = scores(image, text, [order], temperature, 1, as_released=False)
    np.testing.assert_allclose(alone, 0, atol=1e-5)


def test_a_pool_of_one_batch_is_compared_once():
    pairs, told = drawn_pairs(), []
    many = build_curator("s-cliploss", passes=50)
    survey = many.survey(pairs, lambda done, total: told.append((done, total)))
    assert told == [(120, 120)]
    np.testing.assert_allclose(
        survey.rows["s_cliploss"], build_curator("s-cliploss", passes=1).survey(pairs).rows["s_cliploss"]
    )


def test_batches_are_as_long_as_each_other_and_hold_every_row_once():
    parts = cut_batches(np.arange(103), 20)
    assert sorted(np.concatenate(parts)) == list(range(103))
    assert {len(each) for each in parts} == {17, 18}


def test_what_cannot_be_is_said_in_one_line():
    with pytest.raises(ConfigError, match=r"keep 0\.4 is more than keep_first 0\.3"):
        build_curator("s-cliploss", target="pool", keep=0.4)
    with pytest.raises(ConfigError, match="norm=inf with target=pool"):
        build_curator("s-cliploss", target="pool", norm="inf")
    broken = np.ones((4, 3))
    broken[1, 1] = np.nan
    pairs = PairTable.of(list("abcd"), image_features=broken, caption_features=np.ones((4, 3)))
    with pytest.raises(DataError, match="1 rows are not finite"):
        build_curator("s-cliploss").decide_all(pairs)


def test_passes_of_one_seed_and_of_the_next_are_independent(monkeypatch):
    draws, uniform = [], PairTable.uniform

    def drawn(*given, **named):
        draws.append(uniform(*given, **named))
        return draws[-1]

    monkeypatch.setattr(PairTable, "uniform", drawn)
    for seed in (0, 1):
        build_curator("s-cliploss", batch=200, passes=3, seed=seed).decide_all(drawn_pairs(600))
    assert len(draws) == 6
    between = np.corrcoef(draws) - np.eye(6)
    assert np.abs(between).max() < 0.2


def test_a_target_that_does_not_fit_is_told_before_the_passes(tmp_path):
    np.save(tmp_path / "narrow.npy", np.ones((4, 3), np.float32))
    told = []
    with pytest.raises(DataError, match="3 numbers per row"):
        curator = build_curator("s-cliploss", target=str(tmp_path / "narrow.npy"))
        curator.survey(drawn_pairs(), lambda done, total: told.append(done))
    assert not told
