"""vladapt: adapt a pretrained vision-language model to one image domain, from a handful of labels."""

from .core.lazy import lazy_exports

__version__ = "0.1.0"

HOMES = {
    "core.registry.build": "build_adapter build_loss load_adapter load_domain",
    "core.backbones.load": "load_backbone",
    "core.contracts": "Adapter Backbone Batch Domain DomainData Evaluated FeatureSet FitReport InputChannels Item "
    "Judgement Loss Metric Output Place Recipe Record RowLoss Task TextClassifier option "
    "Target Label Labels Boxes Mask Captions Identity",
    "core.errors": "VladaptError DataError ConfigError CapabilityError UnknownNameError",
    "core.features.files": "load_features",
    "core.features.store": "FeatureStore",
    "core.prompts.classifier": "build_classifier",
    "core.engine.export": "export",
    "core.engine.push": "push",
    "core.sharing": "mlflow",
    "core.engine.fit": "fit evaluate predict load_run",
    "core.engine.compare": "compare",
    "core.tasks.pretraining.pretrain": "pretrain PretrainPlan",
    "core.tasks.retrieval.scoring": "evaluate_retrieval",
    "core.training.settings": "TrainingSettings",
    "core.data.pairs.reading": "read_pairs",
}
"""Module -> the public names that it defines. `make index` writes `__init__.pyi` by it."""

__getattr__, __dir__ = lazy_exports(__name__, HOMES)
