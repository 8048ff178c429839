"""Attacks on images: what they reach, within which ball, and that they tell what fools and what does not."""

from __future__ import annotations

import pytest
import torch
from parity_checks import attacks
from torch.nn.functional import cross_entropy as mean_cross_entropy

from vladapt.core.robustness.apgd import apgd, cross_entropy, dlr, fooled_by_apgd, log_odds_against, targeted_dlr
from vladapt.core.robustness.pgd import drawn_offsets, each_norm, pgd

EPS = 4 / 255


def linear(classes=6, seed=0):
    """Images (12, 3, 4, 4), the weights of a linear classifier, and labels that it gives them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 3, 4, 4, generator=generator)
    weights = torch.randn(48, classes, generator=generator)
    return images, weights, (images.flatten(1) @ weights).argmax(dim=1)


def logits_by(weights):
    return lambda images: images.flatten(1) @ weights


@pytest.mark.parametrize("comparison", attacks.GROUPS, ids=lambda each: each.method)
def test_it_agrees_with_the_released_code(comparison, agrees):
    agrees(comparison)


def test_of_a_linear_loss_pgd_reaches_the_corner_of_the_ball():
    images = torch.full((2, 3, 4, 4), 0.5)
    slope = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    how = {"eps": EPS, "step": 1 / 255, "start": torch.zeros_like(images)}
    made = pgd(lambda at: (at * slope).flatten(1).sum(1), images, steps=5, **how)
    assert torch.allclose(made - images, EPS * slope.sign().expand_as(images), atol=1e-6)
    short = pgd(lambda at: (at * slope).flatten(1).sum(1), images, steps=2, **how)
    assert torch.allclose((short - images).abs().amax(), torch.tensor(2 / 255), atol=1e-6)
    made = pgd(
        lambda at: (at * slope).flatten(1).sum(1), images, steps=9, norm="l2", **{**how, "eps": 0.1, "step": 0.05}
    )
    assert torch.allclose(made - images, 0.1 * slope.expand_as(images) / slope.norm(), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_stay_in_the_ball_and_in_range(norm):
    images, weights, labels = linear()
    images[0], images[1] = 0, 1
    start = EPS * drawn_offsets(images, 0)
    how = {"eps": EPS, "step": EPS, "steps": 7, "start": start, "norm": norm}
    made = pgd(lambda at: cross_entropy(logits_by(weights)(at), labels), images, **how)
    assert made.min() >= 0 and made.max() <= 1
    size = (made - images).abs().amax() if norm == "linf" else each_norm(made - images).amax()
    assert 0 < size <= EPS + 1e-6


def test_a_start_outside_the_ball_is_cut_to_it_before_the_first_gradient():
    images, seen = linear()[0], []

    def loss(at):
        seen.append(at.detach())
        return at.flatten(1).sum(1)

    how = {"eps": 0.2, "step": 0.01, "steps": 1, "norm": "l2"}
    pgd(loss, images, start=0.2 * drawn_offsets(images, 0), **how)
    assert torch.allclose(each_norm(seen[0] - images), torch.tensor(0.2), atol=1e-5)


def test_momentum_changes_where_it_goes_and_no_gradient_is_left():
    """Where a change has a length: a sign twice follows the last gradient alone."""
    images, bent = linear()[0], torch.nn.Parameter(torch.tensor(300.0))

    def loss(at):
        return torch.sin(bent * at).flatten(1).sum(1)  # its slope changes sign within a step or two

    how = {"eps": 0.1, "step": 0.02, "steps": 6, "start": EPS * drawn_offsets(images, 0)}
    paths = [pgd(loss, images, norm=norm, momentum=each, **how) for norm in ("l2", "linf") for each in (0.9, 0.0)]
    assert not torch.allclose(paths[0], paths[1], atol=1e-4) and torch.equal(paths[2], paths[3])
    assert bent.grad is None


def test_drawn_offsets_are_of_the_seed_and_the_pixels_alone():
    images = linear()[0]
    offsets = drawn_offsets(images, 3)
    assert torch.equal(offsets[4], drawn_offsets(images[4:5], 3)[0])
    assert not torch.equal(offsets, drawn_offsets(images, 4)) and not torch.equal(offsets[0], offsets[1])
    assert offsets.abs().max() <= 1 and offsets.abs().mean() == pytest.approx(0.5, abs=0.05)


def test_apgd_keeps_the_highest_loss_and_says_what_was_fooled():
    images, weights, labels = linear()
    done = apgd(logits_by(weights), images, labels, eps=EPS, steps=20)
    reached = cross_entropy(logits_by(weights)(done.images), labels)
    assert torch.allclose(reached, done.losses, atol=1e-5)
    assert (reached >= cross_entropy(logits_by(weights)(images), labels)).all()
    assert (done.images - images).abs().amax() <= EPS + 1e-6 and done.images.min() >= 0 and done.images.max() <= 1
    other = apgd(logits_by(weights), images, (labels + 1) % 6, eps=EPS, steps=2)
    assert other.fooled.all()  # the image as it is has the wrong answer


def can_be_fooled(weights, images, labels, eps):
    """Which images a linear classifier can be fooled on within the ball: by the closest other class."""
    logits = images.flatten(1) @ weights
    fooled = torch.zeros(len(images), dtype=torch.bool)
    for other in range(weights.shape[1]):
        slope = weights[:, other] - weights[:, labels].T  # (n, D)
        room = torch.where(slope > 0, (1 - images.flatten(1)).clamp(max=eps), -images.flatten(1).clamp(max=eps))
        gap = logits[:, other] - logits.gather(1, labels[:, None])[:, 0]
        fooled |= (gap + (slope * room).sum(1) > 1e-4) & (other != labels)
    return fooled


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_of_a_linear_classifier_it_finds_every_image_that_can_be_fooled(classes):
    images, weights, labels = linear(classes, seed=classes)
    weights = 30 * weights  # the softmax is saturated: its gradient vanishes on images that are far from the border
    reach = {
        eps: can_be_fooled(weights, images, labels, eps) for eps in (0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.14, 0.16)
    }
    eps, expected = next((eps, of) for eps, of in reach.items() if 0 < of.sum() < len(images))
    fooled = fooled_by_apgd(logits_by(weights), images, labels, eps=eps, start=drawn_offsets(images, 0), steps=20)
    assert torch.equal(fooled, expected)


def test_log_odds_grow_as_cross_entropy_does_and_do_not_vanish():
    images, weights, labels = linear()
    logits = logits_by(weights)(images)
    assert torch.allclose(
        torch.nn.functional.softplus(log_odds_against(logits, labels)), cross_entropy(logits, labels), atol=1e-5
    )
    for loss, scale, vanishes in (
        (cross_entropy, 1, False),
        (cross_entropy, 300, True),
        (log_odds_against, 300, False),
    ):
        at = images.clone().requires_grad_()
        loss(scale * logits_by(weights)(at), labels).sum().backward()
        assert bool((at.grad.flatten(1).abs().amax(dim=1) == 0).any()) == vanishes


def test_the_ratio_does_not_change_with_the_scale_of_logits():
    images, weights, labels = linear()
    logits = logits_by(weights)(images)
    targets = logits.argsort(dim=1, descending=True)[:, 1]
    for loss in (dlr, targeted_dlr(targets)):
        assert torch.allclose(loss(logits, labels), loss(7 * logits, labels), atol=1e-5)
        assert (loss(logits, labels) < 0).all()  # right answers
    assert (dlr(logits, targets) > 0).all()
    assert mean_cross_entropy(logits, labels) == pytest.approx(cross_entropy(logits, labels).mean())
