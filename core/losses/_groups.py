"""Samples of one label: their means, and what further positives add to a loss whose positives are pairs.

A pair's partner and the mean of all partners of its label differ by nothing where a label occurs once, and then nothing
is added, to the bit: neither to the value nor to a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contracts.options import option
from ..runtime.ranks import Ranks


def same_label_option() -> Any:
    """The option of a loss whose positives may be all samples of a label."""
    return option(False, "images and texts of one class or identity are positives; needs labels")


def label_groups(labels: Tensor) -> Tensor:
    """(B,) numbers from 0, equal where labels are equal and 0 or above; a sample with another label is alone."""
    alone = -1 - torch.arange(len(labels), device=labels.device)
    return torch.where(labels >= 0, labels, alone).unique(return_inverse=True)[1]


def means_of_groups(features: Tensor, groups: Tensor) -> Tensor:
    """(B, D): for each row the mean of its group's rows."""
    count = len(features)
    sums = torch.zeros_like(features).index_add(0, groups, features)
    sizes = torch.bincount(groups, minlength=count).clamp(min=1)
    return (sums / sizes[:, None])[groups]


def further_partners(rows: Tensor, labels: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """What the partners of a sample are besides its own.

    Args:
        rows: (n, D), this rank's rows.
        labels: (n,), this rank's.

    Returns:
        (n, D) the sum of the rows of its label, less its own row, and (n,) how many rows its label has.
    """
    columns, groups = ranks.columns(rows), label_groups(ranks.columns(labels))  # (N, D), (N,)
    sizes = torch.bincount(groups, minlength=len(groups))[groups]  # (N,)
    sums = torch.zeros_like(columns).index_add(0, groups, columns)[groups]
    others = torch.where(sizes[:, None] > 1, sums - columns, 0.0)
    own = ranks.own(len(rows))
    return others[own], sizes[own]
