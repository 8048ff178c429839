"""Rates of parts of a model whose norms do not decay."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from .....registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PartRatesOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's own, whose `norm_decay_mult` counts in parts that `custom_keys` names too: there mmengine decays norms
    as all else. Norms are the layers without layers inside whose class is called one, those of transformers too."""

    def add_params(self, params: list[dict], module: nn.Module, *place: Any, **named_place: Any) -> None:
        """Append the groups of all parameters of `module` that train."""
        first = len(params)
        super().add_params(params, module, *place, **named_place)
        multiplier = self.paramwise_cfg.get("norm_decay_mult")
        is_norm = "Norm" in type(module).__name__ and not any(module.children())
        if is_norm and multiplier is not None and self.base_wd is not None:
            for group in params[first:]:
                group["weight_decay"] = self.base_wd * multiplier
