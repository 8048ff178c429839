"""Attention over the instances of a bag: how much each counts, whatever their order."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """Scores w^T (tanh(V h + a) * sigmoid(U h + b)) + c of instances h, before the softmax over a bag: the gated
    attention of "Attention-based Deep Multiple Instance Learning" (Ilse, Tomczak and Welling 2018, arXiv 1802.04712,
    equation 9); without the gate its equation 8.

    Args:
        width: D. hidden: rows of V and U.
        columns: K, scores of each instance.
        gated: whether there is a sigmoid.
        bias: whether there is a c.
        dropout: of both factors, in a training.
    """

    def __init__(
        self, width: int, hidden: int, columns: int = 1, gated: bool = True, bias: bool = True, dropout: float = 0.0
    ):
        super().__init__()
        self.attend = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden) if gated else None
        self.score = nn.Linear(hidden, columns, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, instances: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, K)."""
        hidden = self.drop(torch.tanh(self.attend(instances)))
        if self.gate is not None:
            hidden = hidden * self.drop(torch.sigmoid(self.gate(instances)))
        return self.score(hidden)
