"""The heads of OWL-ViT and OWLv2 checkpoints of transformers, which lie beside the towers in one folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .....core.contracts.backbone import Backbone
from .....core.contracts.errors import DataError

HEADS = ("class_head", "box_head", "objectness_head", "layer_norm")
KINDS = ("owlvit", "owlv2")


def published_heads(backbone: Backbone) -> dict[str, dict[str, Tensor]]:
    """Name of a head -> its weights, for those that the files of the backbone hold."""
    source = getattr(backbone, "source", None)
    if backbone.family != "hf" or source.kind not in KINDS:
        return {}
    found: dict[str, dict[str, Tensor]] = {}
    for file in _weight_files(source.folder):
        for name, value in _read(file).items():
            head, _, rest = name.partition(".")
            found.setdefault(head, {})[rest] = value
    return found


def load_published_heads(model: nn.Module, published: dict[str, dict[str, Tensor]], spec: str) -> None:
    """Put the weights of the heads into a model that has heads of these names.

    Raises:
        DataError: they do not fit.
    """
    for name, weights in published.items():
        head = getattr(model, name)
        if head is None:
            continue
        try:
            head.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"backbone '{spec}': the weights of its '{name}' do not fit ({reason}); copy or download them again"
            ) from None


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _read(file: Path) -> dict[str, Tensor]:
    """What in a file belongs to heads. The towers were read from it before, so it is sound."""
    if file.suffix == ".safetensors":
        with safe_open(str(file), framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(HEADS)]  # noqa: SIM118 (no mapping)
            return {name: opened.get_tensor(name) for name in names}
    weights = torch.load(file, map_location="cpu", weights_only=True)
    return {name: value for name, value in weights.items() if name.startswith(HEADS)}
