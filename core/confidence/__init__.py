"""How sure a classifier may say it is: calibrated confidences, sets of classes, answers left open, unlike images."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "calibration": "CALIBRATION Calibration",
        "conformal": "Conformal SET_METHODS conformal_scores fewest_rows threshold",
        "label_sets": "LabelSets label_set_metrics raked",
        "scaling": "Scaling calibration_error",
        "selective": "Abstention answer_threshold error_bound",
        "unlike": "Unlike distances",
        "without_labels": "Evidence",
    },
)
