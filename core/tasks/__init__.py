"""What is fitted and judged, a folder per task, and what tasks share: methods by name, tower training, configs."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "classification.prepared": "Prepared",
        "classification.stored_run": "recipe_again",
        "classification.task": "Classification",
        "config_training.task": "ConfigTask",
        "config_training.kept_plan": "check_run with_tuples",
        "config_training.registered": "registered_only running",
        "config_training.runner": "build_model load_model named_faults quiet train_plan",
        "retrieval.encoding": "PairEncoding image_rows",
        "retrieval.fitting": "RetrievalData train_on_pairs",
        "retrieval.report": "training_curves",
        "retrieval.scoring": "DomainPairs pairs_of",
        "retrieval.tables": "score_table",
        "retrieval.task": "Retrieval",
        "tower_training.fitted": "FittedTowers Training ZERO_SHOT towers_of",
        "tower_training.task": "TowerContest TowerTraining",
    },
)
