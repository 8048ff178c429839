"""Which bands of a raster make a picture: by number, by name, as a composite or an index; and what sensors call them.

`--bands` takes numbers from 1 ("4,3,2"), names ("red,green,blue", "B04"), composites ("false-color") and indices
("ndvi"), comma-separated: one of them gives a grey picture, three a coloured one, four or more are channels that a
tower is widened for. Several pictures of one place, of one or three channels each, are joined by "+"
("true-color+false-color"): each is encoded by itself. A band may be followed by its wavelength and its width in nm
("4@842" or "4@842/115"), for towers that read bands by these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ...core.contracts import Band
from ...core.errors import ConfigError, DataError, did_you_mean

FILE = Path(__file__).with_name("sensors.json")
ALIKE = {"landsat-9": "landsat-8"}
COMPOSITES: dict[str, tuple[str, str, str]] = {
    "true-color": ("red", "green", "blue"),
    "false-color": ("nir", "red", "green"),
    "swir": ("swir22", "nir", "red"),
    "sar": ("vv", "vh", "vv-vh"),
}
COLOURS = 3
"""Channels of a picture that towers take as they are."""
INDICES: dict[str, tuple[str, str]] = {
    "ndvi": ("nir", "red"),
    "ndwi": ("green", "nir"),
    "ndbi": ("swir16", "nir"),
}
"""Index -> the bands a and b of (a - b) / (a + b)."""
WAVELENGTH = re.compile(r"(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?")
DIFFERENCES: dict[str, tuple[str, str]] = {"vv-vh": ("vv", "vh")}
"""In dB, a ratio."""


@dataclass(frozen=True)
class Sensor:
    """What is known of a sensor's files.

    Args:
        name: on --sensor.
        bands: its code of a band ("B04") -> the common name ("red").
        orders: codes in the order in which files hold them.
        scale, offset: physical value = stored value * scale + offset, where whole numbers are stored.
        nodata: stored value that means nothing, where a file does not say; None for none.
        wavelengths: its code of a band -> centre and width in nm.
    """

    name: str
    bands: dict[str, str]
    orders: tuple[tuple[str, ...], ...]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    wavelengths: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def order_of(self, count: int) -> tuple[str, ...] | None:
        """Codes of a file of so many bands."""
        return next((order for order in self.orders if len(order) == count), None)

    def code_of(self, name: str) -> str | None:
        """Its code of a band, by that, by the common name, or by the number where all its files have it there."""
        if name.isdigit():
            there = {order[int(name) - 1] for order in self.orders if int(name) <= len(order)}
            return there.pop() if len(there) == 1 else None
        lower = {code.lower(): code for code in self.bands} | {common: code for code, common in self.bands.items()}
        return lower.get(name.lower())


@dataclass(frozen=True)
class Channel:
    """One channel of a picture: a band, or what is computed of two.

    Args:
        kind: "band"; "index", (a - b) / (a + b); or "difference", a - b.
        bands: positions, from 0.
    """

    kind: str
    bands: tuple[int, ...]


def sensors() -> dict[str, Sensor]:
    """Name -> sensor."""
    return {**_sensors(), **{name: _sensors()[as_] for name, as_ in ALIKE.items()}}


def check_bands(text: str | int | Sequence[str | int]) -> str:
    """A choice of bands as `band_pictures` takes it, as far as can be told without a raster; numbers may be a list.

    Raises:
        ConfigError: no channel or two in a picture, more than three in one of several, or a band 0.
    """
    text = ",".join(map(str, text)) if isinstance(text, Sequence) and not isinstance(text, str) else str(text)
    pictures, written = _split(text), _written(text)
    for name, at, wave in (each.partition("@") for picture in written for each in picture):
        if at and (not WAVELENGTH.fullmatch(wave) or name in COMPOSITES):
            raise ConfigError(f"'{name}@{wave}': give a band and its wavelength in nm, as in 4@842 or 4@842/115")
    for picture in pictures:
        count = len(_spread(picture))
        if count in (0, 2) or (count > COLOURS and len(pictures) > 1):
            cure = "give one, three or more" if count <= COLOURS else "give each of several pictures one or three"
            raise ConfigError(f"{count} channels in '{','.join(picture)}'; {cure}")
        names = _spread(picture)
        if count > COLOURS and (twice := [name for place, name in enumerate(names) if name in names[:place]]):
            raise ConfigError(f"band {twice[0]} is named twice in '{','.join(picture)}'; name each once")
        for name in picture:
            if name.lstrip("-").isdigit() and int(name) < 1:
                raise ConfigError(f"there is no band {name}; bands are counted from 1")
    return "+".join(",".join(picture) for picture in written)


def further_channels(text: str | None, sensor: str | None) -> tuple[str, ...] | None:
    """Names of the channels of a picture that has more than three, in the order in which they are read: red, green and
    blue first where all three are named, then the others as they were given. None for pictures of up to three.

    Args:
        text: as `check_bands` gives it.
        sensor: name of one; without it a code means what all sensors that know it mean by it.
    """
    pictures = _split(text or "")
    names = _spread(pictures[0])
    if len(pictures) > 1 or len(names) <= COLOURS:
        return None
    called = {_meaning(name, sensor): name for name in reversed(names)}
    colours = [called.get(colour) for colour in COMPOSITES["true-color"]]
    if None in colours:
        return tuple(names)
    return (*colours, *[name for name in names if name not in colours])


def named_bands(text: str | None, sensor: str | None) -> tuple[tuple[str, ...], tuple[Band, ...]]:
    """Names of the channels of a picture of three or more, as they are read, and what is known of each; none where the
    bands were not chosen, or make several pictures or a grey one.

    Args:
        text, sensor: as for `further_channels`.
    """
    pictures = _split(text or "")
    if len(pictures) > 1 or len(_spread(pictures[0])) < COLOURS:
        return (), ()
    names = further_channels(text, sensor) or tuple(_spread(pictures[0]))
    waves = {name: wave for name, _, wave in (each.partition("@") for each in _written(text or "")[0])}
    return names, tuple(_band(name, sensor, waves.get(name, "")) for name in names)


def _band(name: str, sensor: str | None, wave: str) -> Band:
    """What the table of sensors knows of a band, and the wavelength that a user gave in its place."""
    candidates = [sensors()[sensor]] if sensor else list(_sensors().values())
    meant = [(each, code) for each in candidates if (code := each.code_of(name)) is not None]
    facts = {(each.bands[code], each.wavelengths.get(code)) for each, code in meant}
    common, wavelength, width = "", None, None
    if len(facts) == 1:
        common, (wavelength, width) = meant[0][0].bands[meant[0][1]], next(iter(facts))[1] or (None, None)
    of_sensor = (sensor or meant[0][0].name, meant[0][1]) if len(facts) == 1 else ("", "")
    if not common and any(name in each.bands.values() for each in candidates):
        common = name
    if stated := WAVELENGTH.fullmatch(wave):
        wavelength, width = float(stated[1]), float(stated[2]) if stated[2] else width
    return Band(*of_sensor, common, wavelength, width)


def band_pictures(
    text: str | None, names: Sequence[Sequence[str]], place: str, alpha: bool = False
) -> list[list[Channel]]:
    """The pictures that a choice of bands makes of a raster.

    Args:
        text: the choice; None for true colour where the names of bands tell it, radar's composite, the only band, or
            the first three.
        names: of each band, all that it is called by.
        place: for messages.
        alpha: whether it has transparency besides.

    Raises:
        DataError: the raster has no such band, or nothing says which of its bands to take.
    """
    positions = {name.lower(): position for position, called in reversed(list(enumerate(names))) for name in called}
    text = text or _usual(positions, len(names), place)
    if alpha and str(len(names) + 1) in (name for picture in _split(text) for name in picture):
        raise DataError(
            f"{place}: has no band {len(names) + 1}, only {len(names)} and one marked as transparency; correct "
            "--bands, or name the --sensor"
        )
    return [
        [channel for name in picture for channel in _channels(name, positions, names, place)]
        for picture in _split(text)
    ]


def common_names(names: Sequence[str], sensor: Sensor | None) -> list[tuple[str, ...]]:
    """All that each band is called by: its name, and what the sensor's code of it means."""
    codes = {} if sensor is None else {code.lower(): common for code, common in sensor.bands.items()}
    return [tuple(dict.fromkeys(n for n in (name, codes.get(name.lower())) if n)) for name in names]


def _spread(picture: Sequence[str]) -> list[str]:
    """Names of the channels, those of composites among them."""
    return [part for name in picture for part in COMPOSITES.get(name, (name,))]


def _meaning(name: str, sensor: str | None) -> str:
    """The common name of a band of that name, code, or number where all files of the sensor have it there."""
    if sensor and name.isdigit():
        place = int(name) - 1
        there = {order[place].lower() for order in sensors()[sensor].orders if place < len(order)}
        name = there.pop() if len(there) == 1 else name
    candidates = [sensors()[sensor]] if sensor else list(_sensors().values())
    codes = [{code.lower(): common for code, common in each.bands.items()} for each in candidates]
    means = {of_sensor[name] for of_sensor in codes if name in of_sensor}
    return means.pop() if len(means) == 1 else name


def _split(text: str) -> list[list[str]]:
    """Names of the bands of each picture, without wavelengths."""
    return [[name.partition("@")[0] for name in picture] for picture in _written(text)]


def _written(text: str) -> list[list[str]]:
    return [[name.strip().lower() for name in picture.split(",") if name.strip()] for picture in text.split("+")]


def _usual(positions: dict[str, int], count: int, place: str) -> str:
    for composite in ("true-color", "sar"):
        if all(name in positions or name in DIFFERENCES for name in COMPOSITES[composite]):
            return composite
    if count == 1:
        return "1"
    if count == 2:
        raise DataError(f"{place}: nothing says what its 2 bands are; choose one by --bands 1, or name the --sensor")
    return "1,2,3"


def _channels(name: str, positions: dict[str, int], names: Sequence[Sequence[str]], place: str) -> list[Channel]:
    if name in COMPOSITES:
        return [channel for part in COMPOSITES[name] for channel in _channels(part, positions, names, place)]
    for kind, table in (("index", INDICES), ("difference", DIFFERENCES)):
        if name in table:
            return [Channel(kind, tuple(_position(part, positions, names, place) for part in table[name]))]
    return [Channel("band", (_position(name, positions, names, place),))]


def _position(name: str, positions: dict[str, int], names: Sequence[Sequence[str]], place: str) -> int:
    if name in positions:
        return positions[name]
    if name.isdigit():
        if int(name) <= len(names):
            return int(name) - 1
        raise DataError(f"{place}: has no band {name}, only {len(names)}; correct --bands")
    called = [called[-1].lower() for called in names if called]
    if not called:
        raise DataError(f"{place}: its bands have no names, so none is '{name}'; give numbers, or name the --sensor")
    hint = did_you_mean(name, [*called, *COMPOSITES, *INDICES])
    raise DataError(f"{place}: has no band '{name}', only {', '.join(called[:8])}; {hint}")


@lru_cache(maxsize=1)
def _sensors() -> dict[str, Sensor]:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Sensor(
            name,
            facts["bands"],
            tuple(tuple(order.split()) for order in facts["orders"]),
            facts.get("scale", 1.0),
            facts.get("offset", 0.0),
            facts.get("nodata"),
            {code: (centre, width) for code, (centre, width) in facts.get("wavelengths", {}).items()},
        )
        for name, facts in content.items()
    }
