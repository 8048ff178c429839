"""The nouns all parts share: Adapter, Backbone, Domain, FeatureSet, TextClassifier, Loss, and the errors."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "adapter": "NEEDS Adapter Batch FitReport require",
        "backbone": "CAPABILITIES Backbone Block normalized",
        "domain": "SPLITS Decoded Domain DomainData Evaluation Item Reading check_items",
        "errors": "CapabilityError ConfigError DataError UnknownNameError VladaptError",
        "finding": "Finding",
        "features": "PRE_PROJECTION PROJECTED FeatureSet",
        "images": "TrainingImages TrainingPlace",
        "loss": "Loss",
        "metric": "Metric",
        "options": "option",
        "recipe": "Recipe",
        "targets": "Boxes Captions Identity Label Labels Mask Target",
        "task": "Axes Contest FitResult Task Use",
        "outputs": "Output",
        "text": "TextClassifier",
    },
)
