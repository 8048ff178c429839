"""How good a classifier is, and how sure one can be of it. All take logits (N, C) and labels, (N,) or (N, C)."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "classification": "ALIKE ClassRow LabelMistake Mistake best_setting class_weights classification_metrics "
        "confusion_matrix macro_auroc multilabel_metrics per_class_table row_weights "
        "top_label_mistakes top_mistakes val_score",
        "intervals": "Difference SIGNIFICANT class_intervals exact_interval paired_shares share_interval units_of",
        "numbers": "NumberGain NumberSums",
        "score_intervals": "auroc_interval",
        "retrieval": "Ranking image_text_rankings rankings retrieval_metrics",
        "significance": "CalibrationBin McNemar calibration_curve drawn_weights exchange_test intervals_of mcnemar "
        "p_words",
    },
)
