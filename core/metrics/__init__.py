"""How good a classifier is, and how sure one can be of it. All take logits (N, C) and labels, (N,) or (N, C)."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "classification": "ClassRow LabelMistake Mistake classification_metrics confusion_matrix multilabel_metrics "
        "per_class_table top_label_mistakes top_mistakes",
        "retrieval": "Ranking image_text_rankings rankings retrieval_metrics retrieval_metrics_by_label",
        "resampling": "exchange_test metric_draws",
        "significance": "CalibrationBin McNemar bootstrap_interval calibration_curve intervals_of mcnemar "
        "mean_interval share_interval wilson_interval",
    },
)
