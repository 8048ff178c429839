"""Which bands of an image the encoders of torchgeo take: by their names, in their order, or by their wavelengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..contracts.images import RGB, CropTransform, InputChannels
from ..errors import CapabilityError, ConfigError, DataError
from .preprocessing import Preprocess, normalize_

COLOURS = ("red", "green", "blue")
RGB_WAVELENGTHS, RGB_BANDWIDTHS = (665.0, 560.0, 490.0), (30.0, 35.0, 65.0)
"""Of Sentinel-2's red, green and blue, in nm: what a picture without named bands is taken for."""
SENTINEL_2 = ("sentinel-2", "eurosat")
"""Sensors whose codes mean the bands of Sentinel-2."""
_NUMBERED = re.compile(r"B0*(\d+A?)")


@dataclass(frozen=True)
class BandsTaken:
    """What bands an encoder takes.

    Args:
        codes: of the bands in its order, or the common names of colours; none where it takes any bands by wavelength.
        sensors: those whose codes they are; none where bands can be given in their order only.
        bandwidths: whether it wants the width of each band besides the wavelength.
        mean, std: of each band of pixels in 0..1, or one value for all.
    """

    codes: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    bandwidths: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class BandInputs:
    """How the channels of an image enter an encoder.

    Args:
        places: of the channels that it takes, in its order.
        wavelengths, bandwidths: of these, in nm; none of an encoder that knows its bands.
        mean, std: of all channels of the image, in 0..1.
        note: what a user should know of it.
    """

    places: tuple[int, ...]
    wavelengths: tuple[float, ...]
    bandwidths: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str

    def taken(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) as they are read -> (B, c, H, W) of the channels that the encoder takes."""
        if self.places == tuple(range(pixels.shape[1])):
            return pixels
        return torch.stack([pixels[:, place] for place in self.places], dim=1)


def band_inputs(taken: BandsTaken, channels: InputChannels | None, spec: str) -> BandInputs:
    """How images of these channels enter an encoder.

    Args:
        channels: of the image; None for red, green and blue.
        spec: of the backbone, for messages.

    Raises:
        CapabilityError: bands are missing that the encoder takes, or of another sensor.
        ConfigError: the wavelength of a band is not known.
    """
    if not taken.codes:
        return _by_wavelength(taken, channels, spec)
    if channels is None:
        if len(taken.codes) != RGB:
            raise CapabilityError(f"{_takes(taken, spec)}; {_cure(taken)}")
        note = f"The encoder takes red, green and blue as {', '.join(taken.codes)}."
        return BandInputs((0, 1, 2), (), (), *_normalisation(taken, (0, 1, 2), RGB), note)
    places = _by_name(taken, channels, spec)
    names = [channels.names[place] for place in places]
    pairs = ", ".join(code if code.lower() == name else f"{name} as {code}" for code, name in zip(taken.codes, names))
    unused = [name for place, name in enumerate(channels.names) if place not in places]
    note = f"The encoder takes {pairs}{f'; {_listed(unused)} unused' if unused else ''}."
    return BandInputs(places, (), (), *_normalisation(taken, places, len(channels)), note)


def _by_wavelength(taken: BandsTaken, channels: InputChannels | None, spec: str) -> BandInputs:
    names = COLOURS if channels is None else channels.names
    count = len(names)
    if channels is None:
        waves, widths = RGB_WAVELENGTHS, RGB_BANDWIDTHS
    else:
        bands = channels.bands or (None,) * count
        waves = tuple(band and band.wavelength for band in bands)
        widths = tuple(band and band.bandwidth for band in bands)
    needed = {"wavelength": waves, **({"bandwidth": widths} if taken.bandwidths else {})}
    for what, values in needed.items():
        if missing := [name for name, value in zip(names, values) if not value]:
            example = f"{missing[0]}@842/115" if taken.bandwidths else f"{missing[0]}@842"
            raise ConfigError(
                f"backbone '{spec}' reads bands by their {what}, which is not known of {', '.join(missing)}; name the "
                f"--sensor, or give it in nanometres with the band: --bands {example},..."
            )
    widths = widths if taken.bandwidths else ()
    told = [
        f"{name} at {wave:g}" + (f" (width {widths[place]:g})" if widths else "")
        for place, (name, wave) in enumerate(zip(names, waves))
    ]
    places = tuple(range(count))
    note = f"The encoder reads its bands by wavelength: {', '.join(told)} nm."
    return BandInputs(places, waves, widths, *_normalisation(taken, places, count), note)


def _by_name(taken: BandsTaken, channels: InputChannels, spec: str) -> tuple[int, ...]:
    """Places of the bands among the channels: by code or colour where the sensor is known, else in their order."""
    bands = channels.bands or (None,) * len(channels)
    sensors = {band.sensor for band in bands if band is not None and band.sensor}
    named = bool(sensors) or any(band is not None and band.common for band in bands)
    if not named or not (taken.sensors or taken.codes == COLOURS):
        if len(channels) != len(taken.codes):
            given = f"the images have {len(channels)} ({', '.join(channels.names)})"
            raise CapabilityError(f"{_takes(taken, spec)}, {given}; {_cure(taken)}")
        return tuple(range(len(channels)))
    if taken.sensors and sensors and not sensors & set(taken.sensors):
        raise CapabilityError(f"{_takes(taken, spec)}, the images are of {', '.join(sorted(sensors))}; {_cure(taken)}")
    places: dict[str, int] = {}
    for place, band in enumerate(bands):
        if band is not None:
            places |= {band.common: place} if band.common else {}
            places |= {_normal(band.code): place} if band.sensor in taken.sensors else {}
    missing = [code for code in taken.codes if _normal(code) not in places]
    if missing:
        raise CapabilityError(f"{_takes(taken, spec)}, and --bands lacks {', '.join(missing)}; {_cure(taken)}")
    return tuple(places[_normal(code)] for code in taken.codes)


def _takes(taken: BandsTaken, spec: str) -> str:
    return f"backbone '{spec}' takes {len(taken.codes)} bands ({', '.join(taken.codes)})"


def _cure(taken: BandsTaken) -> str:
    sensor = f" and --sensor {taken.sensors[0]}" if taken.sensors else ", in this order"
    return f"give them by --bands{sensor}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _normal(code: str) -> str:
    """One spelling of the codes of a sensor: "B04", "B4" and "SR_B4" are the same band."""
    upper = code.upper().removeprefix("SR_")
    match = _NUMBERED.fullmatch(upper)
    return f"B{match[1]}" if match else code if code in COLOURS else upper


def _normalisation(taken: BandsTaken, places: Sequence[int], count: int) -> tuple[tuple[float, ...], ...]:
    """(mean, std) of all channels of the image; what the encoder does not take stays as it is."""
    made = []
    for values, rest in ((taken.mean, 0.0), (taken.std, 1.0)):
        of_bands = values * len(places) if len(values) == 1 else values
        of_channels = [rest] * count
        for place, value in zip(places, of_bands):
            of_channels[place] = value
        made.append(tuple(of_channels))
    return tuple(made)


@dataclass(frozen=True)
class BandPreprocess(CropTransform):
    """A picklable callable: image of C channels -> pixels (C, S, S) float32, each channel with its own mean and
    standard deviation.

    Args:
        transform: resizes and crops; three channels at a time, all alike.
        mean, std: of each channel.
    """

    transform: Preprocess
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        object.__setattr__(self, "transform", replace(self.transform, mean=(0.0,) * RGB, std=(1.0,) * RGB))

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        statistics = {"mean": list(self.mean), "std": list(self.std)}
        return {"transform": "bands", "of": self.transform.spec, **statistics}

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        """(C, S, S) float32 of an array (H, W, C), uint8 or float in 0..1; of three channels a picture will do.

        Raises:
            DataError: an array of another shape or kind.
        """
        count = len(self.mean)
        seed = int(torch.randint(2**31, ())) if seed is None and self.transform.train else seed
        if count == RGB:
            return normalize_(self.transform(image, seed=seed), self.mean, self.std)
        array = np.asarray(image)
        if isinstance(image, Image.Image) or array.ndim != 3 or array.shape[-1] != count:
            shape = array.shape if array.ndim else type(image).__name__
            raise DataError(f"an image of shape {shape} is not usable; give an array (H, W, {count})")
        made = []
        for start in range(0, count, RGB):
            group = array[..., start : start + RGB]
            width = group.shape[-1]
            padded = np.pad(group, ((0, 0), (0, 0), (0, RGB - width)))
            made.append(self.transform(np.ascontiguousarray(padded), seed=seed)[:width])
        return normalize_(torch.cat(made), self.mean, self.std)

    def with_crop(self, scale: tuple[float, float]) -> BandPreprocess:
        return replace(self, transform=self.transform.with_crop(scale))

    def without_flip(self) -> BandPreprocess:
        return replace(self, transform=self.transform.without_flip())
