"""GIST: which texts an image is paired with, a training written out, and the linear probe behind it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from trained_towers import moved

from vladapt import Batch, CapabilityError, ConfigError, FeatureSet, build_adapter
from vladapt.adapters.weights.gist import matched_texts, trained_probe
from vladapt.core.metrics import val_score
from vladapt.core.training.batches import epoch_order

TEXTS = (
    ("it is bright", "a dark and noisy patch", "small", "it has corners"),
    ("soft", "nothing but colour", "a flat tile"),
    ("one more kind",),
)
PUBLISHED = {"batch_size": 20, "lr": 1e-6, "weight_decay": 1e-3, "texts_per_image": 4, "epochs": None}
OF_PROBE = {"probe_epochs": 1000, "probe_lr": 0.5, "probe_batch_size": 64}


@pytest.fixture(scope="module")
def problem(make_problem):
    """Nine images without augmentation."""
    made = make_problem(shots=[4, 3, 2])
    plain = made.images.eval_transform
    return replace(made, images=replace(made.images, train_transform=lambda decoded, seed: plain(decoded)))


@pytest.fixture(scope="module")
def fitted(problem):
    """Nine images, two texts each where there are two: 16 pairs, in batches of 5 and a last one of 1."""
    adapter = build_adapter("gist", epochs=2, batch_size=5, lr=1e-3, texts_per_image=2, probe_epochs=7)
    adapter.report = problem.fit(adapter, seed=5, attributes=TEXTS)
    return adapter


def test_the_published_settings_are_the_defaults():
    adapter = build_adapter("gist")
    assert adapter.options.items() >= {**PUBLISHED, **OF_PROBE}.items()
    assert adapter.default_epochs == 40 and adapter.crops.published_crop == (0.08, 1.0)


def test_an_image_gets_the_nearest_texts_of_its_own_class(problem, small_clip):
    found = matched_texts(problem.support, TEXTS, small_clip, 2)
    for label, unit, texts in zip(problem.support.labels.tolist(), problem.support.unit, found):
        cosines = {text: float(small_clip.encode_text([text])[0] @ unit) for text in TEXTS[label]}
        assert texts == sorted(TEXTS[label], key=lambda text: -cosines[text])[:2]
    assert len({tuple(texts) for texts in found[:4]}) > 1 or len({tuple(texts) for texts in found[4:7]}) > 1


def test_the_training_is_the_loop_written_out(problem, fitted, small_clip):
    """Adam over all weights, with decay in the gradient, on the contrastive loss of the pairs of a batch."""
    pairs = [
        (row, f"colour {label}: {text}")
        for row, label in enumerate(problem.support.labels.tolist())
        for text in matched_texts(problem.support, TEXTS, small_clip, 2)[row]
    ]
    assert len(pairs) == 16
    towers, pixels = copy.deepcopy(small_clip), problem.pixels()
    parameters = [p.requires_grad_(True) for p in towers.model.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-3)
    losses = []
    for epoch in range(2):
        for rows in epoch_order(16, epoch, 5).split(5):
            image = towers.encode_image(pixels[[pairs[row][0] for row in rows]])
            text = towers.encode_text([pairs[row][1] for row in rows])
            scores, same = towers.logit_scale * image @ text.T, torch.arange(len(rows))
            loss = (F.cross_entropy(scores, same) + F.cross_entropy(scores.T, same)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    made = fitted.adapted(small_clip).model.state_dict()
    for name, value in towers.model.state_dict().items():
        torch.testing.assert_close(made[name], value, atol=2e-4, rtol=1e-3)
    assert fitted.report.chosen["steps"] == 8 and losses[3] == 0
    assert {"logit_scale", "visual.conv1.weight", "text_projection", "visual.ln_pre.bias"} <= moved(fitted, small_clip)


@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_the_probe_is_of_the_tuned_features_as_they_are(problem, fitted, small_clip, class_weight):
    """Classes have 4, 3 and 2 images: balanced, their log shares are added while it trains."""
    counts = problem.support.labels.bincount()
    shares = (counts / 9).log() if class_weight == "balanced" else torch.zeros(3)
    if class_weight == "none":
        fitted = build_adapter("gist", **{**fitted.options, "class_weight": class_weight})
        fitted.report = problem.fit(fitted, seed=5, attributes=TEXTS)
    towers = fitted.adapted(small_clip)
    val = torch.stack([problem.images.eval_transform(problem.images.load(item)) for item in problem.images.val])
    with torch.no_grad():
        seen = towers.encode_image(problem.pixels(), normalize=False)
        others = towers.encode_image(val, normalize=False)
    of_val = torch.tensor([item.class_label() for item in problem.images.val])
    torch.manual_seed(5)
    probe = torch.nn.Linear(seen.shape[1], 3)
    optimizer, kept, best = torch.optim.SGD(probe.parameters(), lr=0.5), None, -1
    for _ in range(7):  # nine images are one batch of the probe
        optimizer.zero_grad()
        F.cross_entropy(probe(seen) + shares, problem.support.labels).backward()
        optimizer.step()
        score = float((probe(others).argmax(1) == of_val).double().mean())
        if score >= best:
            best, kept = score, copy.deepcopy(probe)
    with torch.no_grad():
        torch.testing.assert_close(fitted.logits(Batch(pixels=val)), kept(others), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(fitted.logits(others), kept(others), atol=1e-3, rtol=1e-3)
    assert fitted.report.val_score == best and fitted.report.chosen_on == "val (6 images)"


def test_of_equal_epochs_of_the_probe_the_last_is_kept_and_without_val_the_last_of_all():
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    seen = FeatureSet(features, torch.arange(8) % 2)
    easy = FeatureSet(features[:1], torch.tensor([0]))
    how = {"lr": 0.5, "batch_size": 3, "seed": 1}
    long = trained_probe(seen, 2, epochs=30, **how)
    kept = trained_probe(seen, 2, epochs=30, score=lambda probe: val_score(probe(easy.features), easy.labels), **how)
    assert long[2:] == (30, None) and kept[2:] == (30, 1.0)
    assert torch.equal(kept[0], long[0])


def test_what_it_cannot_learn_is_refused_in_one_line(problem, small_clip, toy_pairs):
    with pytest.raises(ConfigError, match="name the classes"):
        nameless = replace(problem.classifier, class_names=())
        support = replace(problem.support, class_names=())
        given = {"images": problem.images, "attributes": TEXTS}
        build_adapter("gist").fit(support, nameless, backbone=small_clip, resources=given)
    with pytest.raises(CapabilityError, match="pairs already have texts; use full"):
        build_adapter("gist").fit_pairs(toy_pairs(), small_clip)
    with pytest.raises(CapabilityError, match="sentences that describe each class"):
        problem.fit(build_adapter("gist"))
