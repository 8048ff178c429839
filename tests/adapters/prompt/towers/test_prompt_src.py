"""PromptSRC: its teacher, its average over epochs, and its training beside the reference code."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from vladapt import Batch, FeatureSet, Item, build_adapter, build_classifier, load_backbone
from vladapt.core.backbones.prompted import PromptTokens
from vladapt.core.contracts import TrainingImages
from vladapt.core.training import train as training
from vladapt.core.training.epoch_hooks import newest_share

sys.path.insert(0, str(Path(__file__).parent))

from token_towers import fitted


def gaussian(mean, std, epochs):
    weights = np.array([math.exp(-((e - mean) ** 2) / (2 * std**2)) for e in range(1, epochs + 1)])
    return weights / weights.sum()


def shares(mean, std, epochs):
    """What the running average leaves of each epoch at the end."""
    newest = [newest_share(e, mean, std) for e in range(1, epochs + 1)]
    return [share * math.prod(1 - later for later in newest[e + 1 :]) for e, share in enumerate(newest)]


@pytest.mark.parametrize(("mean", "std", "epochs"), [(15, 1, 20), (6, 10, 20), (30, 30, 50), (45, 5, 50)])
def test_the_published_averages(mean, std, epochs):
    assert shares(mean, std, epochs) == pytest.approx(gaussian(mean, std, epochs), abs=1e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (15.0, 1.0)),
        ({"epochs": 4}, (3.0, 0.2)),
        ({"epochs": 50, "gpa_mean": 30}, (30.0, 2.5)),
        ({"gpa_std": 10}, (15.0, 10.0)),
        ({"gpa": False}, None),
    ],
    ids=str,
)
def test_the_average_moves_with_the_epochs(options, expected):
    adapter = build_adapter("prompt-src", **options)
    found = adapter._own_settings(adapter.epochs or adapter.own_epochs).get("epoch_average")
    assert found == (expected if expected is None else pytest.approx(expected))


# The teacher ----------------------------------------------------------------------------------------------------------


def test_the_teacher_reads_the_first_60_of_clips_templates(make_problem, small_clip):
    """With their norms, then made unit."""
    open_clip = pytest.importorskip("open_clip")
    problem = make_problem()
    adapter = build_adapter("prompt-src")
    adapter.class_names_ = problem.classifier.class_names
    with torch.no_grad():
        texts = [[t(name) for t in open_clip.OPENAI_IMAGENET_TEMPLATES[:60]] for name in adapter.class_names_]
        raw = torch.stack([small_clip.encode_text(some, normalize=False).mean(dim=0) for some in texts])
        found = adapter._frozen_classes(small_clip, problem.images)
    torch.testing.assert_close(found, F.normalize(raw, dim=-1), atol=1e-5, rtol=1e-4)
    for chosen in ("own", problem.images.templates):
        adapter.teacher_templates = chosen
        own = F.normalize(problem.classifier.unnormalized, dim=-1)
        torch.testing.assert_close(adapter._frozen_classes(small_clip, problem.images), own, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, own, atol=1e-3)


def test_the_terms_are_told_and_may_be_left_out(make_problem):
    problem = make_problem()
    row = fitted(problem, "prompt-src").report.history[-1]
    regulation = 25 * row["self-regulation.text"] + 10 * row["self-regulation.image"] + row["self-regulation.scores"]
    assert row["self-regulation"] == pytest.approx(regulation, rel=1e-4)
    assert row["loss"] == pytest.approx(row["cross-entropy"] + regulation, rel=1e-4)
    given = fitted(problem, "prompt-src", loss_options={"self-regulation": {"text": 0.0}}).report.history[0]
    assert given["self-regulation"] == pytest.approx(
        10 * given["self-regulation.image"] + given["self-regulation.scores"], rel=1e-4
    )
    assert "self-regulation" not in fitted(problem, "prompt-src", loss="cross-entropy").report.history[0]


def test_it_stays_nearer_to_the_towers_it_came_from(make_problem, deep_clip):
    problem = make_problem(backbone=deep_clip)
    free, held = (
        fitted(problem, "prompt-src", epochs=10, **options) for options in ({"loss": "cross-entropy"}, {"lr": 0.005})
    )
    pixels = problem.pixels(problem.images.val)
    plain = deep_clip.encode_image(pixels)
    drift = [float((a.adapted(deep_clip).encode_image(pixels) - plain).norm()) for a in (free, held)]
    assert drift[1] < drift[0]


# The reference --------------------------------------------------------------------------------------------------------


@pytest.fixture
def reference(parity_dir, monkeypatch):
    """A problem of the fixture's pixels, an adapter that starts from its tokens, and its tensors."""
    told = json.loads((parity_dir / "dev" / "promptsrc.json").read_text())["hyper_parameters"]
    tensors = load_file(parity_dir / "dev" / "promptsrc.safetensors")
    spec = f"open_clip:{parity_dir / 'tiny_clip.json'}@{parity_dir / 'tiny_clip.safetensors'}"
    backbone = load_backbone(spec, device="cpu")
    gpa = told["gpa"]
    adapter = build_adapter(
        "prompt-src", lr=0.05, epochs=gpa["epochs"], batch_size=5, gpa_mean=gpa["mean"], gpa_std=gpa["std"]
    )
    adapter._tokens = lambda backbone: {
        kind: PromptTokens(torch.stack([tensors[f"init__{name}_prompt_{i}"] for i in range(3)]))
        for kind, name in (("image", "vision"), ("text", "text"))
    }
    adapter._frozen_classes = lambda base, images: F.normalize(tensors["teacher_text_raw"], dim=-1)
    rates = told["optimiser"]["lr_per_epoch"]
    monkeypatch.setattr(training, "epoch_rates", lambda settings: [rate / settings.lr for rate in rates])
    return backbone, adapter, tensors, tuple(told["classnames"])


def test_training_agrees_with_the_reference(reference):
    """Four epochs of one step: each loss, the averaged tokens, and the logits they give."""
    backbone, adapter, tensors, names = reference
    items = [Item(f"image-{i}", Path(__file__), {"row": i}, label=int(tensors["labels"][i])) for i in range(5)]
    images = TrainingImages(
        items,
        lambda item: tensors["pixels"][item.decode["row"]].numpy(),
        lambda decoded, seed: torch.from_numpy(decoded),
        torch.from_numpy,
        [["a photo."] for _ in names],
        None,
        ["{}"],
        [],
    )
    classifier = build_classifier(backbone, names, ["a photo of a {}."])
    support = FeatureSet(torch.randn(5, 64), tensors["labels"], names, backbone=backbone.fingerprint)
    report = adapter.fit(support, classifier, backbone=backbone, resources={"images": images}, seed=1)
    close = {"rtol": 2e-4, "atol": 2e-5}
    losses = torch.tensor([row["loss"] for row in report.history])
    torch.testing.assert_close(losses, tensors["losses"], **close)
    assert report.history[0]["cross-entropy"] == pytest.approx(float(tensors["ce"]), rel=2e-4)
    for kind, name in (("image", "vision"), ("text", "text")):
        for block in range(3):
            found = adapter.changed[f"{kind}.tokens"][block]
            torch.testing.assert_close(found, tensors[f"final_gpa__{name}_prompt_{block}"], **close)
            assert not torch.allclose(found, tensors[f"final_last__{name}_prompt_{block}"], **close)
    torch.testing.assert_close(adapter.logits(Batch(pixels=tensors["pixels"])), tensors["logits_gpa"], **close)
    assert shares(3, 1, 4) == pytest.approx(tensors["gpa_weights"].tolist(), rel=1e-4)
