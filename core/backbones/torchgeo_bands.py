"""Which bands of an image the encoders of torchgeo take: by their names, in their order, or by their wavelengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contracts.images import RGB, Band, InputChannels
from ..errors import CapabilityError, ConfigError

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
        return BandInputs((0, 1, 2), (), (), *_statistics(taken, (0, 1, 2), RGB), note=note)
    places = _by_name(taken, channels, spec)
    names = [channels.names[place] for place in places]
    pairs = ", ".join(
        code if _normal(code) == _normal(name) else f"{name} as {code}"
        for code, name in zip(_as_given(taken, taken.codes), names)
    )
    unused = [name for place, name in enumerate(channels.names) if place not in places]
    note = f"The encoder takes {pairs}{f'; {_listed(unused)} unused' if unused else ''}."
    return BandInputs(places, (), (), *_statistics(taken, places, len(channels)), note=note)


def _by_wavelength(taken: BandsTaken, channels: InputChannels | None, spec: str) -> BandInputs:
    names = COLOURS if channels is None else channels.names
    count = len(names)
    if channels is None:
        bands = [Band("", "", *each) for each in zip(COLOURS, RGB_WAVELENGTHS, RGB_BANDWIDTHS)]
    else:
        bands = [*channels.bands] or [Band()] * count
    waves, widths = tuple(band.wavelength or 0.0 for band in bands), tuple(band.bandwidth or 0.0 for band in bands)
    needed = {"wavelength": waves, **({"bandwidth": widths} if taken.bandwidths else {})}
    for what, values in needed.items():
        if missing := [name for name, value in zip(names, values) if not value]:
            example = f"{missing[0]}@842/115" if taken.bandwidths else f"{missing[0]}@842"
            raise ConfigError(
                f"backbone '{spec}' reads bands by their {what}, which is not known of {', '.join(missing)}; name the "
                f"--sensor, or give it in nanometres with the band: --bands {example},..."
            )
    described = [
        f"{name} at {wave:g}" + (f" (width {width:g})" if taken.bandwidths else "")
        for name, wave, width in zip(names, waves, widths)
    ]
    widths, places = widths if taken.bandwidths else (), tuple(range(count))
    note = f"The encoder reads its bands by wavelength: {', '.join(described)} nm."
    return BandInputs(places, waves, widths, *_statistics(taken, places, count), note=note)


def _by_name(taken: BandsTaken, channels: InputChannels, spec: str) -> tuple[int, ...]:
    """Places of the bands among the channels: by code or colour where the sensor is known, else in their order."""
    sensors = {band.sensor for band in channels.bands if band.sensor}
    named = bool(sensors) or any(band.common for band in channels.bands)
    if not named or not (taken.sensors or taken.codes == COLOURS):
        if len(channels) != len(taken.codes):
            has = f"the images have {len(channels)} ({', '.join(channels.names)})"
            raise CapabilityError(f"{_takes(taken, spec)}, {has}; {_cure(taken)}")
        return tuple(range(len(channels)))
    if taken.sensors and sensors and not sensors & set(taken.sensors):
        raise CapabilityError(f"{_takes(taken, spec)}, the images are of {', '.join(sorted(sensors))}; {_cure(taken)}")
    places: dict[str, int] = {}
    for place, band in enumerate(channels.bands):
        places |= {band.common: place} if band.common else {}
        places |= {_normal(band.code): place} if band.sensor in taken.sensors else {}
    missing = [code for code in taken.codes if _normal(code) not in places]
    if missing:
        raise CapabilityError(
            f"{_takes(taken, spec)}, and --bands lacks {', '.join(_as_given(taken, missing))}; {_cure(taken)}"
        )
    return tuple(places[_normal(code)] for code in taken.codes)


def _takes(taken: BandsTaken, spec: str) -> str:
    return f"backbone '{spec}' takes {len(taken.codes)} bands ({', '.join(_as_given(taken, taken.codes))})"


def _as_given(taken: BandsTaken, codes: Sequence[str]) -> list[str]:
    """Codes as `--bands` takes them: Sentinel-2's have two digits."""
    padded = set(SENTINEL_2) & set(taken.sensors)
    return [f"B0{code[1]}" if padded and re.fullmatch(r"B\d", code) else code for code in codes]


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


def _statistics(taken: BandsTaken, places: Sequence[int], count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of all channels of the image; what the encoder does not take stays as it is."""

    def of_all(values: tuple[float, ...], rest: float) -> tuple[float, ...]:
        of_bands = values * len(places) if len(values) == 1 else values
        by_place = dict(zip(places, of_bands))
        return tuple(by_place.get(place, rest) for place in range(count))

    return of_all(taken.mean, 0.0), of_all(taken.std, 1.0)
