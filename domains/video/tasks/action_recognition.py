"""Action recognition: a classification whose report has the measures of papers on actions."""

from __future__ import annotations

from typing import Any

from ....core.contracts import PreparedData, Scores
from ....core.runs import Measure, TableSection
from ....core.tasks import Classification
from ..metrics.top_five import KEY

OF_ONE_LABEL = {
    "accuracy": Measure("Top-1"),
    KEY: Measure("Top-5"),
    "balanced_accuracy": Measure("Mean class accuracy"),
}
OF_SEVERAL = {"mean_average_precision": Measure("mAP")}
WORDS_OF_ONE = (
    "Elsewhere on this page top-1 is called accuracy, and mean class accuracy is called balanced accuracy. With five "
    "classes or fewer top-5 says nothing and is left out."
)
WORDS_OF_SEVERAL = (
    "The mean over actions of average precision, as for Charades; actions present in all or none of the test clips "
    "are left out."
)


class ActionRecognition(Classification):
    """Actions of clips, one or several per clip, by all methods of classification."""

    name = "action-recognition"

    def further_sections(self, prepared: PreparedData, scores: Scores) -> list[Any]:
        """Top-1, top-5 and the mean over classes; mAP where clips have several labels."""
        if scores.labels is None:
            return []
        several = scores.labels.ndim == 2
        before, after = scores.zero_shot, scores.adapted
        rows = []
        for key, measure in (OF_SEVERAL if several else OF_ONE_LABEL).items():
            if after.get(key) is None:
                continue
            compared = () if before is None else (measure.text(before[key]), measure.change(before[key], after[key]))
            rows.append((measure.name, measure.text(after[key]), *compared))
        header = ("Score", "Adapted", *(() if before is None else ("Zero-shot", "Change")))
        note = WORDS_OF_SEVERAL if several else WORDS_OF_ONE
        return [TableSection("Measures used in papers on actions", header, rows, note)] if rows else []
