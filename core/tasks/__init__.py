"""What is fitted and judged, a folder per task, and what tasks share: methods by name, tower training, configs."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "classification.stored_run": "recipe_again",
        "classification.task": "Classification",
        "config_training.kept_model": "KeptModel",
        "config_training.runner": "build_model named_faults quiet_mm",
        "config_training.base": "ConfigTask",
        "config_training.serving": "Finder",
        "retrieval.encoding": "PairEncoding",
        "retrieval.fitting": "RetrievalData",
        "grounding.base": "Grounding GroundingComparison",
        "retrieval.scoring": "DomainPairs",
        "retrieval.task": "Retrieval",
        "tower_training.comparison": "ExchangeComparison",
        "tower_training.fitted": "FittedTowers Training",
        "tower_training.base": "TowerTraining",
    },
)
