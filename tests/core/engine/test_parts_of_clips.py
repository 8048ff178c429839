"""Clips whose classes only order can tell, through the engine: from frames to a run, and back from the run's file."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run
from safetensors.torch import load_file

import vladapt
from vladapt.core.contracts import FeatureSet
from vladapt.core.engine.compare import compare
from vladapt.core.engine.embed import embed
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.features.files import load_features
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.runtime.progress import Reporter

THIRD_PARTY = Path(__file__).parent / "third_party"
pytestmark = pytest.mark.usefixtures("in_toy_folder")
SHOTS = 8


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fitted(small_clip_spec, cache, tmp_path_factory):
    """One run of the method that looks at the order of parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(THIRD_PARTY))
        patch.setenv("VLADAPT_CACHE", str(cache))
        return fit(small_clip_spec, "order-of-parts", out=str(tmp_path_factory.mktemp("runs")))


@pytest.fixture
def stored(fitted, cache, monkeypatch):
    """What the fit put into the store is there."""
    monkeypatch.setenv("VLADAPT_CACHE", str(cache))


def prepared_of(recipe):
    task = task_of(recipe)
    return task.prepared(task.settled(recipe), Reporter(quiet=True))


def fit(spec, adapter, domain="toy-motion", **flags):
    return vladapt.fit(domain=domain, backbone=spec, adapter=adapter, shots=SHOTS, seed=1, **flags)


def prepared(spec, **flags):
    return prepared_of(resolve(flags={"domain": "toy-motion", "backbone": spec, **flags}))


def accuracy(adapter, features) -> float:
    return float((adapter.predict(features) == features.labels).float().mean())


def reordered(features, order):
    """The same set with the parts of each sample in another order: `order` (T) -> a permutation of T places."""
    parts = features.parts.clone()
    for own, length in zip(parts, features.parts_mask.sum(dim=1).tolist()):
        own[:length] = own[:length][order(length)]
    return replace(features, parts=parts)


@pytest.mark.thorough
def test_order_is_learned_by_a_method_on_parts_and_by_none_on_their_mean(fitted, stored, small_clip_spec):
    assert fitted.metrics["adapted"]["accuracy"] > 0.9
    for name in ("linear-probe", "tip-adapter-f", "gda"):
        on_means = fit(small_clip_spec, name)
        assert abs(on_means.metrics["adapted"]["accuracy"] - 0.5) < 0.1, name


def test_the_two_classes_have_the_same_means(stored, small_clip_spec):
    test = prepared(small_clip_spec).test
    left, right = test.select(test.labels == 0), test.select(test.labels == 1)
    assert left.groups == right.groups, "each path is there in both directions"
    torch.testing.assert_close(left.features, right.features, rtol=1e-4, atol=1e-5)


def test_parts_turned_round_shuffled_or_dropped_are_not_recognised(fitted, stored, small_clip_spec):
    test = prepared(small_clip_spec).draw(SHOTS, 1, parts=True).test
    right = accuracy(fitted.adapter, test)
    assert right == fitted.metrics["adapted"]["accuracy"]
    backwards = reordered(test, lambda length: torch.arange(length).flip(0))
    assert accuracy(fitted.adapter, backwards) == pytest.approx(1 - right)
    generator = torch.Generator().manual_seed(0)
    shuffled = [
        accuracy(fitted.adapter, reordered(test, lambda length: torch.randperm(length, generator=generator)))
        for _ in range(20)
    ]
    assert abs(sum(shuffled) / len(shuffled) - 0.5) < 0.15
    alone = torch.zeros_like(test.parts_mask)
    alone[:, 0] = True
    first = replace(test, features=test.parts[:, 0], parts_mask=alone)
    assert accuracy(fitted.adapter, first) == 0.5
    assert accuracy(fitted.adapter, test.without_parts().with_parts()) == 0.5


def test_a_second_draw_runs_no_backbone_and_decodes_nothing(stored, small_clip_spec):
    from toy_motion import ToyMotion

    before, data = ToyMotion.decoded, prepared(small_clip_spec)
    for parts in (True, False):
        drawn = data.draw(SHOTS, 1, parts=parts)
        assert all((part.parts is not None) == parts for part in (drawn.support, drawn.val, drawn.test))
    assert data.counts.computed == 0 and ToyMotion.decoded == before
    assert sorted(set(drawn.test.labels.tolist())) == [0, 1]


def test_the_run_scores_the_same_again(fitted, stored):
    assert vladapt.evaluate(fitted.run)["adapted"] == fitted.metrics["adapted"]
    assert vladapt.evaluate(fitted.run, split="all")["test_images"] == 80


def test_new_clips_are_predicted_in_another_process(fitted, tmp_path):
    clips = [f"{way}-{number}" for number in range(100, 106) for way in ("left", "right")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(THIRD_PARTY), *sys.path])}
    done = run(["-m", "vladapt", "predict", fitted.run, *clips, "--json"], env=environment, check=True)
    rows = json.loads(done.stdout)["predictions"]
    here = vladapt.predict(fitted.run, clips)
    assert [row["label"] for row in rows] == [row["label"] for row in here.rows()]
    right = [row["label"] == f"moving {row['id'].partition('-')[0]}" for row in rows]
    assert sum(right) >= 11


def test_a_still_is_predicted_as_a_clip_of_one_frame(fitted, stored):
    alone, beside = vladapt.predict(fitted.run, ["still-3"]), vladapt.predict(fitted.run, ["left-3", "still-3"])
    torch.testing.assert_close(alone.probabilities[0], torch.tensor([0.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(beside.probabilities[1], alone.probabilities[0])
    assert beside.rows()[0]["label"] == "moving left"


def test_val_and_test_sets_of_stills_have_one_part_each(fitted, stored, small_clip_spec):
    from toy_motion import still

    data = prepared(small_clip_spec)
    items = [item if item.split == "train" else still(item) for item in data.data.items]
    stills = replace(data, data=data.data.with_items(items))
    drawn = stills.draw(2, 1, parts=True)
    assert drawn.support.parts.shape[1] > 1
    assert drawn.val.parts.shape[1] == drawn.test.parts.shape[1] == 1
    (batch,) = stills.batches(fitted.adapter, stills.test)
    assert stills.test.parts is None and torch.equal(batch.parts[:, 0], stills.test.features)


def test_methods_on_parts_and_on_means_are_compared_on_one_draw(stored, small_clip_spec):
    recipe = resolve(flags={"domain": "toy-motion", "backbone": small_clip_spec})
    found = compare(recipe, ["order-of-parts", "linear-probe"], [SHOTS], [1], splits=1)
    rows = {row["adapter"]: row["accuracy"] for row in found.rows}
    assert found.refused == {} and rows["order-of-parts"] > 0.9 and abs(rows["linear-probe"] - 0.5) < 0.1


def test_images_are_refused_before_more_than_the_support_is_encoded(small_clip_spec, tmp_path, monkeypatch):
    from vladapt.core.features.store import FeatureStore

    asked = []
    real = FeatureStore.get_or_compute
    monkeypatch.setattr(FeatureStore, "get_or_compute", lambda *a, **k: asked.append(len(a[2])) or real(*a, **k))
    said = r"adapter 'order-of-parts' needs the parts of each sample .* give clips"
    with pytest.raises(CapabilityError, match=said):
        fit(small_clip_spec, "order-of-parts", domain="toy-labels", out=str(tmp_path / "runs"))
    assert asked == [3 * SHOTS] and not (tmp_path / "runs").exists()
    recipe = resolve(flags={"domain": "toy-labels", "backbone": small_clip_spec})
    found = compare(recipe, ["order-of-parts", "linear-probe"], [SHOTS], [1], splits=1)
    assert set(found.refused) == {"order-of-parts"} and len(found.rows) == 3


def test_parts_go_through_a_features_file(fitted, stored, small_clip_spec, tmp_path):
    recipe = resolve(flags={"domain": "toy-motion", "backbone": small_clip_spec})
    for name in ("parts.safetensors", "parts.npz"):
        embed(recipe, tmp_path / name, parts=True)
        held = load_features(tmp_path / name).features
        assert held.parts.shape[:2] == held.parts_mask.shape == (80, 7)
        result = vladapt.fit(features=str(tmp_path / name), adapter="order-of-parts", shots=SHOTS, seed=1)
        assert result.metrics["adapted"] == fitted.metrics["adapted"]
        assert vladapt.evaluate(result.run)["adapted"] == fitted.metrics["adapted"]
    embed(recipe, tmp_path / "means.safetensors")
    means = load_features(tmp_path / "means.safetensors").features
    assert means.parts is None and torch.equal(means.features, held.features)
    assert "image_parts" not in load_file(tmp_path / "means.safetensors")
    with pytest.raises(CapabilityError, match="or image_parts in a file"):
        vladapt.fit(features=str(tmp_path / "means.safetensors"), adapter="order-of-parts", shots=SHOTS)
    with pytest.raises(CapabilityError, match="needs the parts of each sample"):
        vladapt.evaluate(result.run, features=str(tmp_path / "means.safetensors"))


def test_rows_of_a_features_file_with_one_mean_are_told_by_the_order_of_their_parts(tmp_path):
    generator = torch.Generator().manual_seed(0)
    paths = torch.randn(30, 1, 8, generator=generator) + torch.linspace(-1, 1, 5)[None, :, None] * torch.ones(8)
    parts = torch.cat([paths, paths.flip(1)])  # (60, 5, 8)
    assert torch.equal(*FeatureSet.of_parts(parts).features.chunk(2)), "bit for bit the same means"
    held = {"image_parts": parts.numpy(), "labels": np.arange(60) // 30, "text_features": np.eye(2, 8)}
    np.savez(tmp_path / "a.npz", **held, class_names=np.array(["up", "down"]))
    result = vladapt.fit(features=str(tmp_path / "a.npz"), adapter="order-of-parts", shots=4, seed=1)
    assert result.metrics["adapted"]["accuracy"] == 1.0
    rows = prepared_of(resolve(flags={"features": str(tmp_path / "a.npz")})).data.items
    assert len({item.decode["digest"] for item in rows}) == 60, "none is taken for a copy of another"


def test_parts_of_images_are_not_written(small_clip_spec, tmp_path):
    recipe = resolve(flags={"domain": "toy-labels", "backbone": small_clip_spec})
    with pytest.raises(CapabilityError, match="--parts: no sample here has parts"):
        embed(recipe, tmp_path / "parts.npz", parts=True)
    assert not list(tmp_path.glob("*.npz"))


def test_patches_are_stored_by_an_option_and_a_method_that_needs_them_encodes_nothing(
    stored, small_clip_spec, tmp_path
):
    recipe = resolve(flags={"domain": "toy-motion", "backbone": small_clip_spec})
    first, again = (embed(recipe, tmp_path / "a.safetensors", patch_tokens=True) for _ in range(2))
    assert first.patches_stored == first.images == 80 and again.patches_stored == 0
    result = fit(small_clip_spec, {"name": "pllava-pool", "epochs": 2}, out=str(tmp_path / "runs"))
    info = json.loads((Path(result.run) / "run.json").read_text())
    assert info["encoded_images"] == 0 and result.metrics["part_order"]["orders"] == 5
    assert vladapt.evaluate(result.run)["adapted"] == result.metrics["adapted"]
    assert len(vladapt.predict(result.run, ["left-100", "right-100"]).rows()) == 2


def test_towers_whose_features_are_not_kept_give_parts_too(small_clip_spec, stored):
    from vladapt.core.features.store import FeatureStore

    data = prepared(small_clip_spec)
    afresh = replace(data, store=FeatureStore(keep=False)).of_ids(data.test.ids, parts=True)
    torch.testing.assert_close(afresh.features, data.test.features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(afresh.parts, data.test_set(parts=True).parts, rtol=1e-4, atol=1e-5)


def test_shards_of_clips_have_the_answers_of_predict(fitted, stored, tmp_path):
    names = [f"{way}-{number}" for number in range(3) for way in ("left", "right")] + ["still-3"]
    plain = vladapt.predict(fitted.run, names, device="cpu")
    how = {"outputs": "parquet", "shard_size": 3, "device": "cpu"}
    made = vladapt.predict(fitted.run, names, out=tmp_path / "answers", **how)
    rows = {row["id"]: row for row in made.rows()}
    assert (made.images, made.shards, len(rows)) == (7, 3, 7)
    for row, probs in zip(plain.rows(), plain.probabilities.tolist()):
        shard = rows[row["id"]]
        assert shard["label"] == row["label"] and shard.get("decided by") == row.get("decided by")
        assert [shard["moving left"], shard["moving right"]] == pytest.approx(probs, abs=1e-5)  # rounding


def test_a_wrong_option_of_a_third_party_method_is_one_line(small_clip_spec):
    with pytest.raises(ConfigError, match="ridge=-1"):
        fit(small_clip_spec, {"name": "order-of-parts", "ridge": -1})
