"""How sure a classifier may say it is: calibrated confidences, sets of classes, answers left open, unlike images."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "calibration": "CALIBRATION Calibration Scaling calibration_error",
        "conformal": "Conformal LabelSets SET_METHODS conformal_scores coverage_range fewest_rows held_by_class "
        "label_set_metrics raked threshold",
        "number_intervals": "NumberIntervals",
        "patients": "Pooling",
        "selective": "Abstention Unlike answer_threshold distances error_bound",
        "without_labels": "Evidence",
    },
)
