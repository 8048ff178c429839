"""Findings with degrees of certainty: present, absent, uncertain, or not mentioned in the report.

CheXpert (Irvin et al., 2019, arXiv 1901.07031) publishes labels of these four kinds and compares what to make of the
uncertain ones: ignore them (U-Ignore), call them absent (U-Zeros) or present (U-Ones).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ....core.data import Row
from ....core.errors import DataError, shortened
from ..targets import SoftFindings

UNCERTAIN, UNKNOWN = -1.0, float("nan")
WRITTEN = {
    **dict.fromkeys(("1", "1.0"), 1.0),
    **dict.fromkeys(("0", "0.0"), 0.0),
    **dict.fromkeys(("-1", "-1.0"), UNCERTAIN),
    **dict.fromkeys(("", "nan"), UNKNOWN),
}
"""How the tables write a finding."""
GLORIA = {"Atelectasis": 1.0, "Edema": 1.0, "Pleural Effusion": 1.0, "Cardiomegaly": 0.0, "Consolidation": 0.0}
"""The five of CheXpert's competition in GLoRIA (Huang et al., 2021, doi 10.1109/ICCV48922.2021.00391)."""
POLICIES: dict[str, Callable[[str], float]] = {
    "ignore": lambda finding: UNKNOWN,
    "positive": lambda finding: 1.0,
    "negative": lambda finding: 0.0,
    "soft": lambda finding: UNKNOWN,
    "gloria": lambda finding: GLORIA.get(finding, UNKNOWN),
}
"""What an uncertain finding counts as."""
SOFT = 0.7
"""What losses take for one by the policy "soft". Pham et al., 2019 (arXiv 1911.06475) draw each from 0.55..0.85: binary
cross-entropy is linear in its target, so the mean of the draw gives the same loss on average, and nothing is random.
Scores, and methods without such a loss, leave these findings out."""
BLANKS = {"unknown": UNKNOWN, "negative": 0.0}
"""What a finding counts as that is not mentioned."""
LEAST_SHARE = {"any": 0.0, "majority": 0.5}
"""A finding that several readers sought is present where more than this share of them saw it."""


def written_findings(rows: Sequence[Row], findings: Sequence[str]) -> np.ndarray:
    """(N, C) 1, 0, `UNCERTAIN`, and NaN where a finding is not mentioned.

    Raises:
        DataError: a cell holds something else.
    """
    return np.array([[_written(row, name) for name in findings] for row in rows]).reshape(-1, len(findings))


def settled(
    written: np.ndarray, findings: Sequence[str], healthy: np.ndarray, reading: Any, untouched: Collection[str] = ()
) -> tuple[list[SoftFindings], list[str]]:
    """N findings of images, and a sentence that says how many of each kind a rule changed.

    An image of "No Finding" has none of the others, whatever stands there, as torchxrayvision reads these sets.

    Args:
        written: (N, C), as `written_findings` gives them.
        findings: C names.
        healthy: (N,) bool, whether "No Finding" is present.
        reading: with `uncertain`, one of `POLICIES`, and `blank`, one of `BLANKS`.
        untouched: findings that "No Finding" says nothing of.
    """
    values = written.copy()
    denied = healthy[:, None] & np.array([name not in untouched for name in findings])  # (N, C)
    changed = int((denied & (values != 0)).sum())
    values[denied] = 0.0
    uncertain, blank = values == UNCERTAIN, np.isnan(values)
    values = np.where(uncertain, list(map(POLICIES[reading.uncertain], findings)), values)
    values[blank] = BLANKS[reading.blank]
    notes = [
        f"Uncertain findings: {int(uncertain.sum())}, read as {reading.uncertain} (--uncertain); not mentioned: "
        f"{int(blank.sum())}, read as {reading.blank} (--blank); made negative by 'No Finding': {changed}."
    ]
    if reading.uncertain != "soft":
        return [SoftFindings(tuple(each)) for each in values.tolist()], notes
    smoothed = np.where(uncertain, SOFT, values).tolist()
    return [SoftFindings(tuple(each), smoothed=tuple(soft)) for each, soft in zip(values.tolist(), smoothed)], notes


def _written(row: Row, finding: str) -> float:
    text = row.text(finding).lower()
    if text not in WRITTEN:
        raise DataError(f"{row.place}: '{shortened(text)}' in column '{finding}'; give 1, 0, -1 or nothing")
    return WRITTEN[text]
