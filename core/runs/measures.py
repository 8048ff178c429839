"""How the scores of a classification are written, and which of them decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .sections import Measure

AT_HALF = "_at_half"
"""After the names of metrics of several labels that are answered from a probability of 0.5 on."""
MEASURES = {
    "accuracy": Measure("Accuracy", "share of test images classified correctly"),
    "top_5_accuracy": Measure("Top-5 accuracy", "share whose class is among the five with the highest scores"),
    "balanced_accuracy": Measure("Balanced accuracy", "the same, with every class counted alike"),
    "macro_f1": Measure("Macro F1", "balance of recall and precision, mean over classes; 1 is best", "number"),
    "auroc": Measure(
        "AUROC", "chance that an image with the class scores above one without it; 0.5 is guessing", "number"
    ),
    "mean_average_precision": Measure("Mean average precision", "over all thresholds, mean over labels", "number"),
    "macro_f1_at_half": Measure("Macro F1 at 0.5", "the same, with a threshold of 0.5 on raw probabilities", "number"),
    "accuracy_at_half": Measure(
        "Accuracy at 0.5", "share of known labels that are right, with a threshold of 0.5 on raw probabilities"
    ),
    "ece": Measure("Calibration error", "mean gap between confidence and accuracy; 0 is best", "number", falls=True),
    "ece_uncalibrated": Measure(
        "Calibration error, raw", "the same, for confidences before calibration", "number", falls=True
    ),
}


def deciding_of(metrics: Mapping[str, Any]) -> str:
    """The metric that decides; older files do not say."""
    several = any(key.startswith("auroc/") for key in metrics.get("adapted") or {})
    return metrics.get("deciding") or ("auroc" if several else "accuracy")


def points(measure: Measure, difference: float, unit: bool = True) -> str:
    """A difference, of shares in points."""
    text = measure.change(0.0, difference).text
    return f"{text} points" if unit and measure.kind == "share" else text
