"""How well a map of semantic localisation fits the regions where its sentence is true: Rsu, Ras, Rda and Rmi.

"Learning to Evaluate Performance of Multi-modal Semantic Localization" (Yuan et al., 2022, arXiv 2209.06515), with the
constants of the released code. Known of these scores:

* A map that is the same everywhere has Rsu 0.5069: that is chance, not 0.
* A centre of attention is the largest within 1000 pixels around, so pictures smaller than that have one at most, and
  scores depend on the size in pixels. The box filter of even side moves centres by about two pixels.
* The released code draws all regions of a sentence into its mask by the even-odd rule: where two overlap there is a
  hole. Ours is their union; `even_odd` gives the released mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....core.errors import DataError

RSU_BETA, RSU_EPS = 0.707, 1e-7
EXPAND = 1.5
BOX, BOX_TIMES = 50, 5
NEIGHBOURHOOD = 1000
LEAST_PROBABILITY = 0.5
RAS_BETA, RDA_ETA = 3.0, 0.5
WEIGHTS = {"rsu": 0.4, "ras": 0.35, "rda": 0.25}

Polygon = Sequence[Sequence[float]]
"""[[x, y], ...] in pixels."""


@dataclass(frozen=True)
class LocalizationScores:
    """Scores of one sentence; all but `ras` are better the higher.

    Args:
        rsu: share of attention inside the regions, corrected for their area.
        ras: distance of attention from the regions' centres, 0 to 1; lower is better.
        rda: whether each region has one centre of attention.
        centres: (n, 2) x, y of attention, the strongest first.
        regions: (r, 3) x, y and radius of each region.
        area: pixels of the regions.
    """

    rsu: float
    ras: float
    rda: float
    centres: np.ndarray
    regions: np.ndarray
    area: int

    @property
    def rmi(self) -> float:
        """The weighted mean of all three."""
        return WEIGHTS["rsu"] * self.rsu + WEIGHTS["ras"] * (1 - self.ras) + WEIGHTS["rda"] * self.rda

    def metrics(self) -> dict[str, float]:
        """By name."""
        return {"Rsu": self.rsu, "Ras": self.ras, "Rda": self.rda, "Rmi": self.rmi}


def localization_scores(heat: np.ndarray, regions: Sequence[Polygon], even_odd: bool = False) -> LocalizationScores:
    """Scores of a map.

    Args:
        heat: (H, W) uint8, 255 where the sentence fits best.
        regions: where the sentence is true, of 3 points or more each.
        even_odd: fill overlapping regions as the released code does.

    Raises:
        DataError: no region, or one without an area inside the picture.
    """
    if not regions:
        raise DataError("no region is annotated; draw at least one polygon")
    mask = region_mask(heat.shape, regions, even_odd)
    area = int(mask.sum())
    circles = np.array([_circle(region) for region in regions], np.int64)
    if not area or not circles[:, 2].all():
        raise DataError("a region lies outside the picture or has no area; correct its points")
    probability = heat / 255.0
    centres = attention_centres(probability)
    distances = [_distances(circle, centres) for circle in circles]  # to the centres within each radius
    return LocalizationScores(
        _rsu(probability, mask, area), _ras(distances, circles), _rda(centres, circles), centres, circles, area
    )


def region_mask(shape: tuple[int, int], regions: Sequence[Polygon], even_odd: bool = False) -> np.ndarray:
    """(H, W) uint8, 1 inside the regions and on their border; vertices are cut to whole pixels."""
    import cv2

    outlines = [np.array(region, np.float64).astype(np.int32) for region in regions]
    mask = np.zeros(shape, np.uint8)
    for some in [outlines] if even_odd else [[outline] for outline in outlines]:
        cv2.fillPoly(mask, some, 1)
    return mask


def attention_centres(probability: np.ndarray) -> np.ndarray:
    """(n, 2) x, y of the places that attention is on, the most probable first.

    Args:
        probability: (H, W) in 0..1.
    """
    import cv2
    from scipy import ndimage

    smooth = (probability * 255.0).astype(np.uint8)
    for _ in range(BOX_TIMES):
        smooth = cv2.blur(smooth, (BOX, BOX))  # reflects at the border without repeating it
    peaks = (ndimage.maximum_filter(smooth, size=NEIGHBOURHOOD) == smooth) & (smooth > 0)
    labels, count = ndimage.label(peaks, structure=np.ones((3, 3)))
    middles = np.array(ndimage.center_of_mass(peaks, labels, range(1, count + 1))).reshape(-1, 2).astype(np.int64)
    values = probability[middles[:, 0], middles[:, 1]]
    order = np.argsort(-values, kind="stable")
    likely = middles[order][values[order] >= LEAST_PROBABILITY]
    return np.ascontiguousarray(likely[:, ::-1])


def mean_sentence_scores(scores: Sequence[LocalizationScores]) -> dict[str, float]:
    """The mean over sentences of each score."""
    return {name: float(np.mean([each.metrics()[name] for each in scores])) for name in scores[0].metrics()}


def _circle(region: Polygon) -> tuple[int, int, int]:
    """Centre and radius: the mean of the vertices, and one and a half times their mean distance from it."""
    points = np.array(region, np.float64)
    centre = points.mean(axis=0).astype(np.int64)
    return int(centre[0]), int(centre[1]), int(EXPAND * np.linalg.norm(points - centre, axis=1).mean())


def _distances(circle: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """From a region's centre to those of attention within its radius."""
    distances = np.linalg.norm(centres - circle[:2], axis=1)
    return distances[distances <= circle[2]]


def _rsu(probability: np.ndarray, mask: np.ndarray, area: int) -> float:
    inside = float((probability * mask).sum())
    outside = float(probability.sum()) - inside
    return 1 - math.exp(-RSU_BETA * inside / (outside + RSU_EPS) * (mask.size - area) / area)


def _ras(distances: Sequence[np.ndarray], circles: np.ndarray) -> float:
    shares = [(near.mean() if len(near) else radius) / radius for near, radius in zip(distances, circles[:, 2])]
    return math.expm1(RAS_BETA * float(np.mean(shares))) / math.expm1(RAS_BETA)


def _rda(centres: np.ndarray, circles: np.ndarray) -> float:
    values = []
    for x, y, radius in circles:
        near = centres[np.linalg.norm(centres - (x, y), axis=1) <= radius]
        if len(near) <= 1:
            values.append(float(len(near)))
            continue
        spread = np.linalg.norm(near - near.mean(axis=0), axis=1).mean() / radius
        values.append(RDA_ETA * (1 - spread) + math.exp(-RDA_ETA * (len(near) + 2)))
    return float(np.mean(values))
