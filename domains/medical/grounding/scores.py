"""How well the map of a phrase agrees with the boxes that radiologists drew.

The measures of "Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing" (Boecking et al.,
2022, arXiv 2204.09817), of "Learning to Exploit Temporal Structure for Biomedical Vision-Language Processing" (Bannur
et al., 2023, arXiv 2301.04558), and the pointing game of "Top-down Neural Attention by Excitation Backprop" (Zhang et
al., 2016, arXiv 1608.00507). Their authors published no code of the measures; how several boxes count follows that of
"Zero-Shot Medical Phrase Grounding with Off-the-shelf Diffusion Models" (Vilouras et al., 2024, arXiv 2404.12920), and
the contrast of all boxes as one region stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
LEAST_VARIANCE = 1e-12
"""A map that is constant on both sides has no noise to compare a contrast with."""
Box = Sequence[float]


def inside_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """(n, H, W) bool of boxes x0, y0, x1, y1 in pixels, which may reach beyond the image.

    Args:
        size: (height, width).
    """
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        rows, columns = (slice(max(0, round(a)), max(0, round(b))) for a, b in ((top, bottom), (left, right)))
        mask[rows, columns] = True
    return masks


def contrast(heat: Tensor, inside: Tensor) -> float:
    """Contrast-to-noise ratio: the difference of the means inside and outside, over the root of the sum of the
    variances there.

    Args:
        heat: (H, W), NaN where nothing is known.
        inside: (H, W) bool.

    Returns:
        0 where nothing is known inside or outside, or the map is flat.
    """
    known, heat = heat.isfinite(), heat.double()
    within, around = heat[known & inside], heat[known & ~inside]
    if not len(within) or not len(around):
        return 0.0
    noise = (within.var(correction=0) + around.var(correction=0)).clamp_min(LEAST_VARIANCE).sqrt()
    return float((within.mean() - around.mean()) / noise)


def contrasts(heat: Tensor, masks: Tensor) -> list[float]:
    """The contrast of each box, (n, H, W) bool. What earlier boxes cover counts neither inside nor outside; the later
    ones are outside."""
    values, left = [], heat.clone()
    for mask in masks:
        values.append(contrast(left, mask))
        left[mask] = torch.nan
    return values


def _overlaps(heat: Tensor, inside: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> list[float]:
    """At each threshold the intersection over union of the part of the map above it and the boxes, (H, W) bool. Boxes
    that the tower's crop does not reach count as missed."""
    ious = []
    for threshold in thresholds:
        marked = heat > threshold  # NaN is not
        ious.append(float((marked & inside).sum() / (marked | inside).sum().clamp_min(1)))
    return ious


def points_inside(heat: Tensor, inside: Tensor) -> bool:
    """Whether the highest value, of equal ones the first, lies in a box."""
    return bool(inside.flatten()[heat.nan_to_num(-torch.inf).flatten().argmax()])


def phrase_scores(heat: Tensor, masks: Tensor, clamp: bool = True) -> dict[str, float]:
    """All measures of one map.

    Args:
        heat: (H, W), NaN where the tower sees nothing.
        masks: (n, H, W) bool, a box each.
        clamp: take values below 0 as 0, as the public code does; where all are, the contrast is then 0.

    Returns:
        "cnr" and "absolute_cnr", means over boxes; "union_cnr" of all boxes as one region; "pointing" 0 or 1; "miou",
        the mean over thresholds.
    """
    inside, counted = masks.any(dim=0), heat.clamp_min(0) if clamp else heat
    of_boxes, ious = contrasts(counted, masks), _overlaps(counted, inside)
    return {
        "cnr": sum(of_boxes) / len(of_boxes),
        "absolute_cnr": sum(map(abs, of_boxes)) / len(of_boxes),
        "union_cnr": contrast(counted, inside),
        "pointing": float(points_inside(heat, inside)),
        "miou": sum(ious) / len(ious),
    }


def chance(masks: Tensor, seen: Tensor) -> dict[str, float]:
    """The same of a map that says nothing: a point drawn where the tower sees, (H, W) bool, and all of it marked. Not
    of the contrast without its sign, which any noise makes larger than 0."""
    inside = masks.any(dim=0)
    union = (inside | seen).sum().clamp_min(1)
    return {
        **dict.fromkeys(("cnr", "union_cnr"), 0.0),
        "pointing": float((inside & seen).sum() / seen.sum().clamp_min(1)),
        "miou": float((inside & seen).sum() / union),
    }
