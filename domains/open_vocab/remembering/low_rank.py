"""Matrices of low rank beside a detector's layers, which train in their place.

LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685; the layers are peft's, convolutions too. W x
becomes W x + B A x, B begins at zero. The layer that projects features to the texts' space trains whole, as a new head
does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from ....core.errors import CapabilityError, ConfigError
from ..modules.classifiers.cosine import CosineTextClassifier

NAME = "lora"


def add_low_rank(model: nn.Module, rank: int) -> None:
    """Freeze a detector and hang matrices on its linear layers and convolutions that trained until now, in place.

    Left as they are, frozen: grouped convolutions, layers with a `forward` of their own (as those that pad in
    EfficientNet), and the output of torch's own attention, which uses the weight alone. Weights of the detector without
    matrices may be loaded afterwards, under the names that they had.

    Raises:
        ConfigError: no layer can have matrices. CapabilityError: peft is not installed.
    """
    peft = _peft()
    whole = [each for each in model.modules() if isinstance(each, CosineTextClassifier)]
    inside = {id(part) for each in whole for part in each.modules()}
    targets = [name for name, layer in _layers(model) if id(layer) not in inside]
    if not targets:
        raise ConfigError(f"--lora-rank {rank}: {type(model).__name__} has no layer that could have such matrices")
    trained = [parameter for each in whole for parameter in each.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules="|".join(map(re.escape, targets))
    )
    peft.inject_adapter_in_model(config, model, NAME)
    for parameter in trained:
        parameter.requires_grad_(True)
    for name in targets:
        model.get_submodule(name).register_load_state_dict_pre_hook(_under_own_names)


def merge_low_rank(model: nn.Module) -> None:
    """Add B A to the weights and take the matrices away, in place: the layers and names of before are back."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [(name, each) for name, each in model.named_modules() if isinstance(each, LoraLayer)]:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    attention = {id(each.out_proj) for each in model.modules() if isinstance(each, nn.MultiheadAttention)}
    for name, layer in model.named_modules():
        plain = _is_plain(layer) and getattr(layer, "groups", 1) == 1
        if plain and id(layer) not in attention and layer.weight.requires_grad:
            yield name, layer


def _is_plain(layer: nn.Module) -> bool:
    """Whether it does what torch's own layer of its kind does; mmcv's only add empty batches."""
    kind = next((kind for kind in (nn.Linear, nn.Conv2d) if isinstance(layer, kind)), None)
    if kind is None:
        return False
    return type(layer).forward is kind.forward or type(layer).__module__ == "mmcv.cnn.bricks.wrappers"


def _under_own_names(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for part in ("weight", "bias"):
        if f"{prefix}{part}" in state:
            state[f"{prefix}base_layer.{part}"] = state.pop(f"{prefix}{part}")


def _peft():
    try:
        import peft
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"--lora-rank needs the package '{error.name}'; install it with: pip install 'vladapt[fine-tune]'"
        ) from None
    return peft
