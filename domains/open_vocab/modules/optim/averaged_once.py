"""Averaged weights of a model in which some weights have several names."""

from __future__ import annotations

from typing import Any

from mmdet.models.layers import ExpMomentumEMA
from torch import nn

from .....registry import MODELS


@MODELS.register_module()
class AveragedOnce(ExpMomentumEMA):
    """mmdet's average, which follows the weights closely at first, and takes each weight once per step: it goes by
    names, and a head that decoder and model share in transformers has two."""

    def __init__(self, model: nn.Module, **options: Any):
        super().__init__(model, **options)
        places = {(value.data_ptr(), value.shape): name for name, value in self.avg_parameters.items()}
        self.avg_parameters = {name: self.avg_parameters[name] for name in places.values()}
