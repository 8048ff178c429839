"""The nouns all parts share: Adapter, Backbone, Domain, FeatureSet, TextClassifier, Loss."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "adapter": "NEEDS Adapter FitReport require",
        "backbone": "CAPABILITIES Backbone Block normalized",
        "channels": "InputChannels",
        "domain": "SPLITS Decoded Domain DomainData Evaluation Finding Item Reading check_items",
        "features": "PRE_PROJECTION PROJECTED Batch FeatureSet TextClassifier",
        "images": "TrainingImages TrainingPlace",
        "judgement": "JudgedClassifier JudgedFit Judgement Place Record",
        "loss": "Loss RowLoss",
        "metric": "Metric",
        "options": "option",
        "recipe": "Recipe",
        "targets": "Boxes Captions Identity Label Labels Mask Target",
        "task": "Axes Contest FitResult Task Use",
        "outputs": "Output",
    },
)
