"""What backbones without a text tower share: `timm:`, `torchvision:`, `torchgeo:` and modules of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import CapabilityError, ConfigError
from .checkpoints import file_digests, fit_weights, random_seed, read_checkpoint, require_file
from .tower_steps import ImageTower, Undrawn, sized_like
from .two_tower import TwoTower, fingerprint

SCALE = 100.0
"""CLIP's logit scale, for methods that weigh their own scores by it where there is no text."""
TRUNK = "visual.trunk."
"""Where the encoder stands in a model, and in a file that a training here wrote."""
TIMES = 8
"""So much larger than its file a model may be: files of half precision, or of fewer bits."""


class Visual(nn.Module):
    """An encoder, (B, 3, S, S) -> (B, D), and where others have a projection."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk, self.head = trunk, nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.trunk(pixels))


class ImageModel(nn.Module):
    """An encoder under the name that image towers have everywhere."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.visual = Visual(trunk)


class WholeTower(ImageTower):
    """An encoder that is run whole only; its feature is not projected."""

    opens = frozenset({"hidden"})

    def __init__(self, visual: nn.Module):
        self.visual = visual

    def hidden(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)


class ImageBackbone(TwoTower):
    """Base of the backbones of images alone. A family sets the facts of a `Backbone` and implements `build_model`.

    Attributes:
        tower: makes the steps of the image tower of a model's `visual`.
    """

    has_text = False
    context_length = 0

    def __init__(self):
        super().__init__()
        self.tower: Callable[[nn.Module], ImageTower] = WholeTower

    @property
    def logit_scale(self) -> Tensor:
        return torch.tensor(SCALE)

    def build_towers(self, model: nn.Module) -> tuple[ImageTower, None]:
        return self.tower(model.visual), None

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.model.visual(pixels)

    def build_tokenizer(self) -> NoReturn:
        raise self.lacking("prompt")

    def token_mask(self, tokens: Tensor) -> NoReturn:
        raise self.lacking("prompt")

    def encode_tokens(self, tokens: Tensor) -> NoReturn:
        raise self.lacking("prompt")


class NamedEncoder(ImageBackbone):
    """Base of encoders whose architecture a library has by name.

    Attributes:
        name: of the architecture.
        is_resnet: whether the stride of its last stage may be 1.
        last_stride: of that stage.
    """

    name: str
    is_resnet: bool
    last_stride = 2

    def set_last_stride(self) -> None:
        if not self.is_resnet:
            super().set_last_stride()
        if self.last_stride == 1:
            return
        if self._model is not None:
            raise CapabilityError(f"backbone '{self.spec}' is built already; load it again to set its last stride")
        self.last_stride = 1
        self.fingerprint = fingerprint(self.family, [self.name, "last stride 1"], self.fingerprint, {})


@dataclass(frozen=True)
class Weights:
    """Of an encoder whose architecture is known by name.

    Args:
        file: that holds them; None for random ones.
        seed: of random ones.
    """

    file: Path | None
    seed: int = 0

    @classmethod
    def of(cls, place: str) -> Weights:
        """What stands after the "@" of a spec: a file, "random" or "random:SEED".

        Raises:
            DataError: no such file. ConfigError: no such seed.
        """
        if (seed := random_seed(place)) is not None:
            return cls(None, seed)
        file = Path(place).expanduser()
        require_file(file, "file of its weights (.safetensors, or .pt of tensors only)")
        return cls(file)

    @property
    def identity(self) -> Any:
        """What identifies them, JSON-able."""
        return f"random weights, seed {self.seed}" if self.file is None else file_digests([self.file])

    def load(
        self,
        build: Callable[[], nn.Module],
        name: str,
        classifiers: Sequence[str],
        optional: Sequence[str] = (),
        rename: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> nn.Module:
        """The encoder with these weights.

        Args:
            build: makes it with any.
            name: of the architecture, for messages.
            classifiers: modules of the published model that an encoder does without.
            optional: names of weights that the file may lack.
            rename: brings the weights of a published file to the names of the encoder.

        Raises:
            DataError: the file is damaged, or its weights are those of another architecture.
        """
        if self.file is None:
            torch.manual_seed(self.seed)  # the caller puts the state back that the run is in
            return build()
        state = {key.removeprefix(TRUNK): value for key, value in read_checkpoint(self.file).items()}
        with sized_like(self.file, TIMES), Undrawn():
            module = build()
        state = state if rename is None else rename(module, state)
        unused = tuple(f"{each}." for each in classifiers)
        for key in [key for key in state if key.startswith(unused) and key not in module.state_dict()]:
            del state[key]
        fit_weights(module, state, self.file, name, optional)
        return module


def split_spec(rest: str, family: str) -> tuple[str, str]:
    """(architecture, what stands after the "@", "" where there is none) of a spec without its family.

    Raises:
        ConfigError: it names none, or nothing after the "@".
    """
    name, at, place = rest.partition("@")
    if not name or (at and not place):
        raise ConfigError(
            f"backbone '{family}:{rest}' is not usable; give {family}:NAME, {family}:NAME@FILE or "
            f"{family}:NAME@random:SEED"
        )
    return name, place
