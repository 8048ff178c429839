"""What a user may say of slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....core.contracts import NumberReading, option

ENDINGS = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu")
"""Of files that are slides and nothing else."""
SUFFIXES = (*ENDINGS, ".tif", ".tiff")
STORED = (".safetensors", ".h5", ".hdf5", ".pt")
"""Endings of files of tile features."""
TILE, MPP = 256, 0.5
"""Where neither the user nor the encoder says otherwise."""


@dataclass(frozen=True, kw_only=True)
class SlideOptions(NumberReading):
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
        None,
        "slides: GeoJSON of QuPath, a file or folder named after slides; only its regions are used",
        metavar="PATH",
    )
    bags: str | None = option(None, "slides: folder of stored tile features, of CLAM or TRIDENT", metavar="DIR")
    coarse_bags: str | None = option(
        None, "slides: folder of the stored tile features of a lower magnification, for vila-mil", metavar="DIR"
    )
    class_texts: str | None = option(
        None,
        "slides: text features of the classes (class_names, text_features), beside stored tile features",
        metavar="FILE",
    )
    clam_splits: str | None = option(
        None,
        "slides: splits_N.csv of CLAM, which slides train, choose and test, beside stored tile features",
        metavar="DIR",
    )

    def may_be_stored(self, paths: Sequence[str | Path]) -> bool:
        """Whether new samples may be stored tile features, by what is asked for and by their names alone."""
        of_stored = (self.bags, self.coarse_bags, self.class_texts, self.clam_splits)
        if getattr(self, "unit", None) == "patient" or any(value is not None for value in of_stored):
            return True
        return any(Path(path).suffix.lower() in STORED or Path(path).is_dir() for path in paths)
