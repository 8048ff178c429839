"""Projected gradient descent: images changed a little, within a ball around each, so that a loss grows.

"Towards Deep Learning Models Resistant to Adversarial Attacks", Madry et al., 2017, arXiv 1706.06083, with momentum on
the direction as the code of Robust CLIP has it ("Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings
for Robust Large Vision-Language Models", 2024, arXiv 2402.12336):

    v <- d(momentum v + d(gradient)),    offset <- P(offset + step v)

where d is the sign, or the division by the Euclidean norm, and P cuts the offset to the ball and the image to 0..1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

NORMS = ("linf", "l2")
MOMENTUM = 0.9
TINY = 1e-12
LEVELS = 255
"""Changes of a pixel are stated in so many parts of its range."""


def pgd(
    loss_of: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Tensor,
    norm: str = "linf",
    momentum: float = MOMENTUM,
) -> Tensor:
    """The attacked images; nothing waits for the device.

    Args:
        loss_of: images -> losses (B,), or their sum, that are to grow.
        images: (B, ..., H, W) in 0..1.
        eps: radius of the ball, of `norm`.
        step: length of a step.
        start: offset that it begins with, as large as `images`; cut to the ball.
        norm: "linf" or "l2".
    """
    offset, velocity = _within(start, eps, norm), torch.zeros_like(images)
    for _ in range(steps):
        _, gradient = ascent(loss_of, images + offset)
        velocity = _direction(momentum * velocity + _direction(gradient, norm), norm)
        offset = _within(offset + step * velocity, eps, norm)
        offset = (images + offset).clamp(0, 1) - images
    return images + offset


def ascent(loss_of: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of images, detached, and the gradient of their sum by the images, under `no_grad` too."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        losses = loss_of(images)
        (gradient,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach(), gradient


def drawn_offsets(images: Tensor, seed: int) -> Tensor:
    """Uniform in -1..1, as large as the images (B, ...); each image's is a function of the seed and its pixels."""
    made = []
    for image in images.cpu():
        digest = hashlib.blake2b(f"{seed} {tuple(image.shape)}".encode(), digest_size=7)
        digest.update(image.contiguous().numpy().tobytes())
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "big"))
        made.append(2 * torch.rand(image.shape, generator=generator) - 1)
    return torch.stack(made).to(images) if made else torch.empty_like(images)


def _direction(gradient: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    return gradient / each_norm(gradient).clamp(min=TINY)


def _within(offset: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return offset.clamp(-eps, eps)
    return offset * (eps / each_norm(offset).clamp(min=TINY)).clamp(max=1)


def each_norm(offset: Tensor) -> Tensor:
    """The Euclidean norm of each of (B, ...), with as many axes."""
    return offset.flatten(1).norm(dim=1).view(-1, *[1] * (offset.ndim - 1))
