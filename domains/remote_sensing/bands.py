"""Which bands of a raster make a picture: by number, by name, as a composite or an index; and what sensors call them.

`--bands` takes numbers from 1 ("4,3,2"), names ("red,green,blue", "B04"), composites ("false-color") and indices
("ndvi"), comma-separated: one of them gives a grey picture, three a coloured one, four or more are channels that a
tower is widened for. Several pictures of one place, of one or three channels each, are joined by "+"
("true-color+false-color"): each is encoded by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

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
    """

    name: str
    bands: dict[str, str]
    orders: tuple[tuple[str, ...], ...]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None

    def order_of(self, count: int) -> tuple[str, ...] | None:
        """Codes of a file of so many bands."""
        return next((order for order in self.orders if len(order) == count), None)


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
    """A choice of bands as `pictures_of` takes it, as far as can be told without a raster; numbers may be a list.

    Raises:
        ConfigError: no channel or two in a picture, more than three in one of several, or a band 0.
    """
    text = ",".join(map(str, text)) if isinstance(text, Sequence) and not isinstance(text, str) else str(text)
    pictures = _split(text)
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
    return "+".join(",".join(picture) for picture in pictures)


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


def pictures_of(
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
    known = {name.lower(): position for position, called in reversed(list(enumerate(names))) for name in called}
    text = text or _usual(known, len(names), place)
    if alpha and str(len(names) + 1) in (name for picture in _split(text) for name in picture):
        raise DataError(
            f"{place}: has no band {len(names) + 1}, only {len(names)} and one marked as transparency; correct "
            "--bands, or name the --sensor"
        )
    return [
        [channel for name in picture for channel in _channels(name, known, names, place)] for picture in _split(text)
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
    known = [sensors()[sensor]] if sensor else list(_sensors().values())
    codes = [{code.lower(): common for code, common in each.bands.items()} for each in known]
    means = {of_sensor[name] for of_sensor in codes if name in of_sensor}
    return means.pop() if len(means) == 1 else name


def _split(text: str) -> list[list[str]]:
    return [[name.strip().lower() for name in picture.split(",") if name.strip()] for picture in text.split("+")]


def _usual(known: dict[str, int], count: int, place: str) -> str:
    for composite in ("true-color", "sar"):
        if all(name in known or name in DIFFERENCES for name in COMPOSITES[composite]):
            return composite
    if count == 1:
        return "1"
    if count == 2:
        raise DataError(f"{place}: nothing says what its 2 bands are; choose one by --bands 1, or name the --sensor")
    return "1,2,3"


def _channels(name: str, known: dict[str, int], names: Sequence[Sequence[str]], place: str) -> list[Channel]:
    if name in COMPOSITES:
        return [channel for part in COMPOSITES[name] for channel in _channels(part, known, names, place)]
    for kind, table in (("index", INDICES), ("difference", DIFFERENCES)):
        if name in table:
            return [Channel(kind, tuple(_position(part, known, names, place) for part in table[name]))]
    return [Channel("band", (_position(name, known, names, place),))]


def _position(name: str, known: dict[str, int], names: Sequence[Sequence[str]], place: str) -> int:
    if name in known:
        return known[name]
    if name.isdigit():
        if int(name) <= len(names):
            return int(name) - 1
        raise DataError(f"{place}: has no band {name}, only {len(names)}; correct --bands")
    called = [called[-1].lower() for called in names if called]
    if not called:
        raise DataError(f"{place}: its bands have no names, so none is '{name}'; give numbers, or name the --sensor")
    raise DataError(f"{place}: has no band '{name}'; {did_you_mean(name, [*called, *COMPOSITES, *INDICES])}")


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
        )
        for name, facts in content.items()
    }
