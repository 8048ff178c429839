"""Learning rates that fall with the depth of a vision tower, for mm configs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from .....core.contracts import Backbone, require
from .....core.errors import ConfigError, UnknownNameError, did_you_mean
from .....core.training import TowerLayers
from .....registry import OPTIM_WRAPPER_CONSTRUCTORS

OPTIONS = {"layer_decay": 0.7, "backbone_lr_mult": 1.0, "decay_all": False}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer d of a tower of n blocks learns at lr * layer_decay ** (n + 1 - d), where what follows the blocks is n + 1
    ("BEiT: BERT Pre-Training of Image Transformers", 2021, arXiv 2106.08254; ViTDet, 2022, arXiv 2203.16527: 0.7 for
    ViT-B, 0.8 for ViT-L). All else learns at lr. Norms, biases and whatever has fewer than two axes do not decay.

    A config says `optim_wrapper=dict(constructor='vladapt.LayerDecayOptimWrapperConstructor', optimizer=...,
    paramwise_cfg=dict(layer_decay=0.8))`. A tower is found wherever a module keeps a core `Backbone` as `backbone`.

    Args:
        optim_wrapper_cfg: its optimizer names `lr`.
        paramwise_cfg: layer_decay (0.7), above 0 to 1; backbone_lr_mult (1), another factor of the tower's rates, 0.1
            in DenseCLIP; decay_all (False), decay norms and biases too.

    Raises:
        ConfigError: an option is unknown or out of range, the optimizer names no lr, or no module has a tower.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        given = dict(paramwise_cfg or {})
        for name in set(given) - set(OPTIONS):
            raise UnknownNameError(
                f"paramwise_cfg.{name} is not an option of layer decay; {did_you_mean(name, OPTIONS)}"
            )
        super().__init__(optim_wrapper_cfg, {**OPTIONS, **given})
        if self.base_lr is None:
            raise ConfigError("optim_wrapper.optimizer names no lr; layer decay needs one to start from")
        multiplier = self.paramwise_cfg["backbone_lr_mult"]
        require(multiplier > 0, "backbone_lr_mult", multiplier, "give above 0, or freeze the backbone")

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Append the groups of all parameters of `module` that train."""
        towers = list(_towers(module))
        if not towers:
            raise ConfigError(
                f"{type(module).__name__} has no vision tower whose layers could decay; use mmengine's own constructor"
            )
        of_module = {id(parameter) for parameter in module.parameters()}
        taken = set()
        for group in (group for tower in towers for group in self._tower_groups(tower)):
            group["params"] = [p for p in group["params"] if id(p) in of_module and id(p) not in taken]
            taken |= {id(parameter) for parameter in group["params"]}
            if group["params"]:
                params.append(group)
        params += self._other_groups(module, taken)

    def _tower_groups(self, tower: Backbone) -> list[dict]:
        options = self.paramwise_cfg
        return TowerLayers(tower).parameter_groups(
            lr=self.base_lr * options["backbone_lr_mult"],
            weight_decay=self.base_wd or 0.0,
            layer_decay=options["layer_decay"],
            decay_all=options["decay_all"],
        )

    def _other_groups(self, module: nn.Module, taken: set[int]) -> list[dict]:
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in taken:
                spared = not self.paramwise_cfg["decay_all"] and (parameter.ndim < 2 or name.endswith("bias"))
                groups.setdefault(0.0 if spared else self.base_wd or 0.0, []).append(parameter)
        return [{"params": parameters, "lr": self.base_lr, "weight_decay": wd} for wd, parameters in groups.items()]


def _towers(module: nn.Module) -> Iterator[Backbone]:
    """Each core backbone that a module of the model keeps, once."""
    seen = set()
    for part in module.modules():
        tower = getattr(part, "backbone", None)
        if isinstance(tower, Backbone) and id(tower) not in seen:
            seen.add(id(tower))
            yield tower
