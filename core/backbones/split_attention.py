"""Attention with its query, key, value and output projections as four linear layers, so that each can be adapted alone.

open_clip packs three of them into one parameter of `nn.MultiheadAttention`, timm and MiniLM into one linear layer; both
are opened here and closed again. transformers keeps them apart. What the model computes stays as it is.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from ..contracts.backbone import Backbone
from ..contracts.families import ROOTS
from ..contracts.options import require
from ..errors import CapabilityError
from .separate_projections import PARTS, SplitAttention, SplitLinear

# A block is one of several, so its path has a number (torchvision's "encoder_layer_0"); attention that pools the tokens
# at the end has none.
_IN_A_BLOCK = re.compile(r".*[._]\d+(\..*)?")
# Names that the libraries give to separate projections: query, key, value, output.
_SEPARATE = (
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("self.query", "self.key", "self.value", "output.dense"),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
)
_FUSED_OUTPUTS = ("proj", "out")


@dataclass(frozen=True)
class SplitLayer:
    """The four linear layers of one attention, by their qualified names in `backbone.model`.

    Args:
        tower: "image" or "text".
        block: number of the block in its tower, from 0.
    """

    tower: str
    block: int
    q: str
    k: str
    v: str
    out: str


def split_attention(backbone: Backbone, towers: Collection[str] = ("image", "text")) -> list[SplitLayer]:
    """Give every self-attention of the towers' blocks four linear layers, in place.

    Weights are copied; features change by rounding alone. A tower without such blocks (a ResNet; EVA, whose biases lie
    apart) stays as it is, with a warning. What is split already is left alone.

    Args:
        towers: of "image" and "text".

    Returns:
        One entry per attention, in the order of towers and blocks.

    Raises:
        ConfigError: an unknown tower. CapabilityError: none of the towers has such attention.
    """
    towers = (towers,) if isinstance(towers, str) else tuple(towers)
    require(set(towers) <= set(ROOTS) and len(towers) > 0, "towers", towers, "give image, text or both")
    for name, module in list(backbone.model.named_modules()):
        if _IN_A_BLOCK.fullmatch(name) and backbone.tower_of(name) in towers and not _of_torch(name, backbone.model):
            _open(module, name, backbone.model)
    backbone._towers = None  # they hold the modules that stood here before
    layers = [layer for tower in dict.fromkeys(towers) for layer in _layers(backbone, tower)]
    _report(backbone, towers, layers)
    return layers


def merge_attention(backbone: Backbone) -> None:
    """The inverse of `split_attention`, in place: the library's own modules, with the weights of now.

    Raises:
        CapabilityError: adapters hang on the projections; merge them first.
    """
    _check_plain(backbone.model)
    for name, module in list(backbone.model.named_modules()):
        if isinstance(module, (SplitAttention, SplitLinear)):
            _replace(backbone.model, name, module.merged())
    backbone._towers = None


def _of_torch(name: str, model: nn.Module) -> bool:
    """Whether a module is part of torch's own layer, which reaches into its attention, as the transformer that makes
    DOFA's first weights of the wavelengths."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.TransformerEncoderLayer)


def _open(module: nn.Module, name: str, model: nn.Module) -> None:
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None and module.bias_k is None:
        _replace(model, name, SplitAttention(module).train(module.training))
    elif isinstance(getattr(module, "qkv", None), nn.Linear) and _fused_output(module):
        module.qkv = SplitLinear(module.qkv).train(module.training)


def _fused_output(module: nn.Module) -> str | None:
    """The output projection beside a fused `qkv`. None where biases are kept apart: `qkv` is then not called whole."""
    if getattr(module, "q_bias", None) is not None:
        return None
    return next((out for out in _FUSED_OUTPUTS if isinstance(getattr(module, out, None), nn.Module)), None)


def _layers(backbone: Backbone, tower: str) -> Iterator[SplitLayer]:
    number = 0
    for name, module in backbone.model.named_modules():
        if _IN_A_BLOCK.fullmatch(name) and backbone.tower_of(name) == tower:
            roles = _roles(module)
            if roles:
                yield SplitLayer(tower, number, *(f"{name}.{role}" for role in roles))
                number += 1


def _roles(module: nn.Module) -> tuple[str, ...] | None:
    if isinstance(getattr(module, "qkv", None), SplitLinear):
        return (*(f"qkv.{part}" for part in PARTS), _fused_output(module))
    for roles in _SEPARATE:
        if all(_child(module, role) is not None for role in roles):
            return roles
    return None


def _child(module: nn.Module, path: str) -> nn.Module | None:
    for part in path.split("."):
        module = module._modules.get(part) if module is not None else None
    return module


def _report(backbone: Backbone, towers: Collection[str], layers: list[SplitLayer]) -> None:
    without = [tower for tower in dict.fromkeys(towers) if not any(layer.tower == tower for layer in layers)]
    if not layers:
        raise CapabilityError(
            f"backbone '{backbone.spec}' has no attention that can be split in its {' or '.join(without)} tower; "
            "choose a vision transformer, or train it whole"
        )
    for tower in without:
        warnings.warn(
            f"backbone '{backbone.spec}': its {tower} tower has no attention that can be split; it is left unchanged",
            stacklevel=3,
        )


def _check_plain(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if hasattr(module, "base_layer"):
            raise CapabilityError(f"layer '{name}' carries an adapter; merge it into the weights first (LowRank.merge)")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
