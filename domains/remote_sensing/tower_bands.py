"""Four or more bands for the tower of a network that gives something for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.contracts import Backbone, InputChannels
from ...core.errors import CapabilityError
from ...registry import MODELS

RGB = 3


def band_options(
    channels: InputChannels | None, count: int, backbone: Backbone, frozen: str = "", other: str = "resnet18"
) -> dict[str, Any]:
    """Options of `CLIPVisionBackbone` by which it takes images of so many channels; {} of three, unless it
    takes bands by what they are.

    Args:
        channels: what `--bands` names, or None.
        count: of the images.
        backbone: the tower.
        frozen: the option by which the layer that takes the bands does not train, "" where it trains.
        other: `--encoder` that takes any number.

    Raises:
        CapabilityError: the bands have no names, or the further ones would change nothing.
    """
    if count == RGB and (channels is None or not backbone.by_band):
        return {}
    if channels is None or len(channels) != count:
        raise CapabilityError(
            f"--backbone {backbone.spec}: takes pictures of three channels, these have {count}; name the bands, "
            f"--bands red,green,blue,nir, or give --encoder {other}"
        )
    if frozen and not backbone.by_band and channels.start == InputChannels.ZERO:
        raise CapabilityError(
            f"{frozen}: {channels.further} would change nothing, since the layer that takes bands starts at zero for "
            "further ones and does not train; give lora or full, or --band-start mean"
        )
    return {"channels": channels.facts}


def band_layer(config: Mapping[str, Any]) -> str | None:
    """Name of the layer of a `CLIPVisionBackbone` that was widened: it learns at the whole rate, since what starts at
    zero has all to learn. None where none was."""
    built = MODELS.build(dict(config))
    layer = built.backbone.input_layer()
    return next((name for name, module in built.named_modules() if module is layer), None)
