"""How well structures are found: Dice, the 95 % Hausdorff distance and surface Dice of each in each volume, by MONAI.

MONAI takes surfaces as the voxels of a mask that its erosion by the six neighbours leaves; HD95 is the larger of the
two directed 95 % quantiles; surface Dice counts voxels of both surfaces within the tolerance. Other definitions give
other numbers (areas of surfels in place of voxels, both directions pooled).

A structure that is missed, or found where it is not, counts: Dice and surface Dice are 0 and the distance is the
diagonal of the volume, as BraTS has it. MONAI gives NaN there and its mean leaves it out, so that missing more would
score better. A structure that is neither there nor found has no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ....core.metrics import drawn_weights, intervals_of, units_of

DICE, HD95, SURFACE = "dice", "hd95_mm", "surface_dice"
NAMES = (DICE, HD95, SURFACE)
SAMPLES = 1000
MISSED, INVENTED = "missed", "found where it is not"
QUANTILE = 95


@dataclass(frozen=True)
class CaseScores:
    """One volume.

    Args:
        values: (K, 3) Dice, HD95 in millimetres and surface Dice; NaN where there is nothing to score.
        wrong: structure -> MISSED or INVENTED.
    """

    values: np.ndarray
    wrong: Mapping[int, str]


def case_scores(
    truth: np.ndarray,
    found: np.ndarray,
    values: Sequence[Sequence[int]],
    found_values: Sequence[Sequence[int]],
    spacing: Sequence[float],
    tolerance: float,
) -> CaseScores:
    """Scores of one volume, each structure in the box that holds it.

    Args:
        truth, found: labels, of one shape.
        values, found_values: the labels of each structure in either; none of one that nobody outlined.
        spacing: millimetres along each axis.
        tolerance: of surface Dice, in millimetres.
    """
    rows, wrong = np.full((len(values), len(NAMES)), np.nan), {}
    for place, (of_truth, of_found) in enumerate(zip(values, found_values, strict=True)):
        if not of_truth:
            continue
        one, other = np.isin(truth, list(of_truth)), np.isin(found, list(of_found))
        rows[place] = structure_scores(one, other, spacing, tolerance)
        if one.any() != other.any():
            wrong[place] = MISSED if one.any() else INVENTED
    return CaseScores(rows, wrong)


def structure_scores(
    truth: np.ndarray, found: np.ndarray, spacing: Sequence[float], tolerance: float
) -> tuple[float, float, float]:
    """Dice, HD95 in millimetres and surface Dice of two masks; NaN where both are empty."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.surface_dice import compute_surface_dice

    if not truth.any() and not found.any():
        return np.nan, np.nan, np.nan
    if not truth.any() or not found.any():
        return 0.0, float(np.linalg.norm(np.array(truth.shape) * spacing)), 0.0
    box = _box(truth | found)
    one, other = (torch.from_numpy(mask[box])[None, None].float() for mask in (truth, found))
    how = {"include_background": True, "spacing": list(spacing)}
    distance = compute_hausdorff_distance(other, one, percentile=QUANTILE, **how)
    surface = compute_surface_dice(other, one, class_thresholds=[tolerance], **how)
    return float(compute_dice(other, one)), float(distance), float(surface)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask, a voxel wider."""
    box = []
    for axis in range(mask.ndim):
        at = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(max(0, int(at[0]) - 1), int(at[-1]) + 2))
    return tuple(box)


def mean_scores(cases: Sequence[CaseScores], class_names: Sequence[str]) -> dict[str, float]:
    """The means over volumes, then over structures; Dice of each structure; and how many were missed or invented."""
    table = torch.from_numpy(np.stack([case.values for case in cases]))  # (N, K, 3)
    per_structure = table.nanmean(dim=0)  # (K, 3)
    metrics = {name: float(per_structure[:, at].nanmean()) for at, name in enumerate(NAMES)}
    for place, name in enumerate(class_names):
        metrics[f"{DICE}_{name}"] = float(per_structure[place, 0])
    metrics["missed"] = float(sum(len(case.wrong) for case in cases))
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def case_intervals(
    cases: Sequence[CaseScores], class_names: Sequence[str], groups: Sequence[str | None]
) -> tuple[dict[str, list[float]], int]:
    """95 % intervals of the means by a bootstrap of patients, and how many patients there are."""
    table = torch.from_numpy(np.stack([case.values for case in cases]))  # (N, K, 3)
    known, filled = table.isfinite().double(), table.nan_to_num(0.0)
    weights = torch.cat([*drawn_weights(len(cases), list(groups), SAMPLES)]).double()  # (S, N)
    sums, counts = (torch.einsum("sn,nkm->skm", weights, of) for of in (filled, known))
    means: Tensor = sums / counts  # (S, K, 3); 0 / 0 is NaN: the structure is in none of the draw
    units = units_of(list(groups), len(cases))[1]
    overall = {name: means[:, :, at].nanmean(dim=1) for at, name in enumerate(NAMES)}
    overall |= {f"{DICE}_{name}": means[:, place, 0] for place, name in enumerate(class_names)}
    if units < 2:
        return {}, units
    shares = {name: of for name, of in overall.items() if name != HD95 and of.isfinite().any()}
    bounds = {**intervals_of(shares, units=units), **intervals_of({HD95: overall[HD95]})}
    return {name: of for name, of in bounds.items() if of[0] < of[1]}, units  # equal ones would claim certainty
