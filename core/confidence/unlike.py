"""Images unlike those that a run was fitted on, told by their distance to the nearest of them.

"Out-of-Distribution Detection with Deep Nearest Neighbors" (Sun et al. 2022, arXiv 2204.06507): unit features, the
distance to the k-th nearest, and a threshold that a stated share of ordinary images exceeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .conformal import threshold

FALSE_ALARMS = 0.05
NEIGHBOURS = 3
MOST_KEPT = 4000
"""Support features that a run keeps for this."""
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Unlike:
    """What ordinary images look like.

    Attributes:
        support: (M, D) unit features of the images of the fit.
        limit: distance beyond which an image is unlike them; infinite where too few rows can tell.
    """

    support: Tensor
    limit: float

    @classmethod
    def of_rows(cls, support: Tensor, rows: Tensor, own: Tensor | None = None) -> Unlike:
        """The limit that `FALSE_ALARMS` of images like the calibration rows exceed.

        Args:
            support: (M, D) features.
            rows: (n, D) features of calibration rows.
            own: (n, M) bool, which support rows are the row itself or of its group, and do not count; None: none.
        """
        away = distances(rows, support, own)
        away = away[away.isfinite()]
        return cls(F.normalize(support.float(), dim=1).cpu(), threshold(away, 1 - FALSE_ALARMS))

    @property
    def known(self) -> bool:
        """Whether there are rows enough to say anything."""
        return math.isfinite(self.limit)

    def flags(self, features: Tensor) -> Tensor:
        """(N,) bool: which images are unlike those of the fit."""
        return distances(features, self.support) > self.limit


def distances(features: Tensor, support: Tensor, own: Tensor | None = None) -> Tensor:
    """(N,) float32 mean cosine distance to the `NEIGHBOURS` nearest of the support.

    Args:
        features: (N, D).
        support: (M, D).
        own: (N, M) bool, pairs that do not count; a row without any other is infinitely far.
    """
    support = F.normalize(support.float(), dim=1).cpu()
    parts = []
    for start in range(0, len(features), ROWS_AT_ONCE):
        rows = F.normalize(features[start : start + ROWS_AT_ONCE].float().cpu(), dim=1)
        away = 1 - rows @ support.T  # (n, M)
        if own is not None:
            away = away.masked_fill(own[start : start + ROWS_AT_ONCE], math.inf)
        parts.append(away.topk(min(NEIGHBOURS, away.shape[1]), dim=1, largest=False).values.mean(dim=1))
    return torch.cat(parts) if parts else torch.zeros(0)
