"""Training of towers and of small heads: batches, schedules, sources, settings, the loop."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "batches": "GlobalBatches epoch_batches",
        "class_offsets": "FOLDS cross_fitted_offsets",
        "class_scores": "PixelScores SCALES",
        "epoch_views": "EpochViews views_of_training",
        "layers": "TowerLayers is_projection",
        "log": "FILE",
        "lora": "PARAMS SHARES TOPS add_lora load_lora_state lora_state merge_lora",
        "parts": "Task Trained",
        "samples": "seed_of",
        "schedules": "by_epoch chained_cosine_rates cosine_rates dassl_learning_rates dassl_sgd held",
        "settings": "TrainingSettings warmup_steps",
        "small_heads": "Epoch dassl_epochs keep_best label_loss published_epochs train_epochs training_features",
        "sources": "ImageSource LabelledSource Remembered Source",
        "tower_adapter": "ClassTowerAdapter TowerAdapter digest",
        "tower_outputs": "image_features",
        "tower_passes": "MaskedWords draws_for image_outputs",
        "tower_settings": "DASSL identity_of labels_of losses_of score_by settings_of train_towers",
        "tower_weights": "BetweenWeights changed_tensors copy_of digest_of put_tensors",
        "views": "augmented_view strong_view",
    },
)
