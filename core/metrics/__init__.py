"""How good a classifier is, and how sure one can be of it. All take logits (N, C) and labels, (N,) or (N, C)."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "classification": "ClassRow LabelMistake Mistake classification_metrics confusion_matrix multilabel_metrics "
        "per_class_table top_label_mistakes top_mistakes",
        "intervals": "Difference SIGNIFICANT class_intervals mean_interval paired_shares share_interval units_of "
        "wilson_interval",
        "score_intervals": "auroc_interval",
        "retrieval": "Ranking image_text_rankings rankings retrieval_metrics",
        "selection": "ALIKE best_setting class_weights log_priors macro_auroc row_weights val_score",
        "significance": "CalibrationBin McNemar calibration_curve drawn_weights exchange_test intervals_of mcnemar "
        "p_words percentiles",
    },
)
