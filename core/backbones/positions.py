"""Parts of towers that methods reach for: positions, the projection, a prefix of texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .checkpoints import resize_positions


@dataclass
class ImagePositions:
    """The learned positions of a vision transformer.

    Args:
        patches: gives the patches (B, W, h, w), to which positions are added next.
        owner: holds the table of positions.
        name: of the table in its owner.
        prefix: rows of the table that stand before those of the patches, a square of them.
    """

    patches: nn.Module
    owner: nn.Module
    name: str
    prefix: int

    @property
    def table(self) -> Tensor:
        """(prefix + P, W)."""
        table = getattr(self.owner, self.name)
        return table.reshape(-1, table.shape[-1])

    def resized(self, grid: tuple[int, int]) -> Tensor:
        """(prefix + h * w, W): the table for h by w patches."""
        return resize_positions(self.table, grid, self.prefix)


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
        weight = getattr(self.owner, self.name).detach()
        return (weight.T if self.transposed else weight).contiguous().clone()

    @property
    def bias(self) -> Tensor | None:
        """(D,), a copy, or None."""
        bias = self.owner.bias if self.transposed else None
        return None if bias is None else bias.detach().clone()

    @torch.no_grad()
    def add(self, change: Tensor) -> None:
        """Add (W, D) to the weight, in place."""
        weight = getattr(self.owner, self.name)
        weight.add_((change.T if self.transposed else change).to(weight))


def insert_after_start(
    embeddings: Tensor, mask: Tensor, prefix: Tensor, longest: int, lead: int = 1
) -> tuple[Tensor, Tensor]:
    """Prefix vectors between the start token and the words; where that is too long, the last words go, not the end.

    Args:
        embeddings: (B, L, T).
        mask: (B, L) bool, tokens up to the end token.
        prefix: (B, n, T).
        longest: tokens the tower takes at most.
        lead: tokens that stand before the words; 0 for a tower without a start token.

    Returns:
        (B, min(L + n, longest), T) and its mask.
    """
    mask = mask.to(embeddings.device)
    n, words = prefix.shape[1], mask.sum(dim=1)  # (B,)
    length = min(embeddings.shape[1] + n, longest)
    lengths = (words + n).clamp(max=length)
    taken = torch.arange(lead, length - n, device=embeddings.device).expand(len(embeddings), -1)
    taken = torch.where(taken == lengths[:, None] - n - 1, words[:, None] - 1, taken)  # the end token stays the last
    rest = embeddings.gather(1, taken[:, :, None].expand(-1, -1, embeddings.shape[2]))
    whole = torch.cat([embeddings[:, :lead], prefix, rest], dim=1)
    return whole, torch.arange(length, device=mask.device) < lengths[:, None]
