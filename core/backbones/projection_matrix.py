"""The matrix by which an image tower projects its pooled features, and the module that keeps it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ProjectionMatrix:
    """x -> x @ weight + bias, as a parameter of some module.

    Args:
        owner: the module.
        name: of its parameter, kept as (W, D).
        transposed: kept as (D, W), as `nn.Linear` does, whose bias is then added.
    """

    owner: nn.Module
    name: str
    transposed: bool = False

    @classmethod
    def of(cls, linear: nn.Linear) -> ProjectionMatrix:
        """That of a linear layer."""
        return cls(linear, "weight", transposed=True)

    @property
    def weight(self) -> Tensor:
        """(W, D), a copy."""
        kept = getattr(self.owner, self.name).detach()
        return (kept.T if self.transposed else kept).contiguous().clone()

    @property
    def bias(self) -> Tensor | None:
        """(D,), a copy, or None."""
        bias = self.owner.bias if self.transposed else None
        return None if bias is None else bias.detach().clone()

    @torch.no_grad()
    def add(self, change: Tensor) -> None:
        """Add (W, D) to the weight, in place."""
        kept = getattr(self.owner, self.name)
        kept.add_((change.T if self.transposed else change).to(kept))
