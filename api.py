"""What scripts and plug-ins may rely on: all names of `vladapt`, and what a method, a loss, a domain, a task or a
judgement of one's own is made of. docs/api.md has a line and an example for each; `vladapt.testing` checks a plug-in.

A name is imported when it is first used: `import vladapt.api` is free of torch.
"""

from __future__ import annotations

import warnings
from typing import Any

from .core.lazy import lazy_exports

SECTIONS: dict[str, dict[str, str]] = {
    "contracts": {
        "core.contracts": "Adapter has ClassWeighting Ties RandomCrops StoredViews TrainingViews FitReport "
        "require FeatureSet TextClassifier Batch Loss RowLoss Output Metric Selector Pool Backbone InputChannels "
        "TrainingImages TrainingPlace Detection",
    },
    "options and errors": {
        "core.contracts": "option settle Recipe",
        "core.errors": "VladaptError DataError ConfigError CapabilityError UnknownNameError LimitError did_you_mean",
    },
    "data": {
        "core.contracts": "Domain DomainData Item Target Label Labels Boxes Mask Captions Identity Reading check_items "
        "Curator Survey Decision BenchSet BenchScore BenchTowers",
        "core.data.images": "IMAGE",
        "core.data": "read_any images_of readable walk loader decode_image read_table group_rows "
        "ItemCollector FileHashes selection_split read_pairs",
        "core.engine.shard_jobs": "run_stage",
    },
    "backbones and prompts": {
        "core.backbones": "load_backbone save_fine_tuned",
        "core.features.files": "load_features",
        "core.features.store": "FeatureStore",
        "core.prompts": "build_classifier fill check_templates PromptLearner",
    },
    "training": {
        "core.training": "TrainingSettings TowerAdapter train_epochs training_features label_loss "
        "epoch_batches cosine_rates copy_of image_features",
        "core.tasks.pretraining.pretrain": "pretrain PretrainPlan",
    },
    "metrics": {
        "core.metrics": "classification_metrics multilabel_metrics retrieval_metrics per_class_table "
        "auroc_interval mcnemar val_score best_setting",
        "core.tasks.retrieval.scoring": "evaluate_retrieval",
    },
    "tasks and judgements": {
        "core.engine.fit": "fit evaluate predict load_run",
        "core.engine.compare": "compare",
        "core.engine.bench": "bench",
        "core.engine.export": "export",
        "core.engine.push": "push",
        "core.engine.search": "search",
        "core.sharing": "mlflow",
        "core.registry": "build_adapter build_loss load_adapter load_domain",
        "core.contracts": "Task FitResult Use Axes Contest Evaluated",
        "core.contracts.judgement": "Judgement JudgedClassifier JudgedPredictions Record Place",
        "core.contracts.output_kind": "OutputKind",
        "core.tasks": "Classification Retrieval ConfigTask recipe_again",
        "core.recipes.asked_for": "read_data split_samples readable_samples place_of_data",
    },
    "reports": {
        "core.runs": "Run Report write_report TableSection ListSection CurveSection HeadlineSection Measure Number",
        "core.tasks.config_training.report": "summaries_table scores_table",
        "core.tasks.retrieval.tables": "retrieval_table",
        "core.runtime": "Reporter write_whole",
    },
}
"""Section -> module of the package -> the names that it defines."""

HOMES: dict[str, str] = {}
for _homes in SECTIONS.values():
    for _module, _names in _homes.items():
        HOMES[_module] = f"{HOMES.get(_module, '')} {_names}".strip()

OLDER = {
    "core.contracts": "whole_number",
    "core.data": "decodable",
    "core.metrics": "class_weights exchange_test share_interval",
    "core.prompts.classifier": "spoken",
    "core.runs.folder": "now versions",
    "core.training": "by_epoch",
}
"""What was public before; plug-ins that use it work for two more releases, and warn."""

OLD_BASES = {
    "core.contracts.old_bases": "ByExample ClassWeighted FreshViews PooledViews Searched",
    "core.training": "ClassTowerAdapter",
}
"""Bases of methods that are parts now; whoever derives from one for two more releases is warned."""

_public, __dir__ = lazy_exports(__package__, HOMES)
_older, _ = lazy_exports(__package__, OLDER)
_old_bases, _ = lazy_exports(__package__, OLD_BASES)


def __getattr__(name: str) -> Any:
    if name in " ".join(OLDER.values()).split():
        words = f"vladapt.api.{name} is not public any more; have a copy of your own"
        warnings.warn(words, DeprecationWarning, stacklevel=2)
        return _older(name)
    return _old_bases(name) if name in " ".join(OLD_BASES.values()).split() else _public(name)
