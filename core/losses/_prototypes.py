"""DINO's head: scores of prototypes, for what is trained by self-distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrototypeHead(nn.Module):
    """An MLP to a bottleneck of unit length, scored by its cosine to each prototype.

    Args:
        width: of the features.
        hidden: of the MLP's hidden layers.
        bottleneck: of the MLP's output.
        prototypes: how many.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """(..., W) -> (..., K).

        Args:
            frozen: give the prototypes a gradient of 0.
        """
        rows = self.prototypes.detach() + 0 * self.prototypes if frozen else self.prototypes
        return F.normalize(self.mlp(features), dim=-1) @ F.normalize(rows, dim=-1).T
