"""Encoders of timm that others publish on the Hugging Face hub: `timm:hf-hub:OWNER/NAME`, and `@FILE` for weights that
lie here, with the repository's config.json beside them.

The configuration is timm's own: an architecture, its arguments, and how pixels are made. `timm_hub.json` has what the
authors' model cards tell their readers to give besides: layers, and how features are pooled. Virchow2's are the class
token and the mean of the patches, side by side; registers are left out ("Virchow2: Scaling Self-Supervised Mixed
Magnification Models in Pathology", Zimmermann et al., 2024, arXiv 2408.00738, and its model card).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from ..errors import ConfigError, DataError, UnknownNameError
from ..runtime.reading import read_json
from .hub import REPOSITORY, ModelFolder

PREFIX = "hf-hub:"
TABLE = Path(__file__).with_name("timm_hub.json")
CLASS_AND_PATCHES = "class and patches"
LAYERS: Mapping[str, Mapping[str, Any]] = {"mlp_layer": {"swiglu-packed": SwiGLUPacked}, "act_layer": {"silu": nn.SiLU}}
"""Argument -> its values that are layers, by name."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class ClassAndPatches(nn.Module):
    """(B, T, W) tokens -> (B, 2 W): the first one, and the mean of the patches.

    Args:
        prefix: tokens before the patches: the class token and registers.
    """

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(dim=1)], dim=-1)


@dataclass(frozen=True)
class TimmHubModel:
    """A model of timm as its repository describes it; JSON-able.

    Args:
        repo: "owner/name".
        architecture: of timm.
        arguments: of its constructor; layers by name.
        pixels: timm's `pretrained_cfg`: how images become inputs.
        pool: "class and patches", or "" for timm's own.
        licence: as the model card says.
    """

    repo: str
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pixels: Mapping[str, Any] = field(default_factory=dict)
    pool: str = ""
    licence: str = "unknown"

    @classmethod
    def of(cls, name: str, place: Path | None) -> tuple[TimmHubModel, Path | None]:
        """What `hf-hub:OWNER/NAME` stands for, and the file of its weights.

        Args:
            place: the file of weights that lie here, with config.json beside them; None: from the hub or its cache.

        Raises:
            ConfigError: no name of a repository. DataError: it cannot be had, or is no model of timm.
            UnknownNameError: timm has no such architecture.
        """
        repo = name.removeprefix(PREFIX)
        if not REPOSITORY.fullmatch(repo):
            raise ConfigError(f"backbone 'timm:{name}': '{repo}' is not a repository of the hub; give OWNER/NAME")
        local_way = f"give timm:{name}@FILE with its {WEIGHTS[0]}, and its config.json beside it"
        folder = ModelFolder.of_hub(repo, local_way).path if place is None else place.parent
        file = next((folder / each for each in WEIGHTS if (folder / each).is_file()), None) if place is None else place
        if not (folder / "config.json").is_file() or file is None:
            raise DataError(f"backbone 'timm:{name}': {folder} has no config.json with weights; {local_way}")
        stated = read_json(folder / "config.json", "copy or download it again")
        if not isinstance(stated, dict) or not isinstance(stated.get("architecture"), str):
            raise DataError(f"{folder / 'config.json'}: names no architecture of timm; give a model of timm")
        if not timm.is_model(stated["architecture"]):
            raise UnknownNameError(
                f"{folder / 'config.json'}: this timm has no architecture '{stated['architecture']}'; install "
                "a newer one"
            )
        besides = _table().get(repo, {})
        arguments = {**(stated.get("model_args") or {}), **besides.get("arguments", {})}
        pixels = {**(stated.get("pretrained_cfg") or {}), **besides.get("pixels", {})}
        shown = {"arguments": arguments, "pixels": pixels, "pool": besides.get("pool", "")}
        return cls(repo, stated["architecture"], **shown, licence=ModelFolder(folder).licence), file

    @property
    def description(self) -> dict[str, Any]:
        """What makes it again."""
        return asdict(self)

    def encoder(self) -> nn.Module:
        """The architecture without a classifier, with random weights; asks no network.

        Raises:
            DataError: its constructor does not take the arguments.
        """
        arguments = {
            name: LAYERS[name].get(value, value) if name in LAYERS and isinstance(value, str) else value
            for name, value in self.arguments.items()
        }
        try:
            return timm.create_model(self.architecture, pretrained=False, **{**arguments, "num_classes": 0})
        except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"backbone 'timm:{PREFIX}{self.repo}': timm cannot make it ({reason})") from None


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, Any]]:
    return json.loads(TABLE.read_text(encoding="utf-8"))
