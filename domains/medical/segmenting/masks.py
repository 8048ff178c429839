"""Dice, HD95 and surface Dice of structures in images, beside the scores that segmentation has anyway."""

from __future__ import annotations

import numpy as np

from ....core.contracts import DomainData, Evaluation, Item, MaskScorer
from ....core.runs import TableSection
from .labels import BACKGROUND
from .scores import HD95, CaseScores, case_intervals, case_scores, mean_scores

IGNORED = 255
TOLERANCE = 2.0
"""Pixels that surface Dice tolerates."""
IN_PIXELS = "hd95_px"
NOTE = (
    f"HD95 in pixels, by MONAI's definition; surface Dice within {TOLERANCE:g} pixels. A structure that is missed, or "
    "found where it is not, has Dice 0, surface Dice 0 and the diagonal of its image as HD95."
)


class MaskScores(MaskScorer):
    """Scores of the structures of some data, the background aside.

    Args:
        data: with the class names.
    """

    def __init__(self, data: DomainData):
        self.places = [place for place, name in enumerate(data.class_names) if name.lower() != BACKGROUND]
        self.names = [data.class_names[place] for place in self.places]
        self.cases: list[CaseScores] = []
        self.groups: list[str] = []

    def add(self, item: Item, truth: np.ndarray, found: np.ndarray) -> None:
        found = np.where(truth == IGNORED, IGNORED, found)
        values = [(place,) for place in self.places]
        self.cases.append(case_scores(truth, found, values, values, (1.0, 1.0), TOLERANCE))
        self.groups.append(item.group or item.id)

    def evaluation(self) -> Evaluation:
        metrics, (intervals, _) = (
            mean_scores(self.cases, self.names),
            case_intervals(self.cases, self.names, self.groups),
        )
        named = [
            {IN_PIXELS if name == HD95 else name: of for name, of in each.items()} for each in (metrics, intervals)
        ]
        table = np.stack([case.values for case in self.cases])  # (N, K, 3)
        rows = []
        for place, name in enumerate(self.names):
            known = table[np.isfinite(table[:, place, 0]), place]
            dice, distance, surface = known.mean(axis=0).tolist() if len(known) else (None, None, None)
            missed = sum(place in case.wrong for case in self.cases)
            rows.append([name, dice, None if distance is None else f"{distance:.2f}", surface, len(known), missed])
        header = ["Structure", "Dice ↑", "HD95, pixels ↓", "Surface Dice ↑", "Images", "Missed"]
        return Evaluation(named[0], [TableSection("Structure by structure", header, rows, NOTE)], intervals=named[1])
