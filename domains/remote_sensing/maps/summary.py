"""What a map says, class by class: as facts for scripts, columns for a table, JSON, and rows of an error matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.contracts import OwnFiles
from ....core.data import csv_text
from ....core.runtime import json_text
from .accuracy import EstimatedValues, MapAccuracy
from .rasters import Tally

ESTIMATES = ("users_accuracy", "producers_accuracy", "estimated_share")
METHOD = "Olofsson et al. 2014, doi 10.1016/j.rse.2014.02.015; rows of the matrix are the map's classes"


def class_facts(
    raster: str, names: Sequence[str], tally: Tally, in_metres: bool, assessed: bool, accuracy: MapAccuracy | None
) -> list[dict[str, Any]]:
    """A dict per class.

    Args:
        assessed: whether there is a reference: facts then have what it estimates, None where that cannot be told.
        accuracy: by the reference; None where it says nothing of this map.
    """
    total = tally.areas.sum()
    facts = []
    for index, name in enumerate(names):
        fact = {
            "raster": raster,
            "class": name,
            "pixels": int(tally.pixels[index]),
            "area_m2": float(tally.areas[index]) if in_metres else None,
            "share": float(tally.areas[index] / total),
            "score": _number(tally.scores[index]),
        }
        of_classes = {} if accuracy is None else _of_classes(accuracy)
        for key in ESTIMATES if assessed else ():
            estimate = of_classes.get(key)
            fact[key] = None if estimate is None else _number(estimate.value[index])
            fact[f"{key}_half_width"] = None if estimate is None else _number(estimate.half_width[index])
        facts.append(fact)
    return facts


def summary_columns(several: bool, in_metres: bool, assessed: bool) -> dict[str, str]:
    """Title -> format of a fact.

    Args:
        several: rasters; in_metres: whether areas are; assessed: whether there is a reference.
    """
    columns = {"raster": "{raster}"} if several else {}
    columns |= {"class": "{class}"} | ({"area (m²)": "{area_m2:,.0f}"} if in_metres else {"pixels": "{pixels:,}"})
    columns |= {"share": "{share:.1%}", "score": "{score:.1%}"}
    if assessed:
        columns |= {
            "user's": "{users_accuracy:.1%}",
            "producer's": "{producers_accuracy:.1%}",
            "share by reference": "{estimated_share:.1%} ± {estimated_share_half_width:.1%}",
        }
    return columns


def as_json(accuracy: MapAccuracy) -> dict[str, Any]:
    """All of an accuracy, JSON-able."""
    estimates = {"overall_accuracy": accuracy.overall, **_of_classes(accuracy)}
    area = EstimatedValues(accuracy.shares.value * accuracy.area, accuracy.shares.half_width * accuracy.area)
    return {
        "method": METHOD,
        "classes": list(accuracy.class_names),
        "error_matrix": accuracy.matrix.tolist(),
        "map_share": _listed(accuracy.weights),
        **{
            name: {"value": _listed(each.value), "half_width_95": _listed(each.half_width)}
            for name, each in {**estimates, "estimated_area": area}.items()
        },
        "unsampled": list(accuracy.unsampled),
    }


def matrix_of(accuracy: MapAccuracy | None) -> list[list[str]]:
    """Header and rows of the error matrix as texts, with user's and producer's accuracy; none without an accuracy."""
    if accuracy is None:
        return []
    users, producers = (
        [with_half(*pair) for pair in zip(each.value, each.half_width)] for each in (accuracy.users, accuracy.producers)
    )
    rows = [
        [name, *(f"{count:,}" for count in counts), of_user]
        for name, counts, of_user in zip(accuracy.class_names, accuracy.matrix.tolist(), users)
    ]
    overall = with_half(accuracy.overall.value, accuracy.overall.half_width)
    return [["", *accuracy.class_names, "User's accuracy"], *rows, ["Producer's accuracy", *producers, overall]]


def with_half(value: float, half: float) -> str:
    """ "94.6% ± 1.8"."""
    if not math.isfinite(value):
        return ""
    return f"{value:.1%}" + (f" ± {100 * half:.1f}" if math.isfinite(half) else "")


def rows_as_text(written: OwnFiles, suffix: str) -> str:
    """All facts, as ".csv" or ".jsonl"."""
    if suffix == ".jsonl":
        return "".join(json_text(fact) + "\n" for fact in written.facts)
    return csv_text(list(written.facts[0]), (list(fact.values()) for fact in written.facts))


def _of_classes(accuracy: MapAccuracy) -> dict[str, EstimatedValues]:
    return dict(zip(ESTIMATES, (accuracy.users, accuracy.producers, accuracy.shares)))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _listed(values: np.ndarray) -> Any:
    return [_number(value) for value in values] if np.ndim(values) else _number(float(values))
