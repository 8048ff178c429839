"""What a user may say of slides."""

from __future__ import annotations

from dataclasses import dataclass

from ....core import contracts
from ....core.contracts import option

TILE, MPP = 256, 0.5
"""Where neither the user nor the encoder says otherwise."""


@dataclass(frozen=True, kw_only=True)
class SlideOptions(contracts.NumberReading):
    """Options of a reader of slides."""

    mpp: float | None = option(
        None, "slides: micrometres per pixel of a tile; by default those of the encoder, else 0.5", above=0, high=20
    )
    tile: int | None = option(
        None, "slides: side of a tile in pixels; by default that of the encoder, else 256", low=16, high=4096
    )
    tissue: float = option(0.5, "slides: least share of tissue in a tile", above=0, high=1)
    slide_mpp: float | None = option(
        None, "slides: micrometres per pixel of the largest level, where a slide does not say them", above=0, high=20
    )
    regions: str | None = option(
        None, "slides: GeoJSON of QuPath, a file or folder named after slides; only its regions are used"
    )
    bags: str | None = option(None, "slides: folder of stored tile features, of CLAM, TRIDENT or vladapt")
    coarse_bags: str | None = option(
        None, "slides: folder of the stored tile features of a lower magnification, for vila-mil"
    )
    class_texts: str | None = option(
        None, "slides: file of text features of the classes (class_names, text_features), beside stored tile features"
    )
    clam_splits: str | None = option(
        None, "slides: splits_N.csv of CLAM, which slides train, choose and test, beside stored tile features"
    )
