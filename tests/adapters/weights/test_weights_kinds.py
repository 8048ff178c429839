"""Methods that train towers on hard shapes, several labels, files, other backbones, losses and pairs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from trained_towers import ALL, QUICK, fitted, logits, moved

from vladapt import (
    Batch,
    CapabilityError,
    ConfigError,
    DataError,
    UnknownNameError,
    build_adapter,
    load_adapter,
    load_backbone,
)
from vladapt.core.contracts import TrainingPlace
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.training.checkpoints import checkpoints

pytest.importorskip("peft", reason="extra fine-tune is not installed")


# Hard shapes and kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", [{"classes": 2, "shots": 1}, {"shots": [1, 7, 2]}, {"shots": [4, 0, 4]}], ids=str)
def test_hard_shapes(make_problem, name, case):
    problem = make_problem(**case)
    adapter = fitted(problem, name)
    found = logits(adapter, problem)
    assert found.shape == (len(problem.images.val), len(problem.classifier)) and torch.isfinite(found).all()


@pytest.mark.thorough(but=("lit",))
@pytest.mark.parametrize("name", ALL)
def test_a_thousand_classes(make_problem, name):
    problem = make_problem(classes=1000, shots=1, val=0)
    adapter = build_adapter(name, epochs=1, batch_size=500)
    report = problem.fit(adapter)
    assert report.chosen["steps"] == 2 and adapter.weights.shape == (1000, 24)


@pytest.mark.parametrize("name", ALL)
def test_several_labels_an_image(make_problem, name):
    problem = make_problem(
        shots=6, labels=lambda of: tuple(float(of == c) if c < 2 else float("nan") for c in range(3))
    )
    adapter = build_adapter(name, lr=1e-2, epochs=10)
    report = problem.fit(adapter)
    assert "binary-cross-entropy" in report.history[0]
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    found = adapter.predict(Batch(pixels=problem.pixels(problem.images.val)))
    assert found.shape == (6, 3) and found.min() >= 0 and found.max() <= 1
    with pytest.raises(CapabilityError, match="other classes only where an image has one label"):
        adapter.for_classes(problem.backbone, ["a", "b"])


@pytest.mark.parametrize("name", ALL)
def test_the_seed_fixes_everything(make_problem, name):
    problem = make_problem()
    one, again, other = (fitted(problem, name, seed=seed, batch_size=4) for seed in (3, 3, 4))
    assert torch.equal(logits(one, problem), logits(again, problem))
    assert one.adapted(problem.backbone).fingerprint == again.adapted(problem.backbone).fingerprint
    assert not torch.equal(logits(one, problem), logits(other, problem))


# Pixels, features, files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_pixels_and_features_of_the_adapted_towers_agree(make_problem, name):
    problem = make_problem()
    adapter = fitted(problem, name)
    pixels = problem.pixels()
    features = adapter.adapted(problem.backbone).encode_image(pixels, normalize=False)
    torch.testing.assert_close(adapter.logits(Batch(pixels=pixels)), adapter.logits(features), atol=1e-4, rtol=1e-5)
    if name != "lit":
        assert not torch.allclose(adapter.logits(features), adapter.logits(problem.support.features), atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_a_file_gives_the_same_towers(make_problem, small_clip_spec, name, tmp_path):
    problem = make_problem()
    adapter = fitted(problem, name)
    header, tensors = read_adapter_file(adapter.save(tmp_path / "a.safetensors"))
    changed = {key.removeprefix("changed/") for key in tensors if key.startswith("changed/")}
    if name == "lora":
        assert all(key.endswith((".lora_A", ".lora_B")) for key in changed)
        assert sum(tensors[f"changed/{key}"].numel() for key in changed) == 3 * 3 * 2 * 2 * 32
    else:
        assert changed == moved(adapter, problem.backbone)
    again = load_adapter(tmp_path / "a.safetensors", fresh := load_backbone(small_clip_spec, device="cpu"))
    with pytest.raises(CapabilityError, match=r"call adapted\(backbone\) first"):
        again.logits(Batch(pixels=problem.pixels()))
    state = torch.random.get_rng_state()
    assert again.adapted(fresh).fingerprint == adapter.adapted(problem.backbone).fingerprint
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(logits(again, problem), logits(adapter, problem))
    assert again.options == adapter.options and header["adapter"] == name


def test_another_backbone_is_refused(make_problem, tmp_path):
    problem = make_problem()
    adapter = fitted(problem, "full")
    other = copy.deepcopy(problem.backbone)
    other.fingerprint = "another"
    with pytest.raises(CapabilityError, match="not the one that adapter 'full' was fitted on"):
        adapter.adapted(other)
    with pytest.raises(CapabilityError, match="not fitted"):
        build_adapter("full").adapted(problem.backbone)


def test_a_file_of_other_weights_is_refused(make_problem):
    problem = make_problem()
    adapter = fitted(problem, "full")
    adapter._made, adapter.changed = None, {"visual.proj": torch.zeros(2, 2)}
    with pytest.raises(DataError, match=r"no weight 'visual.proj' of shape \(2, 2\)"):
        adapter.adapted(problem.backbone)


def test_other_classes_are_named_by_the_same_templates(make_problem):
    problem = make_problem()
    for name, some in (("full", 3), ("lora", 1)):
        adapter = fitted(problem, name)
        other = adapter.for_classes(problem.backbone, ["colour 1", "colour 9"])
        torch.testing.assert_close(other.weights[0], adapter.weights[1], atol=1e-5, rtol=1e-4)
        text = adapter.adapted(problem.backbone).encode_text(
            ["a colour 9 square.", "a picture of colour 9.", "colour 9"][:some]
        )
        torch.testing.assert_close(other.weights[1], F.normalize(text.mean(dim=0), dim=-1), atol=1e-5, rtol=1e-4)
        assert other.adapted(problem.backbone) is adapter.adapted(problem.backbone)


# Backbones and losses that need more ----------------------------------------------------------------------------------


def test_lora_on_an_image_tower_without_attention_trains_the_text_tower_and_says_so(make_problem, open_clip_resnet):
    backbone = load_backbone(open_clip_resnet, device="cpu")
    problem = make_problem(backbone=backbone)
    report = problem.fit(adapter := build_adapter("lora", lr=1e-2, epochs=1))
    assert any("its image tower has no attention that can be split" in note for note in report.notes)
    assert moved(adapter, backbone) and not any(name.startswith("visual.") for name in moved(adapter, backbone))
    with pytest.raises(CapabilityError, match="no attention that can be split"):
        problem.fit(build_adapter("lora", towers="image", epochs=1))
    report = problem.fit(adapter := build_adapter("full", lr=1e-2, epochs=1))
    assert any("BatchNorm" in note for note in report.notes)
    names = moved(adapter, backbone)
    assert "visual.conv1.weight" in names and not any("running" in name for name in names)


def test_a_learned_prefix_of_texts_is_kept(make_problem, small_clip_spec, tmp_path):
    problem = make_problem()
    adapter = fitted(problem, "full", loss="unicl", loss_options={"unicl": {"n_prefix": 2}})
    assert adapter.prefix.shape == (2, 32)
    adapter.save(tmp_path / "a.safetensors")
    fresh = load_backbone(small_clip_spec, device="cpu")
    again = load_adapter(tmp_path / "a.safetensors", fresh)
    texts = ["a colour 1 square."]
    here, there = (a.adapted(b).encode_text(texts) for a, b in ((adapter, problem.backbone), (again, fresh)))
    assert torch.equal(here, there) and fresh.text_prefix is None
    adapter.adapted(problem.backbone).text_prefix = None
    assert not torch.allclose(here, adapter.adapted(problem.backbone).encode_text(texts), atol=1e-3)


def test_a_stretched_text_tower_is_refused(make_problem):
    with pytest.raises(CapabilityError, match="only `vladapt pretrain` keeps a stretched text tower"):
        fitted(make_problem(), "full", loss="long-clip")


def test_the_base_is_the_teacher_of_losses_that_distil(make_problem):
    problem = make_problem()
    free, held = (
        fitted(problem, "full", loss=loss, epochs=6) for loss in ("cross-entropy", "cross-entropy=0.01,distill=10")
    )
    texts = ["a colour 1 square.", "something else"]
    base = problem.backbone.encode_text(texts)
    drift = [float((a.adapted(problem.backbone).encode_text(texts) - base).norm()) for a in (free, held)]
    assert drift[1] < drift[0]


def test_a_place_keeps_checkpoints_and_a_resume_ends_alike(make_problem, tmp_path):
    problem = make_problem()
    options = {"lr": 2e-3, "epochs": 4, "batch_size": 6, "save_every": 3}

    class Stop(Exception):
        pass

    def stop(done, total, values):
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        problem.fit(build_adapter("full", **options), place=TrainingPlace(tmp_path, on_step=stop))
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step-00000003.pt"]
    said, again = [], build_adapter("full", **options, workers=0)
    problem.fit(again, place=TrainingPlace(tmp_path, resume=True, on_message=said.append))
    assert said[0].startswith("Resumed at step 3 of 8")
    whole = build_adapter("full", **options)
    problem.fit(whole)
    assert torch.equal(logits(again, problem), logits(whole, problem))
    with pytest.raises(DataError, match="from a run with"):
        problem.fit(build_adapter("full", **options, last=1), place=TrainingPlace(tmp_path, resume=True))


# Pairs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_pairs_in_place_of_labels(small_clip, small_clip_spec, toy_pairs, name, tmp_path):
    adapter = build_adapter(name, **{**QUICK[name], "epochs": 6}, batch_size=8)
    report = adapter.fit_pairs(toy_pairs(), small_clip, seed=2)
    assert report.history[-1]["loss"] < report.history[0]["loss"] and "clip" in report.history[0]
    assert moved(adapter, small_clip)
    adapter.save(tmp_path / "a.safetensors")
    fresh = load_backbone(small_clip_spec, device="cpu")
    again = load_adapter(tmp_path / "a.safetensors", fresh)
    assert again.adapted(fresh).fingerprint == adapter.adapted(small_clip).fingerprint
    with pytest.raises(CapabilityError, match="fitted on pairs, which have no classes"):
        again.logits(torch.randn(2, 24))
    with pytest.raises(CapabilityError, match="no val images"):
        build_adapter(name, select="best_val").fit_pairs(toy_pairs(), small_clip)


def test_further_settings_of_the_training_are_known_ones():
    build_adapter("full", training={"optimizer": "adam", "eps": 1e-3, "schedule": "epoch-cosine"}, warmup=2.0)
    with pytest.raises(UnknownNameError, match=r"option training: no setting 'epz'; .*eps"):
        build_adapter("full", training={"epz": 1e-3})
    with pytest.raises(ConfigError, match="optimizer"):
        build_adapter("lora", training={"optimizer": "adan"})


def test_pairs_may_be_validated(small_clip, toy_pairs):
    scores = iter([0.1, 0.5, 0.2])
    adapter = build_adapter("full", epochs=3, lr=1e-3, select="best_val", batch_size=8)
    report = adapter.fit_pairs(toy_pairs(), small_clip, validate=lambda towers: next(scores))
    assert report.chosen["epoch"] == 2 and report.val_score == 0.5
