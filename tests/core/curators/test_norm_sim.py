"""NormSim: towards a target, and of the pool towards itself; and how targets are read."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from parity_checks import filters
from safetensors.numpy import save_file

from vladapt.core.contracts.curator import CAPTION_FEATURES, PairTable
from vladapt.core.curators._targets import read_target
from vladapt.core.curators.norm_sim import norm_sim_inf
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.features.files import load_rows
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import WIDTH, drawn_pairs


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    rows = np.random.default_rng(3).normal(size=(9, WIDTH)).astype(np.float32)
    path = tmp_path_factory.mktemp("targets") / "target.npy"
    np.save(path, rows)
    return str(path), rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_norms_are_those_of_the_released_code(agrees):
    agrees(filters.norm_sim_)


def test_the_pairs_nearest_to_the_target_are_kept(target):
    path, rows = target
    pairs = drawn_pairs()
    cosines = np.abs(pairs.unit("image_features") @ rows.T)
    for norm, exact in {"inf": cosines.max(axis=1), "2": np.sqrt((cosines**2).sum(axis=1))}.items():
        decision = build_curator("norm-sim", target=path, norm=norm, keep=0.25).decide_all(pairs)
        np.testing.assert_allclose(decision.scores["norm_sim"], exact, rtol=1e-4)
        assert decision.keep.sum() == 30
        assert exact[decision.keep].min() >= exact[~decision.keep].max()
    assert build_curator("norm-sim", target=path).norm == "inf"


def test_an_opposite_image_counts_by_its_absolute_cosine():
    rows = np.eye(3, dtype=np.float32)
    assert norm_sim_inf(-rows, rows[:1])[0] == 1


def test_many_targets_are_compared_in_parts(monkeypatch, target):
    pairs = drawn_pairs().unit("image_features")
    whole = norm_sim_inf(pairs, target[1])
    monkeypatch.setattr("vladapt.core.curators.norm_sim.TARGETS_AT_ONCE", 2)
    np.testing.assert_allclose(norm_sim_inf(pairs, target[1]), whole, rtol=1e-6)


def test_the_pool_is_cut_down_towards_what_is_left_of_it():
    pairs = drawn_pairs()
    rows = pairs.unit("image_features").astype(np.float64)
    left = np.arange(len(rows))
    for _ in range(4):  # the rule, written out
        moment = rows[left].T @ rows[left]
        scores = np.einsum("nd,de,ne->n", rows[left], moment, rows[left])
        left = np.sort(left[np.argsort(-scores, kind="stable")[: max(24, len(left) - 24)]])
    decision = build_curator("norm-sim", keep=0.2, steps=4).decide_all(pairs)
    assert np.array_equal(np.flatnonzero(decision.keep), left)
    moment = rows[left].T @ rows[left]
    exact = np.sqrt(np.einsum("nd,de,ne->n", rows, moment, rows))
    np.testing.assert_allclose(decision.scores["norm_sim"], exact, rtol=1e-3)
    at_once = build_curator("norm-sim", keep=0.2, steps=1).decide_all(pairs)
    assert not np.array_equal(decision.keep, at_once.keep)


def test_a_target_of_the_pool_itself_is_told(tmp_path):
    pairs = drawn_pairs()
    rows = np.array(pairs.numbers("image_features", slice(0, 5)))
    rows[0] *= -1
    np.save(tmp_path / "pool.npy", rows)
    curator = build_curator("norm-sim", target=str(tmp_path / "pool.npy"))
    assert "4 of 120 pairs are in" in curator.survey(pairs).notes[0]
    named = {"image_features": -rows.astype(np.float32)}
    np.savez(tmp_path / "named.npz", ids=np.array([*pairs.names(slice(7, 9)), "x", "y", "z"]), **named)
    curator = build_curator("norm-sim", target=str(tmp_path / "named.npz"))
    assert "3 of 120 pairs are in" in curator.survey(pairs).notes[0], "two ids, and the row that was turned back"


@pytest.mark.parametrize(("pool", "other"), [(np.float16, np.float32), (np.float32, np.float16)])
def test_a_row_is_told_whatever_its_precision(tmp_path, pool, other):
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    far = rows[300:310] + 0.02 * random.normal(size=(10, 64)) / 8  # another view of an image: no copy
    np.save(tmp_path / "target.npy", np.concatenate([rows[:100], far]).astype(other))
    pairs = PairTable.of([f"{n:03d}" for n in range(400)], image_features=rows.astype(pool))
    notes = read_target(str(tmp_path / "target.npy"), pairs).overlap(pairs)
    assert notes[0].startswith("100 of 400 pairs are in")


def test_targets_are_read_from_what_embed_writes(tmp_path):
    pairs, rows = drawn_pairs(), np.random.default_rng(0).normal(size=(4, WIDTH)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    save_file({"image_features": rows}, tmp_path / "a.safetensors", {"backbone": "drawn", "ids": '["a","b","c","d"]'})
    read = read_target(str(tmp_path / "a.safetensors"), pairs)
    np.testing.assert_allclose(read.features, unit, rtol=1e-5)
    assert read.ids == ("a", "b", "c", "d") and read.encoder == "drawn"
    (tmp_path / "shards").mkdir()
    texts = pa.array([*rows[:3].tolist(), None], pa.list_(pa.float32()))
    columns = {"id": list("abcd"), "caption_features": texts, "encoder": ["drawn"] * 4}
    pq.write_table(pa.table(columns), tmp_path / "shards" / "part-0.parquet")
    read = read_target(str(tmp_path / "shards"), pairs, CAPTION_FEATURES)
    np.testing.assert_allclose(read.features, unit[:3], rtol=1e-5)
    assert read.ids == ("a", "b", "c")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_of_a_file_keep_their_lengths(tmp_path, dtype):
    rows = (3 * np.random.default_rng(0).normal(size=(5, 4))).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", image_features=rows)
    for name in ("rows.npy", "rows.npz"):
        read, ids, encoder = load_rows(tmp_path / name, "image_features")
        np.testing.assert_array_equal(read, rows.astype(np.float32))
        assert ids is None and encoder == ""


def test_a_target_that_does_not_fit_is_one_line(tmp_path):
    pairs = drawn_pairs()
    save_file({"image_features": np.ones((4, WIDTH), np.float32)}, tmp_path / "a.safetensors", {"backbone": "other"})
    with pytest.raises(DataError, match="of encoder other, the pairs' are of drawn; embed both with one backbone"):
        read_target(str(tmp_path / "a.safetensors"), pairs)
    np.save(tmp_path / "narrow.npy", np.ones((4, 3), np.float32))
    with pytest.raises(DataError, match="3 numbers per row, the pairs have 16"):
        read_target(str(tmp_path / "narrow.npy"), pairs)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataError, match=r"bad\.npy: not a readable"):
        read_target(str(tmp_path / "bad.npy"), pairs)
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"objects\.npy: not a readable"):
        read_target(str(tmp_path / "objects.npy"), pairs)
    with pytest.raises(DataError, match="No such file"):
        build_curator("norm-sim", target=str(tmp_path / "absent.npy")).decide_all(pairs)
    with pytest.raises(ConfigError, match="norm=inf with target=pool"):
        build_curator("norm-sim", norm="inf")
    with pytest.raises(DataError, match="no column 'image_features'"):
        build_curator("norm-sim").decide_all(PairTable.of(["a"], text=["b"]))
