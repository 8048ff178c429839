"""The deciding tiles of a slide where they lie: as GeoJSON that QuPath opens, and on a picture of the slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .deciding_tiles import MOST, DecidingTiles
from .evidence import overlaid

LONGEST = 1024
"""Pixels of a picture of tiles alone, where the slide itself is not there."""
TISSUE, EDGE = (225, 225, 225), (20, 20, 20)
"""Colours of a tile on such a picture, and of the outlines."""
COLOUR = (200, 30, 30)
"""Of the tiles in QuPath."""


@dataclass(frozen=True)
class TilePlaces:
    """Where the tiles of a slide lie.

    Args:
        coords: (T, 2) int64, x and y of their upper left corners in pixels of the largest level.
        side: of a tile in these pixels.
        size: width and height of the slide in them; of tiles alone, up to where they reach.
        origin: the point that QuPath counts from, the corner of what was scanned.
    """

    coords: np.ndarray
    side: int
    size: tuple[int, int]
    origin: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, coords: Any, attributes: Mapping[str, Any]) -> TilePlaces | None:
        """By what a file of features says; None where it does not say where tiles lie, or how large they are.

        Args:
            coords: (T, 2), or None.
            attributes: as of `Tiles`, as far as they are known; else the side is the commonest step from a tile to the
                next of its row or column. A size that leaves out the corner of a tile is that of another slide, and
                does not count.
        """
        if coords is None or not len(coords):
            return None
        coords = np.asarray(coords).astype(np.int64)
        side = _stated(attributes.get("level0_side")) or _commonest_step(coords)
        if side < 1:
            return None
        stated = (_stated(attributes.get(name)) for name in ("width", "height"))
        width, height = (
            size if size > last else last + side for size, last in zip(stated, coords.max(axis=0).tolist())
        )
        origin = attributes.get("origin")
        x, y = map(_stated, origin) if isinstance(origin, (list, tuple)) and len(origin) == 2 else (0, 0)
        return cls(coords, side, (width, height), (x, y))

    def box(self, part: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of a tile within the slide."""
        x, y = (int(value) for value in self.coords[part])
        return x, y, min(x + self.side, self.size[0]), min(y + self.side, self.size[1])

    def in_qupath(self, part: int) -> tuple[int, int, int, int]:
        """The same from where QuPath counts."""
        (x0, y0, x1, y1), (x, y) = self.box(part), self.origin
        return x0 - x, y0 - y, x1 - x, y1 - y


def _commonest_step(coords: np.ndarray) -> int:
    """From a tile to the next of its row or column, of equally common steps the least; 0 where no two share one."""
    steps = []
    for along, across in ((0, 1), (1, 0)):
        jumps = np.diff(coords[np.lexsort((coords[:, along], coords[:, across]))], axis=0)
        steps.append(jumps[(jumps[:, across] == 0) & (jumps[:, along] > 0), along])
    values, counts = np.unique(np.concatenate(steps), return_counts=True)
    return int(values[counts.argmax()]) if len(values) else 0


def _stated(value: Any) -> int:
    """A number of pixels that a file says; 0 where it is none."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1 << 31 else 0


def as_geojson(tiles: DecidingTiles, places: TilePlaces, class_name: str) -> dict[str, Any]:
    """A FeatureCollection: a square for each deciding tile, with its weight as a measurement, the first first."""
    features = []
    for rank, (part, weight) in enumerate(zip(tiles.parts, tiles.weights), start=1):
        x0, y0, x1, y1 = places.in_qupath(part)
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        properties = {
            "objectType": "detection",
            "name": f"tile {part}",
            "classification": {"name": class_name, "color": list(COLOUR)},
            "measurements": {tiles.kind: round(weight, 6), "rank": rank, "tile": part},
        }
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def tile_map(
    tiles: DecidingTiles, places: TilePlaces, thumbnail: np.ndarray | None = None, named: int = MOST
) -> np.ndarray:
    """(H, W, 3) uint8: how much each tile weighs, over the slide, and the first ones outlined.

    Args:
        thumbnail: (H, W, 3) uint8 of the slide; None: the tiles alone are drawn.
        named: tiles that are outlined.
    """
    import cv2

    scale = LONGEST / max(places.size) if thumbnail is None else thumbnail.shape[1] / places.size[0]
    if thumbnail is None:
        width, height = (max(1, round(side * scale)) for side in places.size)
        picture = np.full((height, width, 3), 255, np.uint8)
    else:
        picture = np.ascontiguousarray(thumbnail[..., :3])

    def corners(part: int) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = (int(value * scale) for value in places.box(part))
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    heat = np.zeros(picture.shape[:2], np.float32)
    every = np.zeros(len(places.coords), np.float32)
    if tiles.every is None:
        every[tiles.parts] = tiles.weights
    else:
        every[:] = tiles.every.cpu().numpy()
    most = every.max()
    for part in range(len(places.coords)):
        x0, y0, x1, y1 = corners(part)
        if thumbnail is None:
            picture[y0:y1, x0:x1] = TISSUE
        if most > 0:
            heat[y0:y1, x0:x1] = np.maximum(heat[y0:y1, x0:x1], every[part] / most)
    drawn = overlaid(picture, torch.from_numpy(heat.clip(0, 1)))
    for part in tiles.parts[:named]:
        x0, y0, x1, y1 = corners(part)
        cv2.rectangle(drawn, (x0 - 1, y0 - 1), (x1, y1), EDGE, max(1, max(drawn.shape) // 500))
    return drawn
