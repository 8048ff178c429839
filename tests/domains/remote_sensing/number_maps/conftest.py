"""A model whose numbers are known, in place of a trained one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn


class Reddest(nn.Module):
    """A number that is the first channel times 100, and its scale the second channel times 10."""

    def __init__(self, window, channels=3, reach=None):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(1)))
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        kept = {"window": window, "target": "canopy height", "unit": "m", "coverage": 0.9}
        kept["interval"] = None if reach is None else {"reach": reach}
        self.cfg = SimpleNamespace(vladapt=kept)
        self.asked = 0

    def forward(self, inputs):
        self.asked += len(inputs)
        return inputs[:, 0] * 100, inputs[:, 1] * 10


@pytest.fixture
def reddest():
    """reddest(window, reach=None): a `Regressor` of such a model."""
    from vladapt.domains.remote_sensing.number_maps import Regressor

    return lambda window, **options: Regressor(Reddest(window, **options))
