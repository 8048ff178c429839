"""GOT-D: its transport, its gradients, and that a target is not simply imitated by its neighbours."""

import numpy as np
import pytest
from parity_checks import subsets

from vladapt import ConfigError, DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import got_d
from vladapt.core.curators.got_d import calibrated, log_sinkhorn
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import WIDTH, drawn_file, drawn_pairs


def unit(random, *shape):
    rows = random.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


POOL, TARGET = unit(np.random.default_rng(0), 12, 4), unit(np.random.default_rng(1), 7, 4)


def test_transport_gradients_and_choice_are_those_of_the_references(agrees, references):
    agrees(subsets.got_d)
    for reference in references("got_d"):
        assert not np.array_equal(reference["select_entropic"], reference["nearest_neighbour"])


def cost_of(masses, pool, target, regularisation):
    """The entropic cost, with its penalty, for any masses of the pool; in float64, all at once."""
    affinity = (pool.astype(float) @ target.T.astype(float) - 1) / regularisation
    b = np.full(len(target), 1 / len(target))
    g = np.zeros(len(target))
    for _ in range(3000):
        f = -np.log((np.exp(affinity + g) * b).sum(axis=1))
        g = -np.log((np.exp(affinity + f[:, None]) * masses[:, None]).sum(axis=0))
    return regularisation * (masses @ f + b @ g)


def test_a_gradient_is_how_the_cost_changes_with_a_pairs_mass():
    transport = log_sinkhorn(lambda: [POOL], TARGET, 0.2, 3000, 1e-7)
    ours, count, step = calibrated(transport.pool), len(POOL), 1e-5
    for place in range(0, count, 4):
        shifted = np.full((2, count), 1 / count)
        shifted += np.where(np.arange(count) == place, 1, -1 / (count - 1)) * np.array([[step], [-step]])
        more, less = (cost_of(each, POOL, TARGET, 0.2) for each in shifted)
        assert (more - less) / (2 * step) == pytest.approx(ours[place], abs=1e-4)


def test_blocks_change_nothing():
    whole = log_sinkhorn(lambda: [POOL], TARGET, 0.05, 1000, 1e-6)
    parts = log_sinkhorn(lambda: [POOL[:5], POOL[5:6], POOL[6:]], TARGET, 0.05, 1000, 1e-6)
    np.testing.assert_allclose(whole.pool, parts.pool, atol=1e-5)
    assert whole.cost == pytest.approx(parts.cost, abs=1e-5)


def test_small_regularisation_stays_finite():
    transport = log_sinkhorn(lambda: [POOL], TARGET, 0.002, 50, 1e-6)
    assert np.isfinite(transport.pool).all() and np.isfinite(transport.target).all()


def test_small_regularisation_reaches_its_tolerance():
    pool, target = unit(np.random.default_rng(2), 300, 8), unit(np.random.default_rng(3), 40, 8)
    transport = log_sinkhorn(lambda: [pool], target, 0.01, 4000, 1e-7)
    assert transport.misplaced <= 1e-7
    affinity = (pool.astype(float) @ target.T.astype(float) - 1) / 0.01
    plan = np.exp(affinity + (transport.pool[:, None] + transport.target) / 0.01) / (len(pool) * len(target))
    np.testing.assert_allclose(plan.sum(axis=1), 1 / len(pool), rtol=1e-5)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / len(target), rtol=1e-5)


def test_a_little_misplaced_mass_is_not_told_as_none(monkeypatch):
    made = got_d.Transport(np.zeros(120), np.zeros(9), 0.5, 1.23e-5, 7)
    monkeypatch.setattr(got_d, "log_sinkhorn", lambda *_: made)
    assert "0.0012 % of the mass" in build_curator("got-d", target=drawn_file(9)).survey(drawn_pairs()).notes[0]


def test_a_small_target_makes_no_large_blocks(monkeypatch):
    features = np.random.default_rng(0).normal(size=(20_000, WIDTH)).astype(np.float16)
    names = [f"{n:05d}" for n in range(20_000)]
    pairs = PairTable.of(names, image_features=features, caption_features=features)
    sizes, read = [], PairTable.unit
    monkeypatch.setattr(PairTable, "unit", lambda *args: sizes.append(len(read(*args))) or read(*args))
    build_curator("got-d", target=drawn_file(3), iterations=1).survey(pairs)
    assert 1000 < max(sizes) <= 16_384


def test_what_the_pool_has_enough_of_gets_no_credit(tmp_path):
    """Half of the target is of each of two concepts, and 95 % of the pool of the first."""
    random = np.random.default_rng(0)
    common, rare = np.eye(8)[0], np.eye(8)[1]
    rows = np.concatenate([common + 0.2 * random.normal(size=(190, 8)), rare + 0.4 * random.normal(size=(10, 8))])
    target = np.concatenate([common + 0.2 * random.normal(size=(20, 8)), rare + 0.2 * random.normal(size=(20, 8))])
    np.save(tmp_path / "target.npy", target.astype(np.float32))
    pairs = PairTable.of([f"{n:03d}" for n in range(200)], image_features=rows.astype(np.float32))
    keep = build_curator("got-d", target=str(tmp_path / "target.npy"), fraction=0.05).decide_all(pairs).keep
    assert keep[190:].sum() > 7
    unit_target = target / np.linalg.norm(target, axis=1, keepdims=True)
    nearest = np.argsort(-(pairs.unit("image_features") @ unit_target.T).max(axis=1))[:10]
    assert (nearest < 190).sum() > 5, "neighbours of the target are of the common concept"


def test_every_option_changes_the_choice(monkeypatch):
    pairs, options = drawn_pairs(), {"target": drawn_file(9), "fraction": 0.2}
    first = build_curator("got-d", **options).decide_all(pairs)
    assert first.keep.sum() == 24
    changes = ({"target": drawn_file(8)}, {"fraction": 0.1}, {"away": True}, {"features": "caption_features"})
    for changed in (*changes, {"regularisation": 1.0}, {"iterations": 1}):
        other = build_curator("got-d", **options | changed).decide_all(pairs)
        assert not np.array_equal(first.keep, other.keep), changed
    rough = build_curator("got-d", **options, tolerance=0.2).decide_all(pairs)
    assert not np.array_equal(first.scores["gradient"], rough.scores["gradient"])
    monkeypatch.setattr(got_d, "COSTS_AT_ONCE", 100)
    assert np.array_equal(build_curator("got-d", **options).decide_all(pairs).keep, first.keep)


def test_costs_iterations_and_an_overlap_are_told(tmp_path):
    pairs = drawn_pairs()
    notes = build_curator("got-d", target=drawn_file(9)).survey(pairs).notes
    assert "transport to 9 rows of the target costs" in notes[0] and "ended after" in notes[0]
    assert "give more iterations" in build_curator("got-d", target=drawn_file(9), iterations=1).survey(pairs).notes[0]
    np.save(tmp_path / "pool.npy", pairs.numbers("image_features")[:5].astype(np.float32))
    notes = build_curator("got-d", target=str(tmp_path / "pool.npy")).survey(pairs).notes
    assert "5 of 120 pairs are in" in notes[1]


def test_what_cannot_be_used_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="give target=PATH"):
        build_curator("got-d")
    with pytest.raises(DataError, match="no such file"):
        build_curator("got-d", target=str(tmp_path / "none.npy")).check(())
