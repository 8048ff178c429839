"""BoT's loss against a transcription of its parts, and the neck against torch's own batch normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vladapt import build_loss
from vladapt.core.errors import CapabilityError
from vladapt.core.training.schedules import epoch_step_rates
from vladapt.domains.person.losses.bot import hard_triplets

WIDTH, PEOPLE = 6, 4


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(8, WIDTH, generator=generator) + 1
    return {"image_embedding": features.requires_grad_(), "labels": torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])}


def loss_of(**options):
    torch.manual_seed(1)
    loss = build_loss("bot", {"embed_dim": WIDTH, "num_labels": PEOPLE}, **options)
    nn.init.normal_(loss.classifier.weight)
    return loss.train()


def test_parts_are_those_of_the_released_code(batch):
    loss = loss_of()
    values, (features, labels) = loss(batch), batch.values()
    norm = nn.BatchNorm1d(WIDTH)
    logged = nn.functional.log_softmax(loss.classifier(norm(features)), dim=1)
    targets = 0.9 * nn.functional.one_hot(labels, PEOPLE) + 0.1 / PEOPLE
    torch.testing.assert_close(values["identity"], (-targets * logged).mean(dim=0).sum())
    triplets = []
    for anchor in range(8):
        gaps = [float((features[anchor].detach() - other).norm()) for other in features.detach()]
        farthest = max(gap for gap, label in zip(gaps, labels) if label == labels[anchor])
        nearest = min(gap for gap, label in zip(gaps, labels) if label != labels[anchor])
        triplets.append(max(0.0, 0.3 + farthest - nearest))
    assert values["triplet"].item() == pytest.approx(sum(triplets) / 8, rel=1e-4)
    centers = [float((row - loss.centers[label]).square().sum()) for row, label in zip(features, labels)]
    assert float(values["center"]) == pytest.approx(sum(centers) / 8, rel=1e-5)
    whole = values["identity"] + values["triplet"] + 5e-4 * values["center"]
    torch.testing.assert_close(values["loss"], whole)
    alone = loss_of(triplet_weight=0, center_weight=0)(batch)
    torch.testing.assert_close(alone["loss"], alone["identity"])


def test_centers_take_the_published_step_of_their_own(batch):
    loss = loss_of(center_rate=0.5)
    centers = loss.centers.clone().requires_grad_()
    (batch["image_embedding"].detach() - centers[batch["labels"]]).square().sum(dim=1).mean().backward()
    loss(batch)
    before = loss.centers.clone()
    loss.after_step(None)
    torch.testing.assert_close(loss.centers, before - 0.5 * centers.grad)
    loss.after_step(None)  # nothing noted since
    torch.testing.assert_close(loss.centers, before - 0.5 * centers.grad)


def test_the_neck_is_batch_normalisation_without_bias(batch):
    loss, norm = loss_of(momentum=0.3), nn.BatchNorm1d(WIDTH, momentum=0.3)
    features = batch["image_embedding"].detach()
    for step in range(3):
        loss({**batch, "image_embedding": features + step})
        kept = loss.neck.mean.clone()
        loss.after_step(None)
        normed = norm(features + step)
        torch.testing.assert_close(loss.neck.of_batch(features + step)[0], normed)
        assert not torch.equal(loss.neck.mean, kept)  # and not before the step was taken
    norm.eval()
    torch.testing.assert_close(loss.neck(features), norm(features))
    assert "bias" not in dict(loss.neck.named_parameters())


def test_pictures_are_found_behind_the_neck_and_words_are_not(small_clip):
    torch.manual_seed(1)
    loss = build_loss("bot", {"embed_dim": small_clip.embed_dim, "num_labels": PEOPLE})
    torch.nn.init.uniform_(loss.neck.mean)
    pixels = torch.randn(2, 3, small_clip.image_size, small_clip.image_size)
    features = small_clip.encode_image(pixels, normalize=False)
    found = loss.embed_image(small_clip, pixels)
    torch.testing.assert_close(found, nn.functional.normalize(loss.neck(features), dim=1))
    assert loss.found_dim == small_clip.embed_dim
    with pytest.raises(CapabilityError, match="find people by pictures, not by words"):
        loss.embed_text(small_clip, small_clip.tokenize(["a man"]))


@pytest.mark.parametrize("margin", [0.3, None])
def test_triplets_of_equal_features_and_of_one_person(margin):
    same = torch.ones(4, 3, requires_grad=True)
    value = hard_triplets(same, torch.tensor([0, 0, 1, 1]), margin)
    value.backward()
    assert float(value) == pytest.approx(0.3 if margin else 0.6931, abs=1e-3) and torch.isfinite(same.grad).all()
    alone = torch.randn(3, 2, requires_grad=True)
    hard_triplets(alone, torch.zeros(3), margin).backward()
    assert not alone.grad.any()


def test_the_published_rates():
    rates = epoch_step_rates(1.0, 120, warmup_epochs=10, warmup_lr=0.01, milestones=(40, 70), factor=0.1)
    assert rates[0] == pytest.approx(0.01 * 0.9 + 0.1) and rates[8] == pytest.approx(0.01 * 0.1 + 0.9)
    assert rates[9] == rates[38] == 1.0
    assert rates[39] == pytest.approx(0.1) and rates[68] == pytest.approx(0.1) and rates[69] == pytest.approx(0.01)
    assert len(rates) == 120 and epoch_step_rates(2.0, 2, warmup_epochs=0, warmup_lr=0, milestones=(), factor=1) == [
        2,
        2,
    ]
