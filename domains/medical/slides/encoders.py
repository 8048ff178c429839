"""Published encoders of tiles: how large a tile they were made for, and how wide their features are.

`encoders.json` has those that model cards and TRIDENT state ("Accelerating Data Processing and Benchmarking of AI
Models for Pathology", Zhang et al., 2025, arXiv 2502.06750). PLIP and QuiltNet were trained on figures of no one
resolution; theirs is the usual one. CONCH and MUSK come as stored features, or by a file of the user's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ....core.errors import DataError

TABLE = Path(__file__).with_name("encoders.json")


@dataclass(frozen=True)
class _TileEncoder:
    """One line of the table.

    Args:
        name: as published.
        specs: what `--backbone` calls it; none where only stored features of it are read.
        tile: side of a tile in pixels.
        mpp: micrometres per pixel.
        width: of its features.
        licence: of its weights, as their card says.
        gated: whether its terms must be accepted on the hub first.
    """

    name: str
    specs: tuple[str, ...]
    tile: int
    mpp: float
    width: int
    licence: str
    gated: bool


@lru_cache(maxsize=1)
def encoders() -> tuple[_TileEncoder, ...]:
    """The table."""
    return tuple(_TileEncoder(**{**row, "specs": tuple(row["specs"])}) for row in json.loads(TABLE.read_text("utf-8")))


def encoder_of(spec: str | None) -> _TileEncoder | None:
    """The encoder that a backbone's spec stands for, whatever options or file it names; None for any other."""
    plain = (spec or "").partition("#")[0].partition("@")[0].lower()
    return next((each for each in encoders() if plain in map(str.lower, each.specs)), None)


def check_width(spec: str | None, width: int, place: str) -> None:
    """Refuse stored features that a backbone did not make.

    Args:
        spec: the backbone that the user names.
        width: of the features.
        place: where they lie, for the message.

    Raises:
        DataError: its features have another width; the message names encoders of that width.
    """
    encoder = encoder_of(spec)
    if encoder is None or encoder.width == width:
        return
    others = ", ".join(each.name for each in encoders() if each.width == width)
    raise DataError(
        f"{place}: its features are {width:,} wide, {encoder.name} gives {encoder.width:,}; give the backbone that "
        f"made them{f' ({others}, for instance)' if others else ''}"
    )
