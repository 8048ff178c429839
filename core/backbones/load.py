"""A backbone from its spec: `embedded`, `open_clip:...`, `hf:...`, or the `model.safetensors` of a training."""

from __future__ import annotations

import importlib

import torch

from ..contracts.backbone import FAMILIES, Backbone
from ..errors import CapabilityError, ConfigError, UnknownNameError, did_you_mean
from .fine_tuned import build as build_fine_tuned
from .fine_tuned import is_fine_tuned


def load_backbone(
    spec: str = "embedded", device: str | torch.device = "auto", image_size: int | None = None
) -> Backbone:
    """The backbone that `spec` names, its towers not yet built.

    Args:
        spec: "family" or "family:rest"; see `FAMILIES`. Or the path of a `model.safetensors` that a training wrote.
        device: "auto" is the GPU where there is one, else the CPU; or any torch device.
        image_size: side of the square the image tower takes, where it is to differ from the model's own.

    Raises:
        UnknownNameError: no family, architecture or tag has that name; the message has the nearest ones.
        ConfigError: the spec, the device or the size is not usable.
        DataError: a file is missing or damaged, or a remote model cannot be reached.
        CapabilityError: the family's library is not installed.
    """
    spec = str(spec)
    trained = is_fine_tuned(spec)
    family, _, rest = spec.partition(":")
    if not trained and family not in FAMILIES:
        raise UnknownNameError(f"unknown backbone '{spec}'; {did_you_mean(family, FAMILIES)}")
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size={image_size} is not usable; give a side in pixels")
    target = _device(device)
    try:
        if trained:
            return build_fine_tuned(spec, target, image_size)
        module = importlib.import_module(f".{family}", __package__)
        return module.build(rest, spec=spec, device=target, image_size=image_size)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith(__package__):
            raise
        raise CapabilityError(
            f"backbone '{spec}' needs the package '{error.name}'; "
            f"install it with: pip install 'vladapt[{FAMILIES.get(family, {}).get('extra', 'all')}]'"
        ) from None


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"--device {device}: no such device; give auto, cpu, cuda or cuda:0") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: this torch sees no GPU; give --device cpu or install torch for CUDA")
    return target

