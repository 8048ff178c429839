"""Gradients at weights between those of the start and those of now, added to those of now in each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BetweenWeights:
    """Interpolated weight optimisation of "Open-VCLIP: Transforming CLIP to an Open-vocabulary Video Model via
    Interpolated Weight Optimization" (Weng et al., 2023, arXiv 2302.00624): a step's gradient is

        grad L(now) + ratio * grad L(a * start + (1 - a) * now),  a ~ U(low, high)

    where the second is taken at those weights and, as released, not multiplied by the 1 - a of the chain rule.

    Args:
        start: weights by name, of what the towers had before the training.
        ratio: weight of the second gradient.
        low, high: of how much of the start there is in it.
    """

    start: Mapping[str, Tensor]
    ratio: float
    low: float
    high: float

    @contextmanager
    def moved(self, towers: nn.Module, rng: np.random.Generator) -> Iterator[None]:
        """Inside, the weights that are trained are those between, drawn once."""
        share = rng.uniform(self.low, self.high)
        trained = {n: p for n, p in towers.named_parameters() if p.requires_grad and n in self.start}
        now = {name: parameter.detach().clone() for name, parameter in trained.items()}
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.lerp_(self.start[name].to(parameter), share)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(now[name])
