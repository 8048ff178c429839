"""Weights between those of two models, weighted by their Fisher information where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import Backbone, TrainingImages
from ...core.training import image_features

ALPHAS = tuple(step / 10 for step in range(11))
DEFAULT_ALPHA = 0.5
HEAD = "head."
FLOOR = 1e-8
"""Least Fisher information of a weight, as published."""

Weights = dict[str, Tensor]


def interpolated(start: Weights, end: Weights, alpha: float, fishers: tuple[Weights, Weights] | None = None) -> Weights:
    """(1 - alpha) start + alpha end of every weight; with Fisher information F0 of the start and F1 of the end

        ((1 - alpha) F0 start + alpha F1 end) / ((1 - alpha) F0 + alpha F1)

    where a weight that has none counts as 1, and 1e-8 is the least.
    """
    if fishers is None:
        return {name: (1 - alpha) * value + alpha * end[name] for name, value in start.items()}
    made = {}
    for name, value in start.items():
        ones = torch.ones_like(value)
        of_start, of_end = (fisher.get(name, ones).clamp(min=FLOOR) for fisher in fishers)
        of_start, of_end = (1 - alpha) * of_start, alpha * of_end
        made[name] = (of_start * value + of_end * end[name]) / (of_start + of_end)
    return made


def best_interpolation(score: Callable[[float], float]) -> tuple[float, float]:
    """The alpha of the best score, and that score; of several the one nearest to 0.5, then the smaller."""
    scores = {alpha: score(alpha) for alpha in ALPHAS}
    best = min(ALPHAS, key=lambda alpha: (-scores[alpha], abs(alpha - DEFAULT_ALPHA)))
    return best, scores[best]


def drawn_labels(logits: Tensor, several: bool, generator: torch.Generator) -> Tensor:
    """Labels as the model itself would give them, by chance: (N,) classes, or (N, C) of 0 and 1."""
    if several:
        return torch.bernoulli(logits.detach().sigmoid().cpu(), generator=generator).to(logits.device)
    shares = logits.detach().softmax(dim=1).cpu()
    return torch.multinomial(shares, 1, generator=generator).flatten().to(logits.device)


def trained_parts(backbone: Backbone, head: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the image tower under their own names, those of the head behind "head."."""
    towers = {name: p for name, p in backbone.model.named_parameters() if backbone.tower_of(name) == "image"}
    return {**towers, **{HEAD + name: parameter for name, parameter in head.named_parameters()}}


def fisher_information(
    backbone: Backbone, head: nn.Module, images: TrainingImages, passes: int, seed: int, several: bool
) -> Weights:
    """Diagonal Fisher information of `trained_parts`: the mean squared gradient of one image's loss, its label drawn
    from the model. Weights that no gradient reaches are left out.

    Args:
        backbone, head: in eval mode; their weights stay.
        images: seen without augmentation.
        passes: over all images, each with labels drawn anew.
        several: whether an image has several labels.
    """
    parts = trained_parts(backbone, head)
    generator = torch.Generator().manual_seed(seed)
    sums: Weights = {}
    with training(parts.values()):
        for item in [item for _ in range(passes) for item in images.items]:
            pixels = images.eval_transform(images.load(item)).unsqueeze(0).to(backbone.device)
            logits = head(image_features(backbone, pixels))
            loss = _loss(logits, drawn_labels(logits, several, generator))
            gradients = torch.autograd.grad(loss, list(parts.values()), allow_unused=True)
            for name, gradient in zip(parts, gradients):
                if gradient is not None:
                    sums[name] = sums.get(name, 0) + gradient.square()
    return {name: total / (passes * len(images.items)) for name, total in sums.items()}


@contextmanager
def training(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, gradients reach these parameters."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    for parameter, _ in before:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels) if labels.ndim == 1 else F.binary_cross_entropy_with_logits(logits, labels)
