"""Patches of one superpixel are drawn into one group."""

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.registry import MODELS


@pytest.fixture
def loss():
    return MODELS.build({"type": "vladapt.SuperpixelKL"})


def test_two_patches_by_hand(loss):
    assignment = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # two groups, two patches, each in its own
    own = torch.tensor([1.0, 0.0]).softmax(dim=0)
    mean = torch.tensor([0.5, 0.5]).softmax(dim=0)
    both = (own * (own / mean).log()).sum() + (mean * (mean / own).log()).sum()
    expected = 2 * both / 4 / 2  # two patches; four entries; the mean of two directions
    torch.testing.assert_close(loss(assignment, torch.tensor([[7, 7]])), expected)


def test_a_superpixel_whose_patches_agree_costs_nothing(loss):
    assignment = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]])
    assert loss(assignment, torch.tensor([[0, 0, 1, 1]])).abs() < 1e-7
    assert loss(assignment, torch.tensor([[0, 1, 0, 1]])) > 1e-3


def test_each_patch_apart_costs_nothing(loss):
    assignment = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert loss(assignment, torch.arange(5).expand(2, -1)).abs() < 1e-7


def test_labels_of_different_images_have_nothing_to_do_with_each_other(loss):
    assignment = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    apart = sum(loss(assignment[[i]], labels[[i]]) for i in range(2)) / 2
    torch.testing.assert_close(loss(assignment, labels), apart)
    torch.testing.assert_close(loss(assignment, labels + torch.tensor([[5], [90]])), apart)


def test_descent_makes_patches_of_a_superpixel_agree(loss):
    logits = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[0, 0, 0, 1, 1, 1]])
    before = logits.detach().softmax(dim=1)[:, :, :3].var(dim=2).sum()
    for _ in range(100):
        (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
        logits = (logits - 10 * gradient).detach().requires_grad_()
    assert logits.detach().softmax(dim=1)[:, :, :3].var(dim=2).sum() < 0.1 * before
