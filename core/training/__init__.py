"""Training of towers and of small heads: batches, schedules, sources, settings, the loop."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "batches": "GlobalBatches epoch_batches",
        "class_scores": "PixelScores",
        "epoch_views": "EpochViews views_of_training",
        "fields": "fields_of",
        "layers": "TowerLayers truncated_starts",
        "lora": "LowRank",
        "objective": "Objective build_objective",
        "parts": "Task Trained",
        "samples": "seed_of",
        "schedules": "by_epoch cosine_rates dassl_learning_rates",
        "settings": "TrainingSettings",
        "small_heads": "Epoch dassl_epochs keep_best label_loss train_epochs training_features",
        "sources": "ImageSource LabelledSource Remembered Source",
        "tower_adapter": "ClassTowerAdapter TowerAdapter",
        "teachers": "load_teachers need_teacher_texts side_by_side",
        "tower_outputs": "numbers_as",
        "tower_passes": "MaskedWords draws_for image_features",
        "tower_settings": "check_losses losses_of",
        "tower_weights": "BetweenWeights copy_of",
        "views": "augmented_view strong_view",
    },
)
