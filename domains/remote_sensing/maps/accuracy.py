"""How right a map is, and how large its classes are, from a sample of places whose true class is known.

"Good practices for estimating area and assessing accuracy of land change" (Olofsson et al., Remote Sensing of
Environment 148, 2014, 42-57). Classes of the map are the strata: units of the sample were drawn at random within each.

With n_ij units that the map says are i and the reference says are j, n_i. their sum over j, and W_i the share of the
map that is class i (equation numbers of the paper):

    p_ij = W_i n_ij / n_i.                                                                              (4)
    overall accuracy O = sum_j p_jj, user's U_i = p_ii / p_i., producer's P_j = p_jj / p_.j             (1, 2, 3)
    V(O) = sum_i W_i^2 U_i (1 - U_i) / (n_i. - 1)                                                       (5)
    V(U_i) = U_i (1 - U_i) / (n_i. - 1)                                                                 (6)
    V(P_j) = [ W_j^2 (1 - P_j)^2 U_j (1 - U_j) / (n_j. - 1)
               + P_j^2 sum_{i != j} W_i^2 n_ij / n_i. (1 - n_ij / n_i.) / (n_i. - 1) ] / p_.j^2         (7)
    share of the area p_.k = sum_i p_ik                                                                 (9)
    S(p_.k)^2 = sum_i W_i^2 n_ik / n_i. (1 - n_ik / n_i.) / (n_i. - 1)                                  (10)

and intervals of 95 % are the estimate +- 1.96 standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.96


@dataclass(frozen=True)
class EstimatedValues:
    """Values with the half widths of their 95 % intervals, NaN where they cannot be told."""

    value: np.ndarray
    half_width: np.ndarray


@dataclass(frozen=True)
class MapAccuracy:
    """Accuracy and areas of a map.

    Args:
        class_names: C names.
        matrix: (C, C) int64 error matrix: rows are the map's classes, columns the reference's.
        weights: (C,) share of each class of the map's area.
        overall: of the area, one number.
        users, producers: (C,) of each class.
        shares: (C,) of the area that is each class, by the reference.
        area: of the map, in square metres or pixels.
        unsampled: names of the map's classes without a unit: nothing is known of their part, and the shares of the
            others were divided by their sum.
    """

    class_names: tuple[str, ...]
    matrix: np.ndarray
    weights: np.ndarray
    overall: EstimatedValues
    users: EstimatedValues
    producers: EstimatedValues
    shares: EstimatedValues
    area: float
    unsampled: tuple[str, ...]


def map_accuracy(class_names: Sequence[str], matrix: np.ndarray, areas: np.ndarray) -> MapAccuracy:
    """Accuracy and areas by the formulas above.

    Args:
        class_names: C names.
        matrix: (C, C) counts of the sample: rows are the map's classes, columns the reference's.
        areas: (C,) of each class on the map.

    Raises:
        ValueError: shapes that do not fit, negative numbers, or no unit in any class of the map.
    """
    counts, areas = np.asarray(matrix, np.float64), np.asarray(areas, np.float64)
    classes = len(class_names)
    if counts.shape != (classes, classes) or areas.shape != (classes,):
        raise ValueError(f"a matrix {counts.shape} and areas {areas.shape} of {classes} classes")
    units = counts.sum(axis=1)  # (C,) n_i.
    sampled = (units > 0) & (areas > 0)
    if (counts < 0).any() or (areas < 0).any() or not sampled.any():
        raise ValueError("counts and areas are 0 or more, and some class on the map has a unit")
    weights = np.where(sampled, areas, 0) / areas[sampled].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(units[:, None] > 0, counts / units[:, None], 0)  # (C, C) n_ij / n_i.
        variances = rates * (1 - rates) / (units[:, None] - 1)
        variances = np.where(rates * (1 - rates) == 0, np.where(units[:, None] == 1, np.nan, 0), variances)
        of_cells = np.where(sampled[:, None], weights[:, None] ** 2 * variances, 0)  # (C, C)
        shares = weights @ rates  # (C,) p_.k
        users = np.where(sampled, np.diag(rates), np.nan)
        producers = weights * np.diag(rates) / shares
        others = of_cells.sum(axis=0) - np.diag(of_cells)
        of_producers = ((1 - producers) ** 2 * np.diag(of_cells) + producers**2 * others) / shares**2
        return MapAccuracy(
            tuple(class_names),
            np.asarray(matrix, np.int64),
            weights,
            EstimatedValues(np.sum(weights * np.diag(rates)), Z * np.sqrt(np.sum(np.diag(of_cells)))),
            EstimatedValues(users, Z * np.sqrt(np.where(sampled, np.diag(variances), np.nan))),
            EstimatedValues(producers, Z * np.sqrt(of_producers)),
            EstimatedValues(shares, Z * np.sqrt(of_cells.sum(axis=0))),
            float(areas[sampled].sum()),
            tuple(name for name, area, has_sample in zip(class_names, areas, sampled) if area > 0 and not has_sample),
        )
