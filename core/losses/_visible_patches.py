"""Which patches of an image a tower sees where the rest are left out: a function of the sample's own draws."""

from __future__ import annotations

import torch
from torch import Tensor

from ._draws import Draws


def visible_tokens(x: Tensor, prefix: int, draws: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """What a tower sees of an image: the share of its patches with the lowest draws.

    Args:
        x: (B, prefix + P, W), of which the first are no patches and stay.
        draws: (B, 4, K) in 0..1.
        share: of the patches; one at least.

    Returns:
        (B, prefix + V, W), and (B, V) int64, ascending: the places of these patches.
    """
    patches = x.shape[1] - prefix
    count = max(1, round(share * patches))
    places = Draws.of_places(draws, 0, patches).argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
    first = torch.arange(prefix, device=x.device).expand(len(x), -1)
    index = torch.cat([first, places + prefix], dim=1)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])), places
