"""An image encoder of the user's own: any torch module, with the user's own preprocessing (`Backbone.from_module`).

A run names such a backbone, and does not bring it: what loads the run gives it again, and it must have the run's
fingerprint.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..contracts.backbone import offered
from ..contracts.families import FROM_MODULE, OFFERED
from ..contracts.images import ImageSize, as_image_size, height_and_width
from ..errors import CapabilityError, ConfigError, DataError, VladaptError
from ..registry import build_backbone, catalogue
from .image_only import ImageBackbone, ImageModel, Weights, WholeTower
from .preprocessing import Preprocess, as_picture, in_8_bits
from .tower_steps import ImageTower
from .two_tower import fingerprint

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROBES = ((96, 64), (64, 96), (80, 80))
"""(height, width) of the images that tell one module from another."""


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> NoReturn:
    """Raise the CapabilityError of a module that nobody has given in this process."""
    raise CapabilityError(
        f"backbone '{spec}' is a module of the process that named it; give it again: backbone={FROM_MODULE}"
    )


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> ModuleBackbone:
    """The backbone of weights that were trained here: the module that was trained, given again, with these.

    Raises:
        CapabilityError: nobody has given it in this process, or it is another.
    """
    start = description["module"]
    family, _, rest = start.partition(":")
    if start not in OFFERED and (entry := catalogue.backbones().get(family)) is not None:
        offered(build_backbone(entry, rest))
    if start not in OFFERED:
        build(rest, spec=start, device=device, image_size=image_size)
    backbone = given_again(start, device, image_size)
    if backbone.fingerprint != description["fingerprint"]:
        raise CapabilityError(
            f"--backbone {weights}: was trained from '{start}' ({description['fingerprint']}), which is now "
            f"{backbone.fingerprint}; give the module of the training"
        )
    trunk, trained = backbone.trunk, Weights(weights)
    backbone.trunk, backbone.trained_from = trained.load(lambda: trunk, start, ()), start
    backbone.spec, backbone.fingerprint = spec, fingerprint("module", start, trained.identity, backbone.transform.spec)
    return backbone


def from_own_code(named: str) -> str:
    """The spec of what a function of the user's own code returns; it can be loaded by it from then on.

    Args:
        named: "FILE.py:NAME", of a function without arguments that returns `Backbone.from_module(...)`. A run holds the
            file's name without its folder, and never runs it.

    Raises:
        DataError: no such file. ConfigError: it fails, or makes something else.
    """
    path, _, name = named.rpartition(":")
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"--backbone {named}: no such file {file}")
    loader = _AsWritten(f"vladapt_own_{file.stem}", str(file))
    module_spec = spec_from_loader(loader.name, loader)
    assert module_spec is not None
    code = sys.modules[loader.name] = module_from_spec(module_spec)  # its classes are pickled by that name
    try:
        loader.exec_module(code)
        if not callable(make := getattr(code, name, None)):
            raise ConfigError(f"--backbone {named}: {file} has no function {name}; give one that it has")
        backbone = make()
    except VladaptError:
        raise
    except Exception as error:  # whatever a user's code raises
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"--backbone {named}: {type(error).__name__}: {reason}") from error
    if not isinstance(backbone, ModuleBackbone):
        raise ConfigError(f"--backbone {named}: returns a {type(backbone).__name__}; return {FROM_MODULE}")
    backbone.spec, backbone.source = f"{file.name}:{name}", file.resolve()
    if (other := OFFERED.get(backbone.spec)) is not None and other.source != backbone.source:
        raise ConfigError(f"--backbone {named}: {other.source} has the same name; rename one of the two files")
    return offered(backbone)


class _AsWritten(SourceFileLoader):
    """Code as its file holds it now: kept bytecode is told apart by whole seconds and the size alone."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def given_again(spec: str, device: torch.device, image_size: ImageSize | None) -> ModuleBackbone:
    """A copy of the backbone that was given under a spec.

    Raises:
        ConfigError: another size of images is asked for.
    """
    backbone = deepcopy(OFFERED[spec])
    backbone._model = None  # it may still be widened
    if image_size not in (None, backbone.image_size):
        raise ConfigError(
            f"image_size={image_size}: backbone '{spec}' takes {backbone.image_size}; give that, or omit image_size"
        )
    backbone.device = device
    return backbone


class ModuleBackbone(ImageBackbone):
    """See `Backbone.from_module`."""

    family = "module"
    source: Path | None = None
    """The file whose code made it, where the command line named one."""
    trained_from = ""
    """The spec of the module whose trained weights it has, where that is not its own."""

    def __init__(
        self,
        module: nn.Module,
        image_size: ImageSize,
        embed_dim: int,
        preprocess: Callable[[Any], Tensor] | None = None,
    ):
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ConfigError(f"Backbone.from_module: a {type(module).__name__} is no torch module; give an nn.Module")
        name, size = type(module).__name__, as_image_size(image_size)
        trunk = deepcopy(module).cpu().float().eval().requires_grad_(False)
        plain = Preprocess(size, IMAGENET_MEAN, IMAGENET_STD)
        pixels = _pixels(preprocess or plain, height_and_width(size))
        self.transform = plain if preprocess is None else OwnPreprocess.of(preprocess, size, pixels)
        outputs = _outputs(trunk, pixels, name, embed_dim)
        self.tower = opened = _tower_class(trunk, pixels)
        self.device, self.embed_dim, self.capabilities = torch.device("cpu"), embed_dim, opened.opens
        self.turned = opened.turned
        self.fingerprint = fingerprint("module", name, _digest(outputs), self.transform.spec)
        self.mark_learned(trunk.state_dict())
        self.spec = f"module:{name}-{self.fingerprint[:8]}"
        self.trunk, self.trained_from_fingerprint = trunk, self.fingerprint

    @property
    def description(self) -> dict[str, Any]:
        return {"module": self.trained_from or self.spec, "fingerprint": self.trained_from_fingerprint}

    def build_model(self) -> nn.Module:
        return ImageModel(self.trunk)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features = super().encode_pixels(pixels)
        _check_kind(features, type(self.trunk).__name__)  # in training some give more
        if tuple(features.shape) != (pixels.shape[0], self.embed_dim):  # len() would be a constant of an export
            raise ConfigError(
                f"backbone '{self.spec}': makes {tuple(features.shape)} of {len(pixels)} images, where its width was "
                f"{self.embed_dim}; let it make one row of that width for every image"
            )
        return features


@dataclass(frozen=True, kw_only=True)
class OwnPreprocess(Preprocess):
    """The user's own: PIL image -> pixels; in training of a random crop of it, mirrored or not.

    Args:
        own: what makes the pixels.
        digest: tells one from another, in the feature store's key.
    """

    own: Callable[[Any], Tensor]
    digest: str

    @classmethod
    def of(cls, own: Callable[[Any], Tensor], size: ImageSize, pixels: Tensor) -> OwnPreprocess:
        """Its mean and deviation are read off a black and a white image, for transforms that make pixels without it.

        Args:
            pixels: (N, 3, H, W) that it makes of the probes.
        """
        black, white = (
            torch.as_tensor(own(Image.new("RGB", (64, 64), (value,) * 3))).float().mean(dim=(1, 2))
            for value in (0, 255)
        )
        scale = white - black
        if not (torch.isfinite(scale).all() and (scale > 0).all()):  # each image is normalised by itself
            black, scale = torch.zeros(3), torch.ones(3)
        mean, std = (-black / scale).tolist(), (1 / scale).tolist()
        return cls(size, tuple(mean), tuple(std), own=own, digest=_digest(pixels))

    @property
    def spec(self) -> dict[str, Any]:
        own = ("image_size", "train", "scale", "randaugment", "flip")
        stated = {key: value for key, value in super().spec.items() if key in own}
        return {**stated, "transform": "own", "digest": self.digest}

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        picture = in_8_bits(as_picture(image))
        made = self.own(in_8_bits(self._augmented(picture, seed)) if self.train else picture)
        _check_pixels(made, height_and_width(self.image_size))
        return torch.as_tensor(made).float()


def _probe(height: int, width: int) -> Image.Image:
    """An image that is the same everywhere: a gradient in red, what looks like noise in green and blue."""
    rows, columns = np.mgrid[:height, :width].astype(np.int64)
    noise = (rows * 2654435761 + columns * 40503) >> 7
    channels = (rows + columns) * 255 // (height + width), noise % 256, (noise >> 8) % 256
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _pixels(preprocess: Callable[[Any], Any], sides: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) of the probes.

    Raises:
        ConfigError: pixels of another size, or none.
    """
    with _said("preprocess"):
        made = [preprocess(_probe(*size)) for size in PROBES]
    for each in made:
        _check_pixels(each, sides)
    return torch.stack([torch.as_tensor(each).float() for each in made])


def _check_pixels(pixels: Any, sides: tuple[int, int]) -> None:
    """Raise the ConfigError of what a preprocessing makes in place of (3, H, W)."""
    shape = tuple(pixels.shape) if isinstance(pixels, (Tensor, np.ndarray)) else type(pixels).__name__
    if shape != (3, *sides):
        raise ConfigError(
            f"Backbone.from_module: preprocess gives {shape} where image_size asks for {(3, *sides)}; let it "
            "resize and crop, or give the size that it makes"
        )


@torch.no_grad()
def _outputs(trunk: nn.Module, pixels: Tensor, name: str, embed_dim: int) -> Tensor:
    """(N, D) of the pixels of the probes, in double precision where the module can, which is alike on all machines.

    Raises:
        ConfigError: no features, or of another width.
    """
    for batch in (pixels, pixels[:1]):
        with _said(f"{name}, of pixels {tuple(batch.shape)}"):
            features = trunk(batch)
        _check_kind(features, name)
        if tuple(features.shape) != (len(batch), embed_dim):
            raise ConfigError(
                f"Backbone.from_module: {name} makes {tuple(features.shape)} of a batch of {len(batch)} where "
                f"embed_dim asks for {(len(batch), embed_dim)}; give its width, or wrap it in a module that pools"
            )
        if not torch.isfinite(features).all():
            raise ConfigError(f"Backbone.from_module: {name} gives NaN or infinity; check its weights")
    try:
        return deepcopy(trunk).double()(pixels.double())
    except RuntimeError:  # it has a precision of its own
        return trunk(pixels)


def _check_kind(features: Any, name: str) -> None:
    """Raise the ConfigError of what a module returns in place of a tensor."""
    if not isinstance(features, Tensor):
        kind = "a dictionary" if isinstance(features, Mapping) else f"a {type(features).__name__}"
        raise ConfigError(
            f"Backbone.from_module: {name} returns {kind}; wrap it in a module whose forward returns its "
            "features (B, D)"
        )


@contextmanager
def _said(what: str) -> Iterator[None]:
    """A context in which the user's own code runs: what it raises becomes a ConfigError of one line."""
    try:
        yield
    except VladaptError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"Backbone.from_module: {what}: {type(error).__name__}: {reason}; mend it") from error


@torch.no_grad()
def _tower_class(trunk: nn.Module, pixels: Tensor) -> type[ImageTower]:
    """How a module is opened: as an encoder of timm or torchvision where it is one and those steps give its features.

    Args:
        pixels: (N, 3, H, W) of the probes.
    """
    home = type(trunk).__module__
    opened: type[Any] = WholeTower
    if home.startswith("timm.models."):
        from .timm import tower_class

        opened = tower_class(home, trunk)
    elif home.startswith("torchvision.models."):
        from .torchvision import TOWERS

        opened = TOWERS.get(type(trunk), WholeTower)
    steps, features = opened(ImageModel(trunk).visual), trunk(pixels)
    made = steps.project(steps.hidden(pixels))
    return opened if made.shape == features.shape and torch.allclose(made, features, 1e-4, 1e-5) else WholeTower


def _digest(values: Tensor) -> str:
    """Of values that may differ in their last digits from machine to machine: they are rounded to so many digits of the
    largest."""
    digits = 8 if values.dtype == torch.float64 else 3
    values = values.double()
    step = 10.0 ** (math.floor(math.log10(max(float(values.abs().max()), 1e-12))) - digits)
    whole = torch.round(values / step).long()
    return hashlib.sha256(f"{step:.0e} {tuple(whole.shape)}".encode() + whole.numpy().tobytes()).hexdigest()
