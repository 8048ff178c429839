"""A few images per class that a stream has seen: those of lowest entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY = torch.finfo(torch.float32).max
"""The entropy of an empty slot, larger than any."""


@dataclass(frozen=True)
class SlotMemory:
    """S slots per class, the surest image first, all changed in place.

    Args:
        features: (C, S, D), zero where a slot is empty.
        entropy: (C, S), `EMPTY` where a slot is empty.
        marks: (C, S, K) what else is kept of an image, or None.
    """

    features: Tensor
    entropy: Tensor
    marks: Tensor | None = None

    def offer(self, label: int, entropy: Tensor, feature: Tensor, mark: Tensor | None = None) -> None:
        """Keep an image where its class has an empty slot, or in place of the least sure one if it is surer.

        Args:
            label: the class that it seems to be of.
            entropy: () of its predictions.
            feature: (D,).
            mark: (K,).
        """
        row = self.entropy[label]  # (S,)
        if not entropy < row[-1]:
            return
        row[-1] = entropy
        order = row.argsort(stable=True)  # of equally sure images the one that came first stays first
        for tensor, value in ((self.features, feature), (self.marks, mark)):
            if tensor is not None:
                tensor[label, -1] = value
                tensor[label] = tensor[label, order]
        self.entropy[label] = row[order]

    @property
    def filled(self) -> Tensor:
        """(C, S) bool."""
        return self.entropy < EMPTY


def empty_memory(classes: int, slots: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Features (C, S, D) and entropies (C, S) of empty slots, for rows like `like` (N, D)."""
    features = like.new_zeros(classes, slots, like.shape[1])
    return features, torch.full((classes, slots), EMPTY, device=like.device)


def entropy_of(log_probabilities: Tensor) -> Tensor:
    """(...,) entropies in nats of log-probabilities (..., C)."""
    return -(log_probabilities.exp() * log_probabilities.clamp_min(torch.finfo(log_probabilities.dtype).min)).sum(
        dim=-1
    )


def surest(entropies: Tensor, share: float) -> Tensor:
    """Indices of the lowest of V entropies, lowest first: that share of them, and one at least."""
    return entropies.argsort(stable=True)[: max(1, int(len(entropies) * share))]
