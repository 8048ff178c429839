"""Training of towers and of small heads: batches, schedules, sources, settings, the loop."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "batches": "GlobalBatches epoch_batches",
        "class_offsets": "cross_fitted_offsets",
        "class_scores": "PixelScores SCALES",
        "epoch_views": "EpochViews views_of_training",
        "layers": "depth_of depths freeze_batch_norm freeze_towers is_projection parameter_groups set_trainable",
        "lora": "LowRank",
        "model": "checkpoint_blocks",
        "parts": "Task Trained",
        "samples": "seed_of",
        "schedules": "by_epoch cosine_rates dassl_learning_rates",
        "settings": "TrainingSettings warmup_steps",
        "small_heads": "Epoch dassl_epochs keep_best label_loss train_epochs training_features",
        "sources": "ImageSource LabelledSource Remembered Source",
        "tower_adapter": "ClassTowerAdapter TowerAdapter digest",
        "tower_outputs": "image_features",
        "tower_passes": "MaskedWords draws_for image_outputs text_tokens words_of",
        "tower_weights": "BetweenWeights copy_of put_tensors",
        "views": "View as_tensor strong_view",
    },
)
